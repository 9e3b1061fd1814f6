"""TensorFlow Lite models by LiteRT (`ai_edge_litert`), or by `tflite_runtime`, which has the same interface."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_gateway.engines.engine import EngineFailed, Tensor, TensorInfo

try:
    from ai_edge_litert.interpreter import Interpreter
except ModuleNotFoundError:
    from tflite_runtime.interpreter import Interpreter  # type: ignore[no-redef,import-not-found,unused-ignore]


class LiteRtEngine:
    """One interpreter on one thread; invoking releases the GIL, so that several run side by side."""

    def __init__(self, model: bytes, name: str) -> None:
        """Load a model; EngineFailed if this runtime refuses it."""
        self._name = name
        try:
            self._interpreter = Interpreter(model_content=model, num_threads=1)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise EngineFailed(f"model {name}: LiteRT refuses it: {str(error).strip().splitlines()[0]}") from None
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        if len(inputs) != 1 or len(outputs) != 1:
            raise EngineFailed(f"model {name}: has {len(inputs)} inputs and {len(outputs)} outputs; one of each is run")
        self.input, self.output = _info(inputs[0]), _info(outputs[0])
        self._in, self._out = inputs[0]["index"], outputs[0]["index"]

    def infer(self, tensor: Tensor) -> Tensor:
        """Return the output for one input."""
        try:
            self._interpreter.set_tensor(self._in, tensor)
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise EngineFailed(f"model {self._name}: {str(error).strip().splitlines()[0]}") from None
        return np.asarray(self._interpreter.get_tensor(self._out))


def _info(detail: dict[str, Any]) -> TensorInfo:
    scale, zero_point = detail["quantization"]
    return TensorInfo(tuple(int(side) for side in detail["shape"]), np.dtype(detail["dtype"]), scale, zero_point)
