"""Each style of a detector's outputs, made by hand: what is read of it, and what is refused before the first frame."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_gateway.box_styles import STYLES, BoxesScores, FastestDet, Sightings, Ssd, Yolo
from edge_gateway.bundle import Bundle, Manifest
from edge_gateway.engines.engine import EngineFailed, TensorInfo

FLOAT32 = np.dtype(np.float32)


def bundle(style: str, labels: int = 2, **output: Any) -> Bundle:
    """Return a detector's bundle with an input 200 wide and 100 high."""
    names = [f"thing-{number}" for number in range(labels)]
    manifest = Manifest.model_validate(
        {
            "name": "parts",
            "version": 1,
            "task": "detection",
            "sha256": "0" * 64,
            "input": {"width": 200, "height": 100},
            "output": {"style": style, **output},
            "labels": names,
            "licence": "none",
        }
    )
    return Bundle(Path("/bundles/parts"), manifest, b"", tuple(names))


def infos(*shapes: tuple[int, ...], names: tuple[str, ...] = ()) -> list[TensorInfo]:
    """Return what an engine says of float outputs."""
    return [TensorInfo(shape, FLOAT32, 0.0, 0, names[place] if names else "") for place, shape in enumerate(shapes)]


def floats(values: Any) -> Any:
    return np.array(values, np.float32)


def shown(seen: Sightings) -> list[tuple[list[float], float, int]]:
    """Return each sighting as [left, top, right, bottom], score, class."""
    return [
        (box.reshape(-1).round(6).tolist(), round(float(score), 6), int(class_))
        for box, score, class_ in zip(*seen, strict=True)
    ]


# --- ssd

BOXES, CLASSES, SCORES = floats([[[0.2, 0.1, 0.6, 0.5], [0, 0, 1, 1]]]), floats([[1, 0]]), floats([[0.9, 0.4]])
SSD = {
    "boxes": ((1, 2, 4), BOXES),
    "classes": ((1, 2), CLASSES),
    "scores": ((1, 2), SCORES),
    "count": ((1,), floats([2])),
}
ORDERS = [
    ("boxes", "classes", "scores", "count"),
    ("scores", "boxes", "count", "classes"),
    ("count", "scores", "classes", "boxes"),
]


@pytest.mark.parametrize("order", ORDERS)
def test_boxes_of_an_ssd_are_top_left_bottom_right_in_each_order_that_exports_have(order: tuple[str, ...]) -> None:
    style = Ssd(bundle("ssd"), infos(*[SSD[name][0] for name in order]))
    seen = style.read([SSD[name][1] for name in order])
    assert shown(seen) == [([0.1, 0.2, 0.5, 0.6], 0.9, 1), ([0, 0, 1, 1], 0.4, 0)]


@pytest.mark.parametrize(("count", "read"), [(0, 0), (1, 1), (2, 2), (7, 2), (-3, 0)])
def test_an_ssd_is_believed_no_more_boxes_than_it_counts_and_has(count: float, read: int) -> None:
    style = Ssd(bundle("ssd"), infos((1, 2, 4), (1, 2), (1, 2), (1,)))
    assert len(style.read([BOXES, CLASSES, SCORES, floats([count])]).scores) == read


def test_what_stands_behind_an_ssds_count_may_be_anything() -> None:
    style = Ssd(bundle("ssd"), infos((1, 2, 4), (1, 2), (1, 2), (1,)))
    nan = float("nan")
    boxes, classes, scores = BOXES.copy(), CLASSES.copy(), SCORES.copy()
    boxes[0, 1], classes[0, 1], scores[0, 1] = nan, nan, nan
    assert shown(style.read([boxes, classes, scores, floats([1])])) == [([0.1, 0.2, 0.5, 0.6], 0.9, 1)]


@pytest.mark.parametrize("class_", [-1, 2, 90, 1e30])
def test_a_class_without_a_label_has_a_place_where_none_is(class_: float) -> None:
    style = Ssd(bundle("ssd"), infos((1, 2, 4), (1, 2), (1, 2), (1,)))
    found = style.read([BOXES, floats([[class_, 0]]), SCORES, floats([1])]).classes[0]
    assert not 0 <= found < 2


@pytest.mark.parametrize(
    "shapes",
    [
        (),
        ((1, 2, 4),),
        ((1, 2, 4), (1, 2), (1, 2)),
        ((1, 2, 4), (1, 2), (1, 2), (1,), (1,)),
        ((1, 2, 4), (1, 2), (1, 3), (1,)),
        ((1, 2, 4), (1, 2), (1, 2), (1, 2)),
        ((1, 2), (1, 2), (1, 2, 4), (1,)),
        ((1, 2), (1, 2), (1, 2), (1,)),
        ((1, -1, 4), (1, -1), (1, -1), (1,)),
    ],
)
def test_outputs_that_are_no_ssds_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(EngineFailed, match=r"output.style ssd with 2 labels is boxes \(1, n, 4\), classes"):
        Ssd(bundle("ssd"), infos(*shapes))


