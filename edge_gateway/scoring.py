"""From the one number that a model gives to an answer: below the limit one label, from it on the other. No I/O here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_gateway.bundle import Bundle
from edge_gateway.engines.engine import EngineFailed, Tensor, TensorInfo
from edge_gateway.prediction import Prediction, real
from edge_gateway.tensors import View


class Scorer:
    """The task of a model that gives one number, such as how strange something is."""

    def __init__(self, bundle: Bundle, outputs: Sequence[TensorInfo]) -> None:
        """Raise EngineFailed if the model gives anything but one number."""
        numbers = [int(np.prod(output.shape)) for output in outputs]
        if numbers != [1]:
            raise EngineFailed(
                f"model {bundle.name}: gives {', '.join(map(str, numbers))} numbers, and task: score takes one;"
                f" mend the task in {bundle.folder}"
            )
        self._bundle, self._output = bundle, outputs[0]

    def answer(self, outputs: Sequence[Tensor], view: View) -> Prediction:
        """Return the label that holds at the number, and the number; EngineFailed if it is none.

        The score, which says how sure an answer is, is 1: the model does not tell.
        """
        value = float(real(self._bundle, self._output, outputs[0].reshape(-1))[0])
        label = self._bundle.labels[int(value >= self._bundle.manifest.output.limit)]
        return Prediction(self._bundle.name, label, 1.0, self._bundle.is_defect(label), value=value)
