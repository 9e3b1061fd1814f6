"""From a model's output to an answer: which label, how sure. No I/O here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_gateway.bundle import Bundle
from edge_gateway.engines.engine import EngineFailed, Tensor, TensorInfo


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer of one model; `score` is 0 to 1."""

    model: str
    label: str
    score: float
    defect: bool


def check_outputs(bundle: Bundle, outputs: Sequence[TensorInfo]) -> None:
    """Raise EngineFailed if the model has not one tensor with a score for each label."""
    scores = [int(np.prod(output.shape)) for output in outputs]
    if scores != [len(bundle.labels)]:
        raise EngineFailed(
            f"model {bundle.name}: has {', '.join(map(str, scores))} outputs and {len(bundle.labels)} labels;"
            f" mend the labels in {bundle.folder}"
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
    scores = tensor.reshape(-1).astype(np.float64)
    if output.scale > 0:
        scores = (scores - output.zero_point) * output.scale
    if not np.isfinite(scores).all():
        raise EngineFailed(f"model {bundle.name}: gave scores that are no numbers")
    if bundle.manifest.output.activation == "logits":
        scores = np.exp(scores - scores.max())
        scores /= scores.sum()
    best = int(scores.argmax())
    label = bundle.labels[best]
    return Prediction(bundle.name, label, min(1.0, max(0.0, float(scores[best]))), bundle.is_defect(label))
