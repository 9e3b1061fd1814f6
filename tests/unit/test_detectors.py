"""Whole detectors from a picture's bytes to a result: the runtime's own SSD operator, and two real ONNX models."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from edge_gateway.models import Models
from edge_gateway.prediction import Detection, Prediction
from edge_gateway.settings import ModelSettings

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
MODELS, IMAGES = DATA / "models", DATA / "images"


def detector(folder: Path, model: bytes, file: str, **manifest: Any) -> Models:
    """Return one detector, made as the gateway makes it, on channel http/predict."""
    folder.mkdir(exist_ok=True)
    (folder / file).write_bytes(model)
    base = {"name": "found", "version": 1, "task": "detection", "file": file, "licence": "none"}
    text = yaml.safe_dump({**base, "sha256": hashlib.sha256(model).hexdigest(), **manifest})
    (folder / "manifest.yaml").write_text(text, encoding="utf-8")
    return Models([ModelSettings(bundle=folder)], max_pixels=10**7)


def answer(models: Models, picture: Any, suffix: str = ".png") -> Prediction:
    """Return what it says of BGR pixels."""
    outcome = models.infer(cv2.imencode(suffix, picture)[1].tobytes(), [0])
    assert outcome.malformed is None
    ((prediction, _, _),) = outcome.predictions
    return prediction


def overlap(one: Detection, x: float, y: float, width: float, height: float) -> float:
    """Return what a detection and a box drawn by hand share of what both cover."""
    shared_width = min(one.x + one.width, x + width) - max(one.x, x)
    shared_height = min(one.y + one.height, y + height) - max(one.y, y)
    shared = max(0.0, shared_width) * max(0.0, shared_height)
    return shared / (one.width * one.height + width * height - shared)


# --- TFLite_Detection_PostProcess, as LiteRT runs it


@pytest.fixture(scope="module")
def ssd(tmp_path_factory: pytest.TempPathFactory) -> Models:
    pytest.importorskip("ai_edge_litert", reason="the model is made with LiteRT's own schema")
    from unit.ssd_model import LABELS, ssd_model

    wanted = {"width": 8, "height": 8, "resize": "center_crop"}
    return detector(
        tmp_path_factory.mktemp("ssd"),
        ssd_model(8),
        "model.tflite",
        input=wanted,
        output={"style": "ssd"},
        labels=list(LABELS),
        ok_labels=["green", "nothing"],
    )


def test_an_ssd_tells_what_is_where_in_the_whole_of_a_picture_whose_middle_it_sees(ssd: Models) -> None:
    picture = np.zeros((8, 16, 3), np.uint8)  # the model sees columns 4 to 11
    picture[2, 6] = (0, 230, 0)
    picture[5, 11] = (178, 0, 0)
    picture[0, 0] = (255, 0, 0)
    found = answer(ssd, picture)
    assert (found.label, found.score, found.defect) == ("green", pytest.approx(230 / 255), True)
    assert found.detections == (
        Detection("green", pytest.approx(230 / 255), 0.375, 0.25, 0.0625, 0.125),
        Detection("blue", pytest.approx(178 / 255), 0.6875, 0.625, 0.0625, 0.125),
    )


def test_an_ssd_that_finds_nothing_shows_nothing_of_the_picture_before(ssd: Models) -> None:
    """The operator leaves the last picture's boxes and scores behind its count of 0."""
    green = np.full((8, 8, 3), (0, 255, 0), np.uint8)
    assert len(answer(ssd, green).detections or ()) == 4
    assert answer(ssd, np.zeros((8, 8, 3), np.uint8)) == Prediction("found@1", "nothing", 1.0, False, ())


# --- real models, real pictures


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The face detector RFB-320: scores (1, 4420, 2) with the background first, boxes (1, 4420, 4)."""
    if not MODELS.is_dir():
        pytest.skip("no real models at ../shared/data")
    model = (MODELS / "version-RFB-320.onnx").read_bytes()
    return detector(
        tmp_path_factory.mktemp("faces"),
        model,
        "version-RFB-320.onnx",
        input={"width": 320, "height": 240, "layout": "NCHW", "mean": 127, "std": 128},
        output={"style": "boxes_scores", "score_threshold": 0.7},
        labels=["face"],
        ok_labels=["nothing"],
    )


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_the_face_in_grace_hopper_is_found_where_it_is_and_once(faces: Models, suffix: str) -> None:
    found = answer(faces, cv2.imread(str(IMAGES / "grace_hopper.bmp")), suffix)
    assert (found.label, found.score > 0.99, found.defect) == ("face", True, True)
    (face,) = found.detections or ()
    assert overlap(face, 0.34, 0.21, 0.36, 0.34) > 0.85


def test_a_face_in_a_corner_of_a_large_picture_is_found_there(faces: Models) -> None:
    picture = np.full((1200, 1600, 3), 128, np.uint8)
    picture[600:1200, 1088:1600] = cv2.imread(str(IMAGES / "grace_hopper.bmp"))
    (face,) = answer(faces, picture, ".jpg").detections or ()
    drawn = (0.68 + 0.34 * 0.32, 0.5 + 0.21 * 0.5, 0.36 * 0.32, 0.34 * 0.5)
    assert overlap(face, *drawn) > 0.7


def test_where_no_face_is_the_answer_is_nothing_and_sure(faces: Models) -> None:
    found = answer(faces, cv2.imread(str(IMAGES / "checker224X224.bmp")))
    assert (found.label, found.defect, found.detections) == ("nothing", False, ())
    assert found.score > 0.8


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """FastestDet: a grid (1, 85, 22, 22) for the 80 things of COCO."""
    if not MODELS.is_dir():
        pytest.skip("no real models at ../shared/data")
    names = (MODELS / "coco_labels.txt").read_text(encoding="utf-8").splitlines()
    return detector(
        tmp_path_factory.mktemp("coco"),
        (MODELS / "FastestDet.onnx").read_bytes(),
        "FastestDet.onnx",
        input={"width": 352, "height": 352, "layout": "NCHW", "color": "BGR"},
        output={"style": "fastestdet", "score_threshold": 0.4},
        labels=[name for name in names if name != "n/a"],
    )


@pytest.mark.parametrize(
    ("file", "label", "drawn"),
    [
        ("grace_hopper.bmp", "person", (0.04, 0.04, 0.96, 0.96)),
        ("cat_720p.jpg", "cat", (0.1, 0.11, 0.6, 0.89)),
    ],
)
def test_things_in_real_pictures_are_found_where_they_are(
    coco: Models, file: str, label: str, drawn: tuple[float, float, float, float]
) -> None:
    found = answer(coco, cv2.imread(str(IMAGES / file)), ".jpg")
    assert found.label == label
    assert overlap((found.detections or ())[0], *drawn) > 0.7


def test_the_parrot_is_a_bird(coco: Models) -> None:
    assert answer(coco, cv2.imread(str(IMAGES / "parrot.jpg")), ".jpg").label == "bird"
