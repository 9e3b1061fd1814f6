"""Runs a quantized parts model over pictures and counts how often it is right."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ai_edge_litert.interpreter import Interpreter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from millrace_models.parts_pictures import Pictures

_Z_95 = 1.959964


@dataclass(frozen=True, slots=True)
class Scores:
    """What a model did: `confusion[truth, answer]` counts, over all pictures and over the sure answers alone."""

    confusion: NDArray[np.int64]
    sure_confusion: NDArray[np.int64]
    invoke_ms: float

    @property
    def count(self) -> int:
        """Return the number of pictures."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Return the ratio of right answers."""
        return float(np.trace(self.confusion) / self.count)

    @property
    def recalls(self) -> list[float]:
        """Return for each true class the ratio of its pictures that got the right answer."""
        return [float(row[index] / row.sum()) for index, row in enumerate(self.confusion)]


def score(model: bytes, pictures: Pictures, threshold: float) -> Scores:
    """Return the scores of a .tflite model with uint8 input and uint8 softmax output; sure is >= threshold."""
    probabilities, invoke_ms = _answers(model, pictures.pixels)
    kinds = probabilities.shape[1]
    confusion = np.zeros((kinds, kinds), np.int64)
    sure_confusion = np.zeros_like(confusion)
    answers = probabilities.argmax(axis=1)
    sure = probabilities.max(axis=1) >= threshold
    np.add.at(confusion, (pictures.classes, answers), 1)
    np.add.at(sure_confusion, (pictures.classes[sure], answers[sure]), 1)
    return Scores(confusion, sure_confusion, invoke_ms)


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval (Wilson's) of a ratio of which `right` of `count` were seen."""
    ratio = right / count
    middle = ratio + _Z_95**2 / (2 * count)
    spread = _Z_95 * math.sqrt(ratio * (1 - ratio) / count + _Z_95**2 / (4 * count**2))
    whole = 1 + _Z_95**2 / count
    return (middle - spread) / whole, (middle + spread) / whole


def _answers(model: bytes, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float64], float]:
    """Return the probabilities (count, classes), and the median time of an invoke on one thread in ms."""
    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    picture = interpreter.get_input_details()[0]["index"]
    answer = interpreter.get_output_details()[0]
    scale, zero_point = answer["quantization"]
    rows, times_s = [], []
    for one in pixels:
        interpreter.set_tensor(picture, one[None])
        begin_s = time.perf_counter()
        interpreter.invoke()
        times_s.append(time.perf_counter() - begin_s)
        rows.append((interpreter.get_tensor(answer["index"])[0].astype(np.float64) - zero_point) * scale)
    return np.stack(rows), float(np.median(times_s)) * 1000
