"""Inputs whose right answers are known from a trusted engine, and whether another engine's answers are those. No I/O.

An output that jumps in the trusted engine itself when the input changes by one step (such as the order of equally weak
boxes) tells nothing and is not compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_gateway.engines.engine import Engine, Tensor, TensorInfo

Reals = tuple[NDArray[np.float64], ...]

SEED = 20_261_122
STEPS_ALLOWED = 2.0
"""Quantization steps by which two processors may round apart, beside the tolerance."""


@dataclass(frozen=True, slots=True)
class Golden:
    """Inputs, the trusted engine's answers as real numbers, and how far each output may be from them."""

    inputs: tuple[Tensor, ...]
    answers: tuple[Reals, ...]
    allowed: tuple[float, ...]
    """For each output the largest difference; infinite for an output that is not compared."""

    def mismatch(self, place: int, outputs: Sequence[Tensor], infos: Sequence[TensorInfo]) -> str:
        """Return what is wrong with an engine's answer to the input at `place`, in words; empty if nothing is."""
        found = real(outputs, infos)
        for number, (wanted, got, allowed) in enumerate(zip(self.answers[place], found, self.allowed, strict=True)):
            apart = float(np.abs(wanted - got).max())
            if not apart <= allowed:
                return (
                    f"output {number} is {apart:.3g} away from its twin's for golden input {place};"
                    f" {allowed:.3g} is allowed"
                )
        return ""


def golden(trusted: Engine, tolerance_ratio: float, more: Sequence[Tensor] = ()) -> Golden:
    """Return golden inputs for a model, derived ones and `more`, with the answers of an engine that is trusted.

    Each output may differ by `tolerance_ratio` of the largest value that it has for any golden input, and by two steps
    of its quantization. Errors: EngineFailed.
    """
    inputs = (*derived(trusted.input), *more)
    answers = tuple(real(trusted.infer(tensor), trusted.outputs) for tensor in inputs)
    nudged = tuple(real(trusted.infer(_nudged(tensor)), trusted.outputs) for tensor in inputs)
    allowed = []
    for number, info in enumerate(trusted.outputs):
        largest = max(float(np.abs(answer[number]).max()) for answer in answers)
        limit = tolerance_ratio * largest + STEPS_ALLOWED * info.scale
        jumps = max(
            float(np.abs(one[number] - other[number]).max()) for one, other in zip(answers, nudged, strict=True)
        )
        allowed.append(limit if jumps <= limit else float("inf"))
    return Golden(inputs, answers, tuple(allowed))


def derived(info: TensorInfo) -> tuple[Tensor, ...]:
    """Return two inputs, always the same for a shape and type: noise, and a slope with a little noise.

    Two, because an engine that repeats its last answer for ever would pass with one. Floats are 0 to 1.
    """
    rng = np.random.default_rng(SEED)
    noise = rng.random(info.shape)
    slope = 0.9 * np.linspace(0.0, 1.0, noise.size).reshape(info.shape) + 0.1 * rng.random(info.shape)
    return tuple(_scaled(values, info) for values in (noise, slope))


def real(outputs: Sequence[Tensor], infos: Sequence[TensorInfo]) -> Reals:
    """Return what outputs stand for as real numbers."""
    return tuple(
        (output.astype(np.float64) - info.zero_point) * info.scale if info.scale > 0 else output.astype(np.float64)
        for output, info in zip(outputs, infos, strict=True)
    )


def _scaled(values: NDArray[np.float64], info: TensorInfo) -> Tensor:
    if info.dtype.kind == "f":
        return values.astype(info.dtype)
    if info.dtype.kind == "b":
        return values >= 0.5
    limits = np.iinfo(info.dtype)
    return (limits.min + values * (float(limits.max) - float(limits.min))).astype(info.dtype)


def _nudged(tensor: Tensor) -> Tensor:
    """Return a tensor of which every second value is one step further, a step being 1/255 for floats."""
    moved = tensor.copy().reshape(-1)
    if tensor.dtype.kind == "f":
        moved[::2] += np.asarray(1 / 255, tensor.dtype)
    elif tensor.dtype.kind in "iu":
        moved[::2] -= (moved[::2] == np.iinfo(tensor.dtype).max).astype(tensor.dtype)
        moved[::2] += np.asarray(1, tensor.dtype)
    return moved.reshape(tensor.shape)
