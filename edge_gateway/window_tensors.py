"""From a window of readings to a model's input: scaled, put in the model's order, quantized."""

from __future__ import annotations

import numpy as np

from edge_gateway.engines.engine import EngineFailed, Tensor, TensorInfo
from edge_gateway.window_input import WindowSettings


class WindowPreparation:
    """Turns windows, (samples, values) of real numbers, into one model's input tensors."""

    def __init__(self, wanted: WindowSettings, tensor: TensorInfo, name: str) -> None:
        """Check that manifest and model agree; EngineFailed if they do not.

        A model may take (1, samples, values) or (1, values, samples) as `layout` says, or all numbers in one row.
        """
        samples, values = wanted.samples, wanted.numbers
        sides = (samples, values) if wanted.layout == "NWC" else (values, samples)
        if tensor.shape not in ((1, *sides), (1, samples * values)):
            raise EngineFailed(
                f"model {name}: takes {tensor.shape}, but its manifest says {(1, *sides)}: mend the manifest"
            )
        if tensor.dtype not in (np.float32, np.uint8, np.int8):
            raise EngineFailed(f"model {name}: input of type {tensor.dtype} is not run; uint8, int8 or float32 are")
        if tensor.dtype != np.float32 and tensor.scale <= 0:
            raise EngineFailed(f"model {name}: input of type {tensor.dtype} has no scale, so no reading fits it")
        self._tensor, self._is_turned = tensor, wanted.layout == "NCW"
        self._mean, self._std = np.asarray(wanted.mean), np.asarray(wanted.std)

    def tensor(self, window: Tensor) -> Tensor:
        """Return the input for one window."""
        wanted = self._tensor
        with np.errstate(over="ignore"):  # what is too large for a float32 is infinite, and the answer no number
            real = (window - self._mean) / self._std
            given: Tensor = (real.T if self._is_turned else real).reshape(wanted.shape)
            if wanted.dtype == np.float32:
                return given.astype(np.float32)
            limits = np.iinfo(wanted.dtype)
            steps: Tensor = np.round(given / wanted.scale) + wanted.zero_point
            return steps.clip(limits.min, limits.max).astype(wanted.dtype)
