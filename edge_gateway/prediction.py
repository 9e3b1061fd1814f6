"""What a model says of a picture, and how one that classifies says it. No I/O here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_gateway.bundle import Bundle
from edge_gateway.engines.engine import EngineFailed, Tensor, TensorInfo
from edge_gateway.tensors import View


@dataclass(frozen=True, slots=True)
class Detection:
    """One thing and where it is: left, top, width and height as ratios of the whole picture; `score` is 0 to 1."""

    label: str
    score: float
    x: float
    y: float
    width: float
    height: float

    def data(self) -> dict[str, Any]:
        """Return it as a result shows it."""
        box = {"x": self.x, "y": self.y, "width": self.width, "height": self.height}
        return {"label": self.label, "score": round(self.score, 4), "box": box}


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer of one model; `score` is 0 to 1, how sure it is.

    `detections` is None for a model that looks for none, `value` for one that gives no plain number.
    """

    model: str
    label: str
    score: float
    defect: bool
    detections: tuple[Detection, ...] | None = None
    value: float | None = None


class Classifier:
    """The task of a model that gives a score for each label."""

    def __init__(self, bundle: Bundle, outputs: Sequence[TensorInfo]) -> None:
        """Raise EngineFailed if the model has not one tensor with a score for each label."""
        check_outputs(bundle, outputs)
        check_scales(bundle, outputs)
        self._bundle, self._output = bundle, outputs[0]

    def answer(self, outputs: Sequence[Tensor], view: View) -> Prediction:
        """Return the label with the highest score, wherever it was seen; EngineFailed if the scores are no numbers."""
        return classify(self._bundle, self._output, outputs[0])


def check_outputs(bundle: Bundle, outputs: Sequence[TensorInfo]) -> None:
    """Raise EngineFailed if the model has not one tensor with a score for each label."""
    scores = [int(np.prod(output.shape)) for output in outputs]
    if scores != [len(bundle.labels)]:
        raise EngineFailed(
            f"model {bundle.name}: has {', '.join(map(str, scores))} outputs and {len(bundle.labels)} labels;"
            f" mend the labels in {bundle.folder}"
        )


def check_scales(bundle: Bundle, outputs: Sequence[TensorInfo]) -> None:
    """Raise EngineFailed if there are integers among these outputs of which nobody knows what they stand for."""
    for output in outputs:
        if output.dtype.kind in "iu" and not 0 < output.scale < float("inf"):
            raise EngineFailed(
                f"model {bundle.name}: output {output.name} is {output.dtype} without one scale for all of it,"
                f" so its numbers tell nothing; export the model with float outputs"
            )


def check_quantization(bundle: Bundle, given: TensorInfo, outputs: Sequence[TensorInfo]) -> None:
    """Raise EngineFailed if the manifest says another quantization than the model has."""
    said = bundle.manifest.quantization
    tensors = [given, *outputs]
    found = "full_integer" if all(tensor.dtype.kind in "iu" for tensor in tensors) else "none"
    if said is not None and said != found:
        raise EngineFailed(
            f"model {bundle.name}: takes {given.dtype} and gives {', '.join(str(output.dtype) for output in outputs)},"
            f" but its manifest says"
            f" quantization: {said}; mend the manifest"
        )


def classify(bundle: Bundle, output: TensorInfo, tensor: Tensor) -> Prediction:
    """Return the label with the highest score; EngineFailed if the scores are no numbers."""
    scores = real(bundle, output, tensor.reshape(-1))
    if bundle.manifest.output.activation == "logits":
        scores = np.exp(scores - scores.max())
        scores /= scores.sum()
    best = int(scores.argmax())
    label = bundle.labels[best]
    return Prediction(bundle.name, label, min(1.0, max(0.0, float(scores[best]))), bundle.is_defect(label))


def real(bundle: Bundle, output: TensorInfo, raw: Tensor) -> Tensor:
    """Return what an output's raw values mean, as float64; EngineFailed if one of them is no number."""
    values = raw.astype(np.float64)
    if output.scale > 0:
        return (values - output.zero_point) * output.scale
    if not np.isfinite(values).all():
        raise EngineFailed(f"model {bundle.name}: gave outputs that are no numbers")
    return values
