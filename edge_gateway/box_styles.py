"""How detectors write down what they see: each style's outputs become boxes, scores and classes. No I/O here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from edge_gateway.bundle import BoxStyle, Bundle
from edge_gateway.engines.engine import EngineFailed, Tensor, TensorInfo
from edge_gateway.prediction import check_scales, real


class Sightings(NamedTuple):
    """All that a model says of one picture, before any of it is left out."""

    boxes: Tensor
    """(n, 2, 2): upper left and lower right corner, x and y of each, as ratios of what the model saw, or beyond."""
    scores: Tensor
    """(n,): how sure each is, 0 to 1."""
    classes: Tensor
    """(n,): the place of each one's label; labels that do not fit show by a place where none is."""


class Style(Protocol):
    """One way of writing it down."""

    def read(self, outputs: Sequence[Tensor]) -> Sightings:
        """Return what the outputs for one picture say; EngineFailed if what is read of them is no number."""
        ...


class Ssd:
    """What TFLite_Detection_PostProcess gives: n boxes (top, left, bottom, right), classes, scores, and how many."""

    # The outputs' order, told by the place of the boxes: exports of TensorFlow 1, then those of TensorFlow 2.
    _ORDERS: Mapping[int, tuple[str, str, str, str]] = {
        0: ("boxes", "classes", "scores", "count"),
        1: ("scores", "boxes", "count", "classes"),
        3: ("count", "scores", "classes", "boxes"),
    }

    def __init__(self, bundle: Bundle, outputs: Sequence[TensorInfo]) -> None:
        """Find the four outputs; EngineFailed if they are not there."""
        place = next((place for place, output in enumerate(outputs) if _columns(output) == 4), -1)
        order = self._ORDERS.get(place, ())
        self._outputs = {name: (at, outputs[at]) for at, name in enumerate(order) if len(outputs) == len(order)}
        self._bundle, self._most = bundle, outputs[place].shape[1] if self._outputs else 0
        sizes = {"boxes": 4 * self._most, "classes": self._most, "scores": self._most, "count": 1}
        found = {name: int(np.prod(output.shape)) for name, (_, output) in self._outputs.items()}
        if found != sizes or self._most < 1:
            raise _unfit(bundle, outputs, "boxes (1, n, 4), classes (1, n), scores (1, n) and their number (1)")
        check_scales(bundle, [self._outputs[name][1] for name in ("boxes", "scores")])

    def read(self, outputs: Sequence[Tensor]) -> Sightings:
        """Return as many as the model counted; what stands behind them is no sighting."""
        count = int(self._values("count", outputs, 1).clip(0, self._most)[0])
        boxes = self._values("boxes", outputs, 4 * count).reshape(count, 2, 2)[:, :, ::-1]
        classes = self._values("classes", outputs, count).round().clip(-1, len(self._bundle.labels))
        return Sightings(boxes, self._values("scores", outputs, count), classes.astype(np.intp))

    def _values(self, name: str, outputs: Sequence[Tensor], count: int) -> Tensor:
        place, output = self._outputs[name]
        return real(self._bundle, output, outputs[place].reshape(-1)[:count])


class BoxesScores:
    """Raw boxes (left, top, right, bottom) and a score for each label; with one more, the first is the background's."""

    def __init__(self, bundle: Bundle, outputs: Sequence[TensorInfo]) -> None:
        """Find the two outputs, by their names where their shapes do not tell; EngineFailed if they are not there."""
        labels = len(bundle.labels)
        pairs = [
            (boxes, scores)
            for boxes, scores in ((0, 1), (1, 0))
            if len(outputs) == 2
            and _columns(outputs[boxes]) == 4
            and _columns(outputs[scores]) in (labels, labels + 1)
            and outputs[boxes].shape[1] == outputs[scores].shape[1]
        ]
        if len(pairs) > 1:
            pairs = [pair for pair in pairs if "box" in outputs[pair[0]].name.lower()]
        if len(pairs) != 1:
            raise _unfit(bundle, outputs, f"boxes (1, n, 4) and scores (1, n, {labels}) or (1, n, {labels + 1})")
        check_scales(bundle, outputs)
        self._bundle, self._boxes, self._scores = bundle, *pairs[0]
        self._infos, self._size = outputs, _unit(bundle)
        self._first = _columns(outputs[self._scores]) - labels

    def read(self, outputs: Sequence[Tensor]) -> Sightings:
        """Return each box with the label that has its highest score."""
        boxes = real(self._bundle, self._infos[self._boxes], outputs[self._boxes][0])
        raw = outputs[self._scores][0][:, self._first :]
        scores = real(self._bundle, self._infos[self._scores], raw.max(axis=1))
        return Sightings(boxes.reshape(-1, 2, 2) / self._size, scores, raw.argmax(axis=1))


