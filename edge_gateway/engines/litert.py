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
            raise EngineFailed(f"model {self._name}: {str(error).strip().splitlines()[0]}") from None
        return tuple(np.asarray(self._interpreter.get_tensor(index)) for index in self._out)

    def close(self) -> None:
        """Let go of the interpreter."""
        del self._interpreter


def _info(detail: dict[str, Any]) -> TensorInfo:
    scale, zero_point = detail["quantization"]
    return TensorInfo(
        tuple(int(side) for side in detail["shape"]), np.dtype(detail["dtype"]), scale, zero_point, detail["name"]
    )