# --- boxes_scores

ROWS = floats([[[0.1, 0.2, 0.5, 0.6], [-0.1, 0, 1.2, 1]]])


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("background", [False, True])
def test_raw_boxes_get_their_best_label_and_the_background_is_none(swapped: bool, background: bool) -> None:
    scores = floats([[[0.7, 0.1, 0.2], [0.1, 0.8, 0.1]]])[:, :, 0 if background else 1 :]
    given = [ROWS, scores]
    style = BoxesScores(bundle("boxes_scores"), infos(*[one.shape for one in given[:: -1 if swapped else 1]]))
    seen = style.read(given[:: -1 if swapped else 1])
    assert shown(seen) == [([0.1, 0.2, 0.5, 0.6], 0.2, 1), ([-0.1, 0, 1.2, 1], 0.8, 0)]


def test_raw_boxes_in_pixels_become_ratios_of_the_input() -> None:
    style = BoxesScores(bundle("boxes_scores", coordinates="pixels"), infos((1, 1, 4), (1, 1, 2)))
    seen = style.read([floats([[[20, 20, 100, 60]]]), floats([[[0, 1]]])])
    assert shown(seen) == [([0.1, 0.2, 0.5, 0.6], 1.0, 1)]


@pytest.mark.parametrize("labels", [3, 4])
@pytest.mark.parametrize("names", [("raw_boxes", "scores"), ("conf", "BBox")])
def test_where_as_many_labels_as_corners_leave_it_open_the_name_tells_the_boxes(
    labels: int, names: tuple[str, str]
) -> None:
    style = BoxesScores(bundle("boxes_scores", labels), infos((1, 1, 4), (1, 1, 4), names=names))
    boxes, scores = floats([[[0.1, 0.2, 0.5, 0.6]]]), floats([[[0, 0.3, 0.1, 0.2]]])
    seen = style.read([boxes, scores] if names[0] == "raw_boxes" else [scores, boxes])
    assert shown(seen) == [([0.1, 0.2, 0.5, 0.6], 0.3, 0 if labels == 3 else 1)]


@pytest.mark.parametrize(
    ("labels", "shapes", "names"),
    [
        (2, ((1, 5, 4),), ()),
        (2, ((1, 5, 4), (1, 5, 4)), ()),
        (2, ((1, 5, 4), (1, 6, 2)), ()),
        (2, ((5, 4), (5, 2)), ()),
        (2, ((2, 5, 4), (2, 5, 2)), ()),
        (2, ((1, 5, 4), (1, 5, 2), (1, 5, 2)), ()),
        (4, ((1, 5, 4), (1, 5, 4)), ("a", "b")),
        (4, ((1, 5, 4), (1, 5, 4)), ("box-1", "box-2")),
    ],
)
def test_outputs_that_are_no_boxes_and_scores_are_refused(
    labels: int, shapes: tuple[tuple[int, ...], ...], names: tuple[str, ...]
) -> None:
    with pytest.raises(EngineFailed, match=r"is boxes \(1, n, 4\) and scores"):
        BoxesScores(bundle("boxes_scores", labels), infos(*shapes, names=names))


# --- yolo


@pytest.mark.parametrize("in_rows", [True, False])
@pytest.mark.parametrize("unit", ["ratios", "pixels"])
def test_a_yolos_middle_and_size_become_corners_in_rows_and_in_columns(in_rows: bool, unit: str) -> None:
    size = [200, 100, 200, 100] if unit == "pixels" else [1, 1, 1, 1]
    rows = floats([[[0.3 * size[0], 0.4 * size[1], 0.4 * size[2], 0.4 * size[3], 0.25, 0.75]] * 9])
    given = rows if in_rows else rows.transpose(0, 2, 1)
    style = Yolo(bundle("yolo", coordinates=unit), infos(given.shape))
    assert shown(style.read([given])) == [([0.1, 0.2, 0.5, 0.6], 0.75, 1)] * 9


def test_how_sure_a_yolo_is_of_anything_is_part_of_its_score() -> None:
    row = floats([[[0.3, 0.4, 0.4, 0.4, 0.5, 0.9, 0.2]] * 9])
    assert shown(Yolo(bundle("yolo"), infos(row.shape)).read([row]))[0] == ([0.1, 0.2, 0.5, 0.6], 0.45, 0)


