"""From output to answer: the right label, a score of 0 to 1, and no answer from numbers that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.bundle import Bundle, Manifest
from edge_gateway.engines.engine import EngineFailed, TensorInfo
from edge_gateway.prediction import Classifier, Prediction, check_outputs, classify

LABELS = ("ok", "scratch", "stain")
PLAIN = TensorInfo((1, 3), np.dtype(np.float32), 0.0, 0)


def bundle(activation: str = "softmax") -> Bundle:
    manifest = Manifest.model_validate(
        {
            "name": "parts",
            "version": 1,
            "sha256": "0" * 64,
            "input": {"width": 8, "height": 8},
            "output": {"activation": activation},
            "labels": list(LABELS),
            "ok_labels": ["ok"],
            "licence": "none",
        }
    )
    return Bundle(Path(), manifest, b"", LABELS)


def floats(*values: float) -> Any:
    return np.array([values], np.float32)


@pytest.mark.parametrize(
    ("scores", "label", "defect"), [((0.9, 0.1, 0), "ok", False), ((0.1, 0.2, 0.7), "stain", True)]
)
def test_the_highest_score_names_the_label(scores: tuple[float, ...], label: str, defect: bool) -> None:
    found = classify(bundle(), PLAIN, floats(*scores))
    assert found == Prediction("parts@1", label, pytest.approx(max(scores)), defect)


@pytest.mark.parametrize(
    ("dtype", "scale", "zero_point", "raw", "score"),
    [(np.uint8, 1 / 256, 0, [0, 192, 64], 0.75), (np.int8, 1 / 256, -128, [-128, 64, -64], 0.75)],
)
def test_quantized_scores_are_real_numbers_again(
    dtype: type, scale: float, zero_point: int, raw: list[int], score: float
) -> None:
    info = TensorInfo((1, 3), np.dtype(dtype), scale, zero_point)
    found = classify(bundle(), info, np.array([raw], dtype))
    assert (found.label, found.score) == ("scratch", pytest.approx(score))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("activation", ["softmax", "logits"])
def test_integers_that_stand_for_nothing_known_are_no_scores(scale: float, activation: str) -> None:
    """As a runtime shows an output with a scale for each channel, and any quantized output of ONNX."""
    info = TensorInfo((1, 3), np.dtype(np.uint8), scale, 0, "scores")
    with pytest.raises(
        EngineFailed, match=r"parts@1: output scores is uint8 without one scale for all of it, .* float"
    ):
        Classifier(bundle(activation), [info])


def test_logits_become_scores() -> None:
    found = classify(bundle("logits"), PLAIN, floats(1.0, 3.0, 1.0))
    assert found.score == pytest.approx(np.exp(2) / (np.exp(2) + 2))
    assert classify(bundle("logits"), PLAIN, floats(0, 1e4, 0)).score == 1.0


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("activation", ["softmax", "logits"])
def test_scores_that_are_no_numbers_are_a_failure_of_the_engine(wrong: float, activation: str) -> None:
    with pytest.raises(EngineFailed, match="parts@1: gave outputs that are no numbers"):
        classify(bundle(activation), PLAIN, floats(0.2, wrong, 0.1))


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3), st.sampled_from(["softmax", "logits"]))
def test_a_score_is_always_between_0_and_1(scores: list[float], activation: str) -> None:
    found = classify(bundle(activation), PLAIN, floats(*scores))
    assert 0 <= found.score <= 1
    assert scores[LABELS.index(found.label)] == pytest.approx(max(scores))


@pytest.mark.parametrize("shape", [(1, 2), (1, 4), (1, 1, 1, 1001)])
def test_a_model_with_another_number_of_outputs_than_labels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(EngineFailed, match=rf"has {shape[-1]} outputs and 3 labels"):
        check_outputs(bundle(), [TensorInfo(shape, np.dtype(np.float32), 0.0, 0)])


def test_outputs_may_lie_in_any_shape() -> None:
    check_outputs(bundle(), [TensorInfo((1, 1, 1, 3), np.dtype(np.float32), 0.0, 0)])
    assert classify(bundle(), PLAIN, floats(0.1, 0.8, 0.1).reshape(1, 1, 1, 3)).label == "scratch"
