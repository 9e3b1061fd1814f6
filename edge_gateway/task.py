"""What a model is for: its outputs are checked and their details looked up once, then each is read as an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from edge_gateway.bundle import Bundle
from edge_gateway.detection import Detector
from edge_gateway.engines.engine import Tensor, TensorInfo
from edge_gateway.prediction import Classifier, Prediction
from edge_gateway.scoring import Scorer
from edge_gateway.tensors import View


class Task(Protocol):
    """One loaded model's task; used by any thread."""

    def answer(self, outputs: Sequence[Tensor], view: View) -> Prediction:
        """Return what the outputs say of a picture of which the model saw `view`.

        Errors: EngineFailed if they are no numbers, or numbers that mean nothing here.
        """
        ...


TASKS: dict[str, Callable[[Bundle, Sequence[TensorInfo]], Task]] = {
    "classification": Classifier,
    "detection": Detector,
    "score": Scorer,
}


def task_of(bundle: Bundle, outputs: Sequence[TensorInfo]) -> Task:
    """Return the task that a bundle's manifest names; EngineFailed if the model's outputs are not those of such."""
    return TASKS[bundle.manifest.task](bundle, outputs)
