"""TensorFlow Lite models by LiteRT (`ai_edge_litert`), or by `tflite_runtime`, which has the same interface."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from edge_gateway.engines.engine import EngineFailed, Tensor, TensorInfo
from edge_gateway.engines.opening import Delegate

try:
    from ai_edge_litert.interpreter import Interpreter, load_delegate
except ModuleNotFoundError:
    from tflite_runtime.interpreter import (  # type: ignore[no-redef,import-not-found,unused-ignore]
        Interpreter,
        load_delegate,
    )

# What a runtime says of an operator that it does not have, and what to do then; the first that fits counts.
REMEDIES = (
    (
        "edgetpu-custom-op",
        "it is compiled for the Edge TPU and needs one: name it in the manifest as edgetpu_file,"
        " and the model that it was compiled from as file",
    ),
    (
        "Select TensorFlow op",
        "it needs operators of full TensorFlow (Flex), which are not run here:"
        " convert it with target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]",
    ),
    (
        "unresolved custom op",
        "it needs an operator that LiteRT does not have: take a model without it,"
        " or name the delegate that has it in the settings (models[].delegates)",
    ),
)


class LiteRtEngine:
    """One interpreter; invoking releases the GIL, so that several run side by side."""

    def __init__(self, model: bytes, name: str, threads: int = 1, delegate: Delegate | None = None) -> None:
        """Load a model, on a delegate if one is given; EngineFailed if the runtime or the delegate refuses."""
        self._name = name
        delegates = [] if delegate is None else [_loaded(delegate, name)]
        try:
            self._interpreter = Interpreter(
                model_content=model, num_threads=threads, experimental_delegates=delegates or None
            )
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            where = "" if delegate is None else f" on {delegate}"
            raise EngineFailed(f"model {name}: LiteRT refuses it{where}: {_refusal(str(error))}") from None
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        if len(inputs) != 1:
            raise EngineFailed(f"model {name}: has {len(inputs)} inputs; models with one are run")
        self.input, self.outputs = _info(inputs[0]), tuple(_info(output) for output in outputs)
        self._in, self._out = inputs[0]["index"], [output["index"] for output in outputs]

    def infer(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs for one input."""
        try:
            self._interpreter.set_tensor(self._in, tensor)
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise EngineFailed(f"model {self._name}: {_plain(str(error))}") from None
        return tuple(np.asarray(self._interpreter.get_tensor(index)) for index in self._out)

    def close(self) -> None:
        """Let go of the interpreter, and of its delegate."""
        del self._interpreter


def _loaded(delegate: Delegate, name: str) -> Any:
    """Return the runtime's delegate; the library is tried first: the runtime trips over one that is not good."""
    try:
        library = ctypes.CDLL(delegate.library)
    except OSError as error:
        raise EngineFailed(f"model {name}: delegate {error}; install it, or mend its path") from None
    if not hasattr(library, "tflite_plugin_create_delegate") or not hasattr(library, "tflite_plugin_destroy_delegate"):
        raise EngineFailed(f"model {name}: {delegate.library} is no TensorFlow Lite delegate")
    try:
        return load_delegate(delegate.library, dict(delegate.options))
    except ValueError as error:
        said = (
            " ".join(str(error).splitlines()[1:]).strip() or "no reason given; is the accelerator plugged in and free?"
        )
        raise EngineFailed(f"model {name}: delegate {delegate} refuses: {said}") from None


def _refusal(said: str) -> str:
    remedy = next((remedy for sign, remedy in REMEDIES if sign in said), None)
    return _plain(said) if remedy is None else f"{_plain(said)}; {remedy}"


def _plain(said: str) -> str:
    """Return the first sentence of what the runtime says."""
    return said.strip().splitlines()[0].split(". ")[0].rstrip(".")[:200]


def _info(detail: dict[str, Any]) -> TensorInfo:
    scale, zero_point = detail["quantization"]
    return TensorInfo(
        tuple(int(side) for side in detail["shape"]), np.dtype(detail["dtype"]), scale, zero_point, detail["name"]
    )
