"""From what a detector sees to a result: once each, where it is in the whole picture, what it means for a part."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_gateway.bundle import MAX_DETECTIONS, Bundle, InputSettings, Manifest
from edge_gateway.detection import Detector
from edge_gateway.engines.engine import EngineFailed, TensorInfo
from edge_gateway.prediction import Detection, Prediction
from edge_gateway.task import task_of
from edge_gateway.tensors import WHOLE, Preparation, View

LABELS = ("screw", "scratch")
FLOAT32 = np.dtype(np.float32)


def bundle(ok_labels: tuple[str, ...] = (), **output: Any) -> Bundle:
    manifest = Manifest.model_validate(
        {
            "name": "parts",
            "version": 1,
            "task": "detection",
            "sha256": "0" * 64,
            "input": {"width": 8, "height": 8},
            "output": {"style": "boxes_scores", **output},
            "labels": list(LABELS),
            "ok_labels": list(ok_labels),
            "licence": "none",
        }
    )
    return Bundle(Path("/bundles/parts"), manifest, b"", LABELS)


def answer(made: Bundle, *seen: tuple[float, float, float, float, float, float], view: View = WHOLE) -> Prediction:
    """Return the answer to rows of left, top, right, bottom, and the scores of both labels."""
    rows = np.array(seen, np.float32).reshape(1, -1, 6)
    count = rows.shape[1]
    detector = Detector(made, [TensorInfo((1, count, 4), FLOAT32, 0, 0), TensorInfo((1, count, 2), FLOAT32, 0, 0)])
    return detector.answer([rows[:, :, :4], rows[:, :, 4:]], view)


def test_the_best_of_what_is_found_is_the_answer_and_all_of_it_is_told_the_best_first() -> None:
    found = answer(bundle(), (0.1, 0.2, 0.5, 0.6, 0.7, 0.1), (0.5, 0.5, 1.0, 1.0, 0.1, 0.9), (0, 0, 0.1, 0.1, 0.4, 0.3))
    assert (found.model, found.label, found.score) == ("parts@1", "scratch", pytest.approx(0.9))
    assert found.detections == (
        Detection("scratch", pytest.approx(0.9), 0.5, 0.5, 0.5, 0.5),
        Detection("screw", pytest.approx(0.7), 0.1, 0.2, 0.4, 0.4),
    )


def test_a_detection_is_shown_as_label_score_and_box() -> None:
    (one,) = answer(bundle(), (0.1, 0.2, 0.5, 0.6, 0.7, 0.1)).detections or ()
    box = {"x": 0.1, "y": 0.2, "width": 0.4, "height": 0.4}
    assert one.data() == {"label": "screw", "score": 0.7, "box": box}


@pytest.mark.parametrize(("best", "score"), [(0.0, 1.0), (0.3, 0.7), (0.499, 0.501)])
def test_nothing_found_is_as_sure_as_the_best_of_what_was_not_taken_is_not(best: float, score: float) -> None:
    found = answer(bundle(), (0.1, 0.2, 0.5, 0.6, best, 0))
    assert (found.label, found.score, found.detections) == ("nothing", pytest.approx(score), ())


@pytest.mark.parametrize(("score_threshold", "found"), [(0.25, 1), (0.26, 0)])
def test_the_manifest_says_from_which_score_a_thing_is_found(score_threshold: float, found: int) -> None:
    made = bundle(score_threshold=score_threshold)
    assert len(answer(made, (0.1, 0.2, 0.5, 0.6, 0.25, 0)).detections or ()) == found


def test_no_boxes_at_all_are_nothing_for_sure() -> None:
    found = answer(bundle())
    assert (found.label, found.score, found.detections) == ("nothing", 1.0, ())


@pytest.mark.parametrize(
    "outside", [(1.0, 0.2, 1.5, 0.6), (-0.5, 0, 0, 1), (0.5, 0.6, 0.4, 0.2), (0.5, 0.5, 0.50001, 1), (0, 3, 1, 4)]
)
def test_a_box_without_an_inside_in_the_picture_is_not_there_and_leaves_doubt(outside: Any) -> None:
    found = answer(bundle(), (*outside, 0.9, 0))
    assert (found.label, found.score, found.detections) == ("nothing", pytest.approx(0.1), ())


def test_a_box_is_cut_off_at_the_pictures_edge() -> None:
    (one,) = answer(bundle(), (-0.25, 0.5, 0.25, 1.75, 0.9, 0)).detections or ()
    assert (one.x, one.y, one.width, one.height) == (0.0, 0.5, 0.25, 0.5)


def test_what_a_better_box_of_the_same_label_shows_is_not_shown_again() -> None:
    same = (0.1, 0.1, 0.52, 0.5)
    found = answer(bundle(), (*same, 0.8, 0), (0.1, 0.1, 0.5, 0.5, 0.9, 0), (*same, 0, 0.7)).detections or ()
    assert [(one.label, round(one.score, 2)) for one in found] == [("screw", 0.9), ("scratch", 0.7)]


@pytest.mark.parametrize(("iou_threshold", "kept"), [(0.32, 1), (0.34, 2)])
def test_the_manifest_says_how_much_may_overlap(iou_threshold: float, kept: int) -> None:
    """Two squares of side 2, one shifted by 1: 2 of 6 is shared."""
    found = answer(bundle(iou_threshold=iou_threshold), (0, 0, 0.2, 0.2, 0.9, 0), (0.1, 0, 0.3, 0.2, 0.8, 0))
    assert len(found.detections or ()) == kept


def test_no_more_is_told_than_the_manifest_allows() -> None:
    rows = [(place / 10, 0, place / 10 + 0.1, 1, 0.5 + place / 100, 0) for place in range(10)]
    found = answer(bundle(max_detections=3), *rows).detections or ()
    assert [round(one.score, 2) for one in found] == [0.59, 0.58, 0.57]


def test_a_flood_of_boxes_is_looked_at_from_the_best_down() -> None:
    rows = [(0, 0, 1, 1, 0.5 + place / 10_000, 0) for place in range(1500)]
    rows.append((0, 0, 0.1, 0.1, 0.51, 0))  # of 1,501 the best 1,000 are looked at: this is not among them
    assert [round(one.score, 4) for one in answer(bundle(), *rows).detections or ()] == [0.6499]


@pytest.mark.parametrize(
    ("ok_labels", "seen", "defect"),
    [
        ((), ["scratch"], False),
        ((), [], False),
        (("screw", "nothing"), ["screw"], False),
        (("screw", "nothing"), [], False),
        (("screw", "nothing"), ["screw", "scratch"], True),
        (("screw",), [], True),  # where a screw has to be, a picture without one shows a defect
        (("nothing",), [], False),
        (("nothing",), ["screw"], True),  # whatever is found is a defect
    ],
)
def test_a_defect_is_any_label_found_that_is_not_ok_and_nothing_is_a_label(
    ok_labels: tuple[str, ...], seen: list[str], defect: bool
) -> None:
    better = {"screw": (0.0, 0.0, 0.4, 0.4, 0.9, 0.0), "scratch": (0.5, 0.5, 0.9, 0.9, 0.0, 0.6)}
    found = answer(bundle(ok_labels), *[better[label] for label in seen])
    assert found.defect is defect
    assert found.label == (seen[0] if seen else "nothing")


def test_a_label_that_is_not_there_is_refused_but_only_where_it_is_found() -> None:
    made = bundle(style="ssd")
    shapes = [(1, 2, 4), (1, 2), (1, 2), (1,)]
    detector = task_of(made, [TensorInfo(shape, FLOAT32, 0, 0) for shape in shapes])
    boxes, scores = np.array([[[0, 0, 1, 1]] * 2], np.float32), np.array([[0.9, 0.1]], np.float32)
    outputs = [boxes, np.array([[1, 2]], np.float32), scores, np.array([2], np.float32)]
    assert detector.answer(outputs, WHOLE).label == "scratch"
    outputs[1] = np.array([[2, 1]], np.float32)
    with pytest.raises(EngineFailed, match="names a class that none of its 2 labels is for; mend the labels in /bund"):
        detector.answer(outputs, WHOLE)


# --- where it is in the whole picture


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("resize", ["stretch", "center_crop"])
@pytest.mark.parametrize(("height", "width"), [(60, 100), (100, 60), (480, 640), (611, 1357), (64, 64)])
def test_what_a_model_sees_in_its_input_is_told_where_it_is_in_the_picture(
    suffix: str, resize: Any, height: int, width: int
) -> None:
    """A white box in the picture, seen in the tensor as a model would see it, comes back as where it was drawn."""
    left, top, right, bottom = (round(width * 0.4), round(height * 0.3), round(width * 0.6), round(height * 0.8))
    picture = np.zeros((height, width, 3), np.uint8)
    picture[top:bottom, left:right] = 255
    encoded = cv2.imencode(suffix, picture, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    side = 64
    wanted = InputSettings(width=side, height=side, resize=resize, std=1.0)
    preparation = Preparation(wanted, TensorInfo((1, side, side, 3), FLOAT32, 0.0, 0), 10**7, "parts@1")
    rows, columns = np.nonzero(preparation.tensor(encoded)[0, :, :, 0] > 127)
    box = (columns.min() / side, rows.min() / side, (columns.max() + 1) / side, (rows.max() + 1) / side)
    (one,) = answer(bundle(), (*box, 0.9, 0), view=preparation.view(encoded)).detections or ()
    expected = [left / width, top / height, (right - left) / width, (bottom - top) / height]
    if resize == "stretch" or height <= width:  # else the crop cuts the box off above and below
        assert [one.x, one.y, one.width, one.height] == pytest.approx(expected, abs=1.5 / side)
    assert [one.x, one.width] == pytest.approx([expected[0], expected[2]], abs=1.5 / side)


# --- whatever the model says

BOXES = hnp.arrays(np.float32, (1, 12, 4), elements=st.floats(-2, 3, width=32))
SCORES = hnp.arrays(np.float32, (1, 12, 2), elements=st.floats(-1, 2, width=32))
VIEWS = st.sampled_from([WHOLE, View(0.125, 0.0, 0.75, 1.0), View(0.0, 0.21, 1.0, 0.58)])


@given(BOXES, SCORES, VIEWS, st.floats(0, 1), st.integers(1, MAX_DETECTIONS))
def test_boxes_lie_in_the_picture_and_no_two_of_a_label_overlap_by_more_than_is_allowed(
    boxes: Any, scores: Any, view: View, iou_threshold: float, max_detections: int
) -> None:
    made = bundle(iou_threshold=iou_threshold, max_detections=max_detections)
    detector = Detector(made, [TensorInfo(boxes.shape, FLOAT32, 0, 0), TensorInfo(scores.shape, FLOAT32, 0, 0)])
    found = detector.answer([boxes, scores], view)
    assert found.detections is not None
    assert len(found.detections) <= max_detections
    assert 0 <= found.score <= 1
    by_label: dict[str, list[Detection]] = defaultdict(list)
    for one in found.detections:
        by_label[one.label].append(one)
        assert 0.5 <= one.score <= found.score
        assert min(one.x, one.y) >= 0
        assert min(one.width, one.height) > 0
        assert max(one.x + one.width, one.y + one.height) <= 1 + 1e-9
    for label in by_label.values():
        for first, second in combinations(label, 2):
            assert overlap(first, second) <= iou_threshold + 1e-6


def overlap(first: Detection, second: Detection) -> float:
    """Return what both share of what both cover."""
    width = min(first.x + first.width, second.x + second.width) - max(first.x, second.x)
    height = min(first.y + first.height, second.y + second.height) - max(first.y, second.y)
    shared = max(0.0, width) * max(0.0, height)
    return shared / (first.width * first.height + second.width * second.height - shared)
