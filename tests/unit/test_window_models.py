"""Models that take windows of readings, loaded from bundles: what they answer, and that pictures are none of theirs."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_gateway.bundle import load_bundle
from edge_gateway.engines.engine import EngineFailed
from edge_gateway.hot_swap import SwapRefused, swap
from edge_gateway.models import Models
from edge_gateway.settings import ModelSettings
from edge_gateway.swaps import Swaps
from millrace.settings import ConfigError

WINDOW = "{kind: window, values: 2, samples: 3, hop: 1}"
PICTURE = "{width: 3, height: 2, color: GRAY}"
WEIGHTS = np.array([[1.0, -1.0]] * 6)
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that makes a bundle: a window of six numbers has their sum, and what it lacks to zero."""

    def write(
        version: int = 1,
        input: str = WINDOW,  # noqa: A002  (as the manifest has it)
        task: str = "classification",
        more: str = "",
        weights: np.ndarray = WEIGHTS,
        shape: tuple[int, ...] = (1, 3, 2),
    ) -> Path:
        file, folder = io.BytesIO(), tmp_path / f"odd-{version}"
        np.savez(file, shape=np.array(shape), weights=weights, bias=np.zeros(weights.shape[1]))
        folder.mkdir()
        (folder / "model.npz").write_bytes(file.getvalue())
        (folder / "manifest.yaml").write_text(
            f"name: odd\nversion: {version}\ntask: {task}\nfile: model.npz\ninput: {input}\n{more}\n"
            f"sha256: {hashlib.sha256(file.getvalue()).hexdigest()}\n"
            "labels: [high, low]\nok_labels: [low]\nlicence: MIT\n"
        )
        return folder

    return write


def models(*folders: Path) -> Models:
    return Models([ModelSettings(bundle=folder) for folder in folders], 1_000_000)


def test_a_window_is_classified_as_a_picture_is(make: Make) -> None:
    asked = models(make(more="output: {activation: logits}"))
    for value, label in [(1.0, "high"), (-1.0, "low")]:
        ((prediction, threshold, infer_ms),) = asked.infer(np.full((3, 2), value), [0]).predictions
        assert (prediction.label, prediction.defect, threshold) == (label, label == "high", 0.5)
        assert prediction.score > 0.99
        assert infer_ms is not None


def test_one_number_is_below_the_limit_or_reaches_it(make: Make) -> None:
    asked = models(make(task="score", more="output: {limit: 6}", weights=WEIGHTS[:, :1]))
    answers = [asked.infer(np.full((3, 2), value), [0]).predictions[0][0] for value in (0.99, 1.0)]
    assert [(answer.label, answer.score, answer.value) for answer in answers] == [
        ("high", 1.0, pytest.approx(5.94)),
        ("low", 1.0, 6.0),
    ]


def test_a_model_of_several_numbers_has_no_single_one(make: Make) -> None:
    with pytest.raises(EngineFailed, match=r"odd@1: gives 2 numbers, and task: score takes one"):
        models(make(task="score"))


def test_frames_go_to_the_models_for_pictures_alone(make: Make) -> None:
    both = models(make(), make(2, PICTURE, shape=(1, 2, 3, 1)))
    assert both.serving("cam-1", "top") == [1]
    assert {place: wanted.samples for place, wanted in both.windows().items()} == {0: 3}
    assert both.infer(b"\xff\xd8", [0]).malformed == "model odd@1 takes a window, and was given something else"
    assert both.infer(np.zeros((3, 2)), [1]).malformed == "model odd@2 takes a picture, and was given something else"


def test_pictures_are_not_asked_of_a_model_for_windows(make: Make) -> None:
    with pytest.raises(ConfigError, match="model odd: takes windows of readings, and here pictures are given"):
        _ = load_bundle(make()).manifest.picture


@pytest.mark.parametrize(
    ("input_", "said"),
    [
        (
            WINDOW.replace("hop: 1", "hop: 2"),
            r"takes windows \(.* hop: 2, .*\), and odd@1 windows \(.* hop: 1",
        ),
        (PICTURE, r"takes pictures, and odd@1 windows"),
    ],
)
def test_another_version_has_to_take_the_same_windows(make: Make, tmp_path: Path, input_: str, said: str) -> None:
    serving = models(make())
    with pytest.raises(SwapRefused, match=said + ".*; odd@1 serves on"):
        swap(serving, 0, make(2, input_), Swaps(tmp_path))


def test_another_version_that_takes_the_same_windows_takes_over(make: Make, tmp_path: Path) -> None:
    serving = models(make())
    assert swap(serving, 0, make(2), Swaps(tmp_path)) == "odd@2"
    assert serving.infer(np.ones((3, 2)), [0]).predictions[0][0].model == "odd@2"
