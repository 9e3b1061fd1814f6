"""A dense model by NumPy alone: real numbers that need no runtime, for tests and to compare others with."""

from __future__ import annotations

import io
import zipfile

import numpy as np

from edge_gateway.engines.engine import EngineFailed, Tensor, TensorInfo


class ReferenceEngine:
    """Runs an .npz with `shape` (batch 1 first), `weights` (inputs x outputs) and `bias`: flat(x) @ weights + bias."""

    def __init__(self, model: bytes, name: str) -> None:
        """Load a model; EngineFailed if its arrays are not there or do not fit together."""
        self._name = name
        try:
            with np.load(io.BytesIO(model), allow_pickle=False) as arrays:
                shape = tuple(int(side) for side in arrays["shape"])
                self._weights = arrays["weights"].astype(np.float32)
                self._bias = arrays["bias"].astype(np.float32)
        except (KeyError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise EngineFailed(f"model {name}: is no .npz with shape, weights and bias: {error}") from None
        if shape[:1] != (1,) or self._weights.shape != (int(np.prod(shape)), *self._bias.shape):
            raise EngineFailed(
                f"model {name}: weights {self._weights.shape} and bias {self._bias.shape} do not fit input {shape}"
            )
        self.input = TensorInfo(shape, np.dtype(np.float32), 0.0, 0, "x")
        self.outputs: tuple[TensorInfo, ...] = (TensorInfo((1, *self._bias.shape), np.dtype(np.float32), 0.0, 0, "y"),)

    def infer(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs for one input."""
        if tensor.shape != self.input.shape or tensor.dtype != self.input.dtype:
            raise EngineFailed(
                f"model {self._name}: got {tensor.shape} {tensor.dtype}; takes {self.input.shape} {self.input.dtype}"
            )
        return (tensor.reshape(1, -1) @ self._weights + self._bias,)

    def close(self) -> None:
        """Let go of the arrays."""
        del self._weights, self._bias
