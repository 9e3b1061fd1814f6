"""From a picture to an answer by every runtime: a bundle is read, its engine chosen, its picture prepared."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from unit import dense_models

from edge_gateway.models import Models
from edge_gateway.settings import ModelSettings

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "models"
LABELS = [f"is-{number}" for number in range(5)]


def models(folder: Path, file: str, content: bytes, wanted: str, labels: list[str]) -> Models:
    """Return the models of a gateway with one bundle, whose scores are logits."""
    (folder / file).write_bytes(content)
    manifest = f"""
name: dense
version: 1
file: {file}
sha256: {hashlib.sha256(content).hexdigest()}
input: {wanted}
output: {{activation: logits}}
labels: [{", ".join(labels)}]
licence: Apache-2.0
"""
    (folder / "manifest.yaml").write_text(manifest)
    return Models([ModelSettings(bundle=folder)], 1_000_000)


@pytest.mark.parametrize(
    ("file", "content", "layout"),
    [
        ("dense.npz", dense_models.npz, "NHWC"),
        ("dense.tflite", dense_models.tflite, "NHWC"),
        ("dense.onnx", dense_models.onnx, "NCHW"),
    ],
)
def test_a_picture_is_answered_as_the_numbers_say(
    tmp_path: Path, file: str, content: Callable[[], bytes], layout: str
) -> None:
    """One mean and std for each colour; the picture has the model's size, so that each pixel counts as it is."""
    height, width = (3, 2) if layout == "NHWC" else (2, 3)
    wanted = f"{{width: {width}, height: {height}, layout: {layout}, mean: [10, 20, 30], std: [50, 60, 70]}}"
    serving = models(tmp_path, file, content(), wanted, LABELS)
    for seed in range(5):
        rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
        outcome = serving.infer(cv2.imencode(".png", rgb[..., ::-1])[1].tobytes(), [0])
        real = ((rgb - np.array([10, 20, 30])) / np.array([50, 60, 70])).astype(np.float32)
        logits = dense_models.expected(real if layout == "NHWC" else real.transpose(2, 0, 1))[0]
        scores = np.exp(logits) / np.exp(logits).sum()
        ((prediction, _, _),) = outcome.predictions
        assert (prediction.model, prediction.label) == ("dense@1", LABELS[int(scores.argmax())])
        assert prediction.score == pytest.approx(scores.max(), abs=1e-4)


def test_the_real_digits_model_reads_drawn_digits(tmp_path: Path) -> None:
    if not DATA.is_dir():
        pytest.skip("no real models at ../shared/data")
    wanted = "{width: 28, height: 28, layout: NCHW, color: GRAY, mean: 0, std: 1}"
    content = (DATA / "mnist.onnx").read_bytes()
    serving = models(tmp_path, "mnist.onnx", content, wanted, [f"digit-{digit}" for digit in range(10)])
    assert [plan.reason for plan in serving.plans] == [
        "the bundle holds mnist.onnx, and ONNX Runtime works here with CPU"
    ]
    read = []
    for digit in range(10):
        picture = np.zeros((28, 28, 3), np.uint8)
        cv2.putText(picture, str(digit), (5, 23), cv2.FONT_HERSHEY_SIMPLEX, 0.85, (255, 255, 255), 2, cv2.LINE_AA)
        ((prediction, _, _),) = serving.infer(cv2.imencode(".png", picture)[1].tobytes(), [0]).predictions
        read.append(prediction.label == f"digit-{digit}")
    assert sum(read) >= 8


def test_outputs_that_shrink_with_a_picture_until_nothing_is_read_of_them_are_a_failure_of_the_engine(
    tmp_path: Path,
) -> None:
    """Else each such picture would end the gateway, and come again after its start."""
    wanted = "{width: 3, height: 2, layout: NCHW, mean: 0, std: 1}"
    labels = [f"at-{place}" for place in range(4 * 18)]
    serving = models(tmp_path, "zeros.onnx", dense_models.onnx_of_zeros(), wanted, labels)
    black, white = (cv2.imencode(".png", np.full((2, 3, 3), shade, np.uint8))[1].tobytes() for shade in (0, 255))
    assert serving.infer(black, [0]).malformed is None
    said = serving.infer(white, [0]).malformed
    assert said is not None
    assert said.startswith("inference failed: model dense@1: gave (4, 0), which nothing can be read of: ")
