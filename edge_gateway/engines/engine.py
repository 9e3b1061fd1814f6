"""What every engine gives: tensors described once, and `infer` on one input."""

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
    """Shape (batch first), element type, and quantization: real = (q - zero_point) * scale; scale 0 for none."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: float
    zero_point: int


class Engine(Protocol):
    """One loaded model; used by one thread."""

    input: TensorInfo
    output: TensorInfo

    def infer(self, tensor: Tensor) -> Tensor:
        """Return the output tensor (a copy) for an input of `input`'s shape and type; EngineFailed if it breaks."""
        ...
