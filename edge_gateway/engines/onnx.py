"""ONNX models by ONNX Runtime, on its TensorRT, CUDA or CPU provider."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state

from edge_gateway.engines.engine import EngineFailed, Tensor, TensorInfo
from edge_gateway.engines.opening import CPU_PROVIDER

BEST_FIRST = ("TensorrtExecutionProvider", "CUDAExecutionProvider", CPU_PROVIDER)
# The runtime has a class of its own for each status, and more with each version.
_STATUSES = [kind for kind in vars(onnxruntime_pybind11_state).values() if isinstance(kind, type)]
REFUSALS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    *(kind for kind in _STATUSES if issubclass(kind, Exception)),
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
NO_FOLDER = "/dev/null"
# The smallest whole model: y = x for one float, opset 13.
IDENTITY = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01g'
    b"Z\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


class OnnxEngine:
    """One session; running releases the GIL, so that several run side by side. Numbers are real: scale is 0."""

    def __init__(self, model: bytes, name: str, threads: int = 1, providers: Sequence[str] = (CPU_PROVIDER,)) -> None:
        """Load a model on all of these providers.

        Errors: EngineFailed if a provider does not start, the runtime refuses the model, or the model does not have one
        input of a fixed shape.
        """
        self._name = name
        try:
            self._session = _session(model, threads, providers)
        except REFUSALS as error:
            raise EngineFailed(f"model {name}: ONNX Runtime refuses it: {_plain(error)}") from None
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise EngineFailed(f"model {name}: has {len(inputs)} inputs; models with one are run")
        batch, *sides = _shape(inputs[0]) or (1,)
        self.input = _info(inputs[0], (abs(batch), *sides), name)
        if -1 in self.input.shape:
            raise EngineFailed(
                f"model {name}: input {self.input.name} leaves sides free {tuple(inputs[0].shape)};"
                f" export the model with fixed ones"
            )
        self.outputs = self._described(self._session.get_outputs())

    def _described(self, outputs: Sequence[onnxruntime.NodeArg]) -> tuple[TensorInfo, ...]:
        """Return what comes out; sides that the model leaves free, such as a batch, are measured."""
        shapes = [_shape(output) for output in outputs]
        if any(-1 in shape for shape in shapes):
            shapes = [given.shape for given in self.infer(np.zeros(self.input.shape, self.input.dtype))]
        return tuple(_info(output, shape, self._name) for output, shape in zip(outputs, shapes, strict=True))

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
        _session(IDENTITY, 1, (provider, CPU_PROVIDER))
    except REFUSALS:
        return False
    return True


def _session(model: bytes, threads: int, providers: Sequence[str]) -> onnxruntime.InferenceSession:
    """Return a session on all of these providers; on fewer is an error, and so is one that fails later."""
    _all_of(providers, onnxruntime.get_available_providers())
    session = onnxruntime.InferenceSession(model, _options(threads), providers=list(providers), enable_fallback=0)
    session.disable_fallback()
    _all_of(providers, session.get_providers())
    return session


def _all_of(providers: Sequence[str], there: Sequence[str]) -> None:
    missing = [name for name in providers if name not in there]
    if missing:
        raise RuntimeError(f"{', '.join(missing)} does not start here")


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    # A thread that waits must not burn the core that decodes the next frame.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Weights in other files would be looked for in the working directory, and the bundle's digest does not cover them.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", NO_FOLDER)
    return options


def _shape(tensor: onnxruntime.NodeArg) -> tuple[int, ...]:
    return tuple(side if isinstance(side, int) else -1 for side in tensor.shape)


def _info(tensor: onnxruntime.NodeArg, shape: tuple[int, ...], name: str) -> TensorInfo:
    if tensor.type not in DTYPES:
        raise EngineFailed(f"model {name}: {tensor.name} is a {tensor.type}; plain tensors are run")
    return TensorInfo(shape, np.dtype(DTYPES[tensor.type]), 0.0, 0, tensor.name)


def _plain(error: Exception) -> str:
    """Return one line of what the runtime says, without its own marks."""
    return " ".join(str(error).split(" : ", 2)[-1].split())