class Yolo:
    """One row (or column) for each box: centre x, y, width, height, then how sure each label is.

    With one number more, what follows the box is how sure it is that there is anything; labels' scores are part of it.
    """

    def __init__(self, bundle: Bundle, outputs: Sequence[TensorInfo]) -> None:
        """Tell rows from columns by the number of labels; EngineFailed if neither fits."""
        labels = len(bundle.labels)
        shape = outputs[0].shape if len(outputs) == 1 and _columns(outputs[0]) else (1, 0, 0)
        numbers = next((side for side in shape[:0:-1] if side in (labels + 4, labels + 5)), 0)
        if not numbers:
            raise _unfit(bundle, outputs, f"(1, n, {labels + 4}), with how sure a box is {labels + 5}, or columns so")
        check_scales(bundle, outputs)
        self._bundle, self._output, self._size = bundle, outputs[0], _unit(bundle)
        self._in_rows, self._first = shape[2] == numbers, numbers - labels

    def read(self, outputs: Sequence[Tensor]) -> Sightings:
        """Return each box with the label that has its highest score."""
        rows = outputs[0][0] if self._in_rows else outputs[0][0].T
        labels = rows[:, self._first :]
        scores = real(self._bundle, self._output, labels.max(axis=1))
        if self._first == 5:
            scores = scores * real(self._bundle, self._output, rows[:, 4])
        box = real(self._bundle, self._output, rows[:, :4]).reshape(-1, 2, 2)
        return Sightings(_around(box[:, 0], box[:, 1]) / self._size, scores, labels.argmax(axis=1))


class FastestDet:
    """A grid in which each cell says how sure it is of a thing, its offset, width and height, and then of each label.

    The thing's middle is the cell's place and the offset's tanh, its size the sigmoid of what is given, as the
    model's author decodes them (github.com/dog-qiuqiu/FastestDet, example/onnx-runtime).
    """

    def __init__(self, bundle: Bundle, outputs: Sequence[TensorInfo]) -> None:
        """Lay the grid out; EngineFailed if there is none."""
        numbers = len(bundle.labels) + 5
        shape = outputs[0].shape if len(outputs) == 1 else ()
        if len(shape) != 4 or shape[:2] != (1, numbers) or min(shape) < 1:
            raise _unfit(bundle, outputs, f"a grid (1, {numbers}, rows, columns)")
        check_scales(bundle, outputs)
        self._bundle, self._output = bundle, outputs[0]
        rows, columns = shape[2:]
        self._places = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)
        self._cells = np.array([columns, rows])

    def read(self, outputs: Sequence[Tensor]) -> Sightings:
        """Return a box for each cell."""
        grid = real(self._bundle, self._output, outputs[0][0]).reshape(outputs[0].shape[1], -1).T
        middles = (self._places + np.tanh(grid[:, 1:3])) / self._cells
        extents = (1 + np.tanh(grid[:, 3:5] / 2)) / 2  # the sigmoid, for numbers of any size
        labels = grid[:, 5:]
        return Sightings(_around(middles, extents), grid[:, 0] * labels.max(axis=1), labels.argmax(axis=1))


STYLES: Mapping[BoxStyle, Callable[[Bundle, Sequence[TensorInfo]], Style]] = {
    "ssd": Ssd,
    "boxes_scores": BoxesScores,
    "yolo": Yolo,
    "fastestdet": FastestDet,
}


def _around(middles: Tensor, extents: Tensor) -> Tensor:
    """Return both corners of boxes of these middles and extents, (n, 2) each."""
    return np.stack([middles - extents / 2, middles + extents / 2], axis=1)


def _unit(bundle: Bundle) -> Tensor:
    """Return what x and y are to be divided by to be ratios of what the model saw."""
    wanted = bundle.manifest
    pixels = wanted.output.coordinates == "pixels"
    return np.array([wanted.picture.width, wanted.picture.height] if pixels else [1.0, 1.0])


def _columns(output: TensorInfo) -> int:
    """Return k of a shape (1, n, k), and 0 for any other; a side that a model leaves free is -1."""
    return output.shape[2] if len(output.shape) == 3 and output.shape[0] == 1 else 0


def _unfit(bundle: Bundle, outputs: Sequence[TensorInfo], expected: str) -> EngineFailed:
    given = ", ".join(str(output.shape) for output in outputs)
    return EngineFailed(
        f"model {bundle.name}: gives {given}, but output.style {bundle.manifest.output.style} with"
        f" {len(bundle.labels)} labels is {expected}; mend the manifest or the labels in {bundle.folder}"
    )
