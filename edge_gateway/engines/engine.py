"""What every engine gives: tensors described once, and `infer` from one input to all outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Tensor = NDArray[Any]


class EngineFailed(Exception):
    """The model cannot be loaded or run here; the message says which and why."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Shape (batch first, no side free), element type, quantization: real = (q - zero_point) * scale, 0 for none."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: float
    zero_point: int
    name: str = ""

    @property
    def kind(self) -> tuple[object, ...]:
        """What two engines of one model have in common, whatever they call it."""
        return self.shape, self.dtype, self.scale, self.zero_point


class Engine(Protocol):
    """One loaded model; used by one thread."""

    input: TensorInfo
    outputs: tuple[TensorInfo, ...]

    def infer(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Return one tensor (a copy) for each of `outputs`, for an input of `input`'s shape and type.

        Errors: EngineFailed if it breaks; what was asked may be asked again.
        """
        ...

    def close(self) -> None:
        """Let go of the model and of what runs it; nothing is asked of the engine afterwards."""
        ...
