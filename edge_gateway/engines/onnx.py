"""ONNX models by ONNX Runtime, on its TensorRT, CUDA or CPU provider."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import (
    EPFail,
    Fail,
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
    NoSuchFile,
    NotImplemented,  # noqa: A004  (the runtime's name)
    RuntimeException,
)

from edge_gateway.engines.engine import EngineFailed, Tensor, TensorInfo
from edge_gateway.engines.opening import CPU_PROVIDER

BEST_FIRST = ("TensorrtExecutionProvider", "CUDAExecutionProvider", CPU_PROVIDER)
REFUSALS = (
    EPFail,
    Fail,
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
    NoSuchFile,
    NotImplemented,
    RuntimeException,
    RuntimeError,
    ValueError,
)
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}
ERRORS_ONLY = 3
# The smallest whole model: y = x for one float, opset 13.
IDENTITY = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01g'
    b"Z\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


class OnnxEngine:
    """One session; running releases the GIL, so that several run side by side. Numbers are real: scale is 0."""

    def __init__(self, model: bytes, name: str, threads: int = 1, providers: Sequence[str] = (CPU_PROVIDER,)) -> None:
        """Load a model; EngineFailed if this runtime refuses it, or it does not have one input of a fixed shape."""
        self._name = name
        try:
            self._session = onnxruntime.InferenceSession(model, _options(threads), providers=list(providers))
        except REFUSALS as error:
            raise EngineFailed(f"model {name}: ONNX Runtime refuses it: {_plain(error)}") from None
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise EngineFailed(f"model {name}: has {len(inputs)} inputs; models with one are run")
        self.input = _info(inputs[0], name)
        self.outputs = tuple(_info(output, name) for output in self._session.get_outputs())
        if -1 in self.input.shape:
            raise EngineFailed(
                f"model {name}: input {self.input.name} leaves sides free {tuple(inputs[0].shape)};"
                f" export the model with fixed ones"
            )

    def infer(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs for one input."""
        if tensor.shape != self.input.shape:  # a free batch would take any
            raise EngineFailed(f"model {self._name}: got {tensor.shape}; takes {self.input.shape}")
        try:
            given: list[Any] = self._session.run(None, {self.input.name: tensor})
        except REFUSALS as error:
            raise EngineFailed(f"model {self._name}: {_plain(error)}") from None
        return tuple(given)

    def close(self) -> None:
        """Let go of the session."""
        del self._session


@functools.cache
def working_providers() -> tuple[str, ...]:
    """Return the providers that start here, the best first: one that is installed may lack its driver or libraries."""
    known = onnxruntime.get_available_providers()
    return tuple(name for name in BEST_FIRST if name in known and (name == CPU_PROVIDER or _starts(name)))


def _starts(provider: str) -> bool:
    try:
        session = onnxruntime.InferenceSession(IDENTITY, _options(1), providers=[provider, CPU_PROVIDER])
    except REFUSALS:
        return False
    return provider in session.get_providers()


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    # A thread that waits must not burn the core that decodes the next frame.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _info(tensor: onnxruntime.NodeArg, name: str) -> TensorInfo:
    if tensor.type not in DTYPES:
        raise EngineFailed(f"model {name}: {tensor.name} is a {tensor.type}; plain tensors are run")
    batch, *sides = [side if isinstance(side, int) else -1 for side in tensor.shape] or [1]
    return TensorInfo((abs(batch), *sides), np.dtype(DTYPES[tensor.type]), 0.0, 0, tensor.name)


def _plain(error: Exception) -> str:
    """Return one line of what the runtime says, without its own marks."""
    return " ".join(str(error).split(" : ", 2)[-1].split())