@pytest.mark.parametrize("shape", [(1, -1, 6), (1, 6, -1)])
def test_a_yolo_may_leave_the_number_of_its_boxes_free(shape: tuple[int, ...]) -> None:
    rows = floats([[[0.3, 0.4, 0.4, 0.4, 0.25, 0.75]] * 3])
    given = rows if shape[2] == 6 else rows.transpose(0, 2, 1)
    assert shown(Yolo(bundle("yolo"), infos(shape)).read([given])) == [([0.1, 0.2, 0.5, 0.6], 0.75, 1)] * 3


def test_a_quantized_yolo_means_what_the_float_one_says() -> None:
    info = TensorInfo((1, 9, 6), np.dtype(np.int8), 1 / 255, -128)
    raw = np.array([[[0, 0, 0, 0, 0, 0]] * 8 + [[-51, -26, -26, -26, -128, 127]]], np.int8)
    box, score, class_ = shown(Yolo(bundle("yolo"), [info]).read([raw]))[8]
    assert (score, class_) == (1.0, 1)
    assert box == pytest.approx([0.1, 0.2, 0.5, 0.6], abs=2 / 255)


@pytest.mark.parametrize("shapes", [(), ((1, 9, 8),), ((9, 6),), ((2, 9, 6),), ((1, 9, 6), (1, 9, 6)), ((1, 3, 9, 6),)])
def test_outputs_that_are_no_yolos_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(EngineFailed, match=r"output.style yolo with 2 labels is \(1, n, 6\), .* is 7, or columns so"):
        Yolo(bundle("yolo"), infos(*shapes))


# --- fastestdet


def test_a_cell_of_a_fastestdet_is_decoded_as_its_author_does() -> None:
    grid = np.zeros((1, 7, 3, 4), np.float32)  # 2 labels, 3 rows, 4 columns
    grid[0, :, 1, 2] = [0.8, 0.5, -0.5, 2.0, -200.0, 0.25, 0.75]
    seen = shown(FastestDet(bundle("fastestdet"), infos(grid.shape)).read([grid]))
    assert len(seen) == 12
    x, y, width = (2 + np.tanh(0.5)) / 4, (1 - np.tanh(0.5)) / 3, 1 / (1 + np.exp(-2.0))
    box, score, class_ = seen[1 * 4 + 2]
    assert box == pytest.approx([x - width / 2, y, x + width / 2, y], abs=1e-5)
    assert (score, class_) == (pytest.approx(0.6), 1)


@pytest.mark.parametrize(
    "shapes", [(), ((1, 8, 3, 4),), ((1, 7, 12),), ((1, 7, -1, -1),), ((1, 3, 4, 7),), ((1, 7, 3, 4), (1, 7, 3, 4))]
)
def test_outputs_that_are_no_grid_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(EngineFailed, match=r"is a grid \(1, 7, rows, columns\); mend .* in /bundles/parts"):
        FastestDet(bundle("fastestdet"), infos(*shapes))


# --- all


GIVEN: dict[str, list[Any]] = {
    "ssd": [BOXES, CLASSES, SCORES, floats([2])],
    "boxes_scores": [ROWS, floats([[[0.7, 0.1], [0.1, 0.8]]])],
    "yolo": [np.full((1, 9, 7), 0.5, np.float32)],
    "fastestdet": [np.full((1, 7, 3, 4), 0.5, np.float32)],
}


@pytest.mark.parametrize("style", GIVEN)
def test_integers_that_stand_for_nothing_known_are_no_boxes_and_no_scores(style: str) -> None:
    outputs = [TensorInfo(one.shape, np.dtype(np.int8), 0.0, 0, "given") for one in GIVEN[style]]
    with pytest.raises(EngineFailed, match="parts@1: output given is int8 without one scale for all of it"):
        STYLES[style](bundle(style), outputs)  # type: ignore[index]


def test_classes_and_counts_of_an_ssd_may_be_plain_integers() -> None:
    outputs = [
        replace(one, dtype=np.dtype(np.int32)) if n in (1, 3) else one
        for n, one in enumerate(infos((1, 2, 4), (1, 2), (1, 2), (1,)))
    ]
    style = Ssd(bundle("ssd"), outputs)
    assert len(style.read([BOXES, CLASSES.astype(np.int32), SCORES, np.array([2], np.int32)]).scores) == 2


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("style", "output"), [(style, at) for style, given in GIVEN.items() for at in range(len(given))]
)
def test_what_is_no_number_is_refused_wherever_it_stands(style: str, output: int, wrong: float) -> None:
    assert set(GIVEN) == set(STYLES)
    made = STYLES[style](bundle(style), infos(*[one.shape for one in GIVEN[style]]))  # type: ignore[index]
    assert len(made.read(GIVEN[style]).scores) > 0
    for place in range(GIVEN[style][output].size):
        given = [one.copy() for one in GIVEN[style]]
        given[output].reshape(-1)[place] = wrong
        with pytest.raises(EngineFailed, match="model parts@1: gave outputs that are no numbers"):
            made.read(given)
