"""From a detector's outputs to an answer: what is where in the whole picture, each thing once. No I/O here."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from edge_gateway.box_styles import STYLES, Sightings
from edge_gateway.bundle import NOTHING, Bundle
from edge_gateway.engines.engine import EngineFailed, Tensor, TensorInfo
from edge_gateway.prediction import Detection, Prediction
from edge_gateway.tensors import View

CANDIDATES_MAX = 1000
"""Of more boxes than this the best are looked at, so that no picture makes the suppression slow (5 ms for these)."""
DIGITS = 4
"""A box's ratios are rounded to 0.0001: less than half a pixel of 4096."""


class Detector:
    """The task of a model that finds things and says where each is."""

    def __init__(self, bundle: Bundle, outputs: Sequence[TensorInfo]) -> None:
        """Raise EngineFailed if the model's outputs are not of the style that the manifest names."""
        wanted = bundle.manifest.output
        assert wanted.style is not None, "the manifest of a detector has a style"
        self._bundle, self._style = bundle, STYLES[wanted.style](bundle, outputs)
        self._score_threshold, self._iou_threshold = wanted.score_threshold, wanted.iou_threshold
        self._max_detections = wanted.max_detections

    def answer(self, outputs: Sequence[Tensor], view: View) -> Prediction:
        """Return what is found, the best first; its label and score are the answer's, and any defect makes it one.

        Where nothing is found the label is NOTHING, and the score is how sure that is: 1 less the highest score that
        was given to anything. EngineFailed if outputs are no numbers, or name a label that is not there.
        """
        seen = self._style.read(outputs)
        found = self._found(seen, view)
        if not found:
            highest = float(seen.scores.max(initial=0.0))
            defect = self._bundle.is_defect(NOTHING)
            return Prediction(self._bundle.name, NOTHING, _score(1.0 - highest), defect, ())
        defect = any(self._bundle.is_defect(one.label) for one in found)
        return Prediction(self._bundle.name, found[0].label, found[0].score, defect, found)

    def _found(self, seen: Sightings, view: View) -> tuple[Detection, ...]:
        """Return the boxes that lie in the picture, without those that show again what a better one shows."""
        chosen = np.flatnonzero(seen.scores >= self._score_threshold)
        chosen = chosen[np.argsort(-seen.scores[chosen], kind="stable")][:CANDIDATES_MAX]
        corners = np.clip(seen.boxes[chosen] * (view.width, view.height) + (view.left, view.top), 0.0, 1.0)
        corners = corners.round(DIGITS)
        extents = corners[:, 1] - corners[:, 0]
        there = (extents > 0).all(axis=1)
        chosen, corners, extents = chosen[there], corners[there], extents[there]
        self._check_classes(seen.classes[chosen])
        kept = self._each_once(corners[:, 0], extents, seen.scores[chosen], seen.classes[chosen])
        return tuple(
            Detection(
                self._bundle.labels[seen.classes[chosen[place]]],
                _score(float(seen.scores[chosen[place]])),
                *corners[place, 0].tolist(),
                *extents[place].round(DIGITS).tolist(),
            )
            for place in kept[: self._max_detections]
        )

    def _each_once(self, origins: Tensor, extents: Tensor, scores: Tensor, classes: Tensor) -> list[int]:
        """Return the places of the boxes that overlap no better one of their class by more than the threshold."""
        if not len(scores):
            return []
        boxes = np.concatenate([origins, extents], axis=1)
        kept = cv2.dnn.NMSBoxesBatched(boxes.tolist(), scores.tolist(), classes.tolist(), 0.0, self._iou_threshold)
        return sorted(int(place) for place in kept)

    def _check_classes(self, classes: Tensor) -> None:
        if len(classes) and not 0 <= classes.min() <= classes.max() < len(self._bundle.labels):
            raise EngineFailed(
                f"model {self._bundle.name}: names a class that none of its {len(self._bundle.labels)} labels is for;"
                f" mend the labels in {self._bundle.folder}"
            )


def _score(value: float) -> float:
    return min(1.0, max(0.0, value))
