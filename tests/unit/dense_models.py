"""One dense model, y = flat(x) @ weights + bias, written for each runtime with the same numbers; and what none runs."""

from __future__ import annotations

import io
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

SHAPE = (1, 3, 2, 3)
"""A picture of 3 rows as NHWC has it, and of 2 as NCHW has it."""
_numbers = np.random.default_rng(4)
WEIGHTS = _numbers.normal(size=(18, 5)).astype(np.float32)
BIAS = _numbers.normal(size=5).astype(np.float32)


def expected(given: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what every engine has to give, but for rounding."""
    return given.reshape(1, -1) @ WEIGHTS + BIAS


def npz(**changed: Any) -> bytes:
    """Return it for the reference engine, with some of its arrays changed."""
    file = io.BytesIO()
    np.savez(file, **({"shape": np.asarray(SHAPE), "weights": WEIGHTS, "bias": BIAS} | changed))
    return file.getvalue()


def tflite(custom: str | None = None, weights: NDArray[np.float32] = WEIGHTS) -> bytes:
    """Return it for LiteRT; with `custom`, by an operator of that name, which no runtime has."""
    model = schema.ModelT()
    model.version = 3
    code = schema.OperatorCodeT()
    kind = schema.BuiltinOperator.FULLY_CONNECTED if custom is None else schema.BuiltinOperator.CUSTOM
    code.builtinCode, code.deprecatedBuiltinCode, code.version = kind, kind, 1
    code.customCode = custom
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0, 1, 2], [3]
    if custom is None:
        operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
        operator.builtinOptions = schema.FullyConnectedOptionsT()
    graph = schema.SubGraphT()
    graph.inputs, graph.outputs, graph.operators = [0], [3], [operator]
    stored = [b"", weights.T.tobytes(), BIAS.tobytes()]
    graph.tensors = [_tensor("x", SHAPE, 0), _tensor("w", (5, 18), 1), _tensor("b", (5,), 2), _tensor("y", (1, 5), 0)]
    model.operatorCodes, model.subgraphs, model.buffers = [code], [graph], [_buffer(data) for data in stored]
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def onnx(
    batch: int | str = 1, width: int | str = 3, scores: int | str = 5, element: int = 1, weights_in: str | None = None
) -> bytes:
    """Return it for ONNX Runtime.

    Sides may be free (a name), the input of another type (by ONNX's number), and the weights in another file.
    """
    nodes = [
        _node("Flatten", ["x"], "flat"),
        _node("Cast", ["flat"], "real", to=1),
        _node("Gemm", ["real", "w", "b"], "y"),
    ]
    stored = [_stored("w", WEIGHTS, weights_in), _stored("b", BIAS)]
    ends = [_field(11, _value("x", (batch, 3, 2, width), element)), _field(12, _value("y", (batch, scores), 1))]
    graph = b"".join(
        [*(_field(1, node) for node in nodes), _field(2, b"g"), *(_field(5, one) for one in stored), *ends]
    )
    return _field(1, 8) + _field(7, graph) + _field(8, _field(1, b"") + _field(2, 13))


def onnx_of_zeros() -> bytes:
    """Return a model that says where its input holds zeros, as that many numbers: a shape that depends on the input."""
    nodes = [
        _node("Cast", ["x"], "something", to=9),
        _node("Not", ["something"], "nothing"),
        _node("NonZero", ["nothing"], "places"),
        _node("Cast", ["places"], "y", to=1),
    ]
    ends = [_field(11, _value("x", (1, 3, 2, 3), 1)), _field(12, _value("y", (4, "n"), 1))]
    graph = b"".join([*(_field(1, node) for node in nodes), _field(2, b"g"), *ends])
    return _field(1, 8) + _field(7, graph) + _field(8, _field(1, b"") + _field(2, 13))


def _tensor(name: str, shape: tuple[int, ...], buffer: int) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), schema.TensorType.FLOAT32, buffer
    return tensor


def _buffer(data: bytes) -> Any:
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(data, np.uint8) if data else None
    return buffer


# Protocol Buffers, as much of it as ONNX's three messages need: numbers, and texts or messages with their length.
def _field(number: int, content: int | bytes) -> bytes:
    if isinstance(content, int):
        return _varint(number << 3) + _varint(content)
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + _varint(number >> 7)


def _node(kind: str, given: list[str], output: str, **numbers: int) -> bytes:
    settings = [_field(1, name.encode()) + _field(3, number) + _field(20, 2) for name, number in numbers.items()]
    ends = [*(_field(1, name.encode()) for name in given), _field(2, output.encode()), _field(4, kind.encode())]
    return b"".join([*ends, *(_field(5, one) for one in settings)])


def _stored(name: str, array: NDArray[np.float32], file: str | None = None) -> bytes:
    head = b"".join(_field(1, side) for side in array.shape) + _field(2, 1) + _field(8, name.encode())
    if file is None:
        return head + _field(9, array.tobytes())
    return head + _field(13, _field(1, b"location") + _field(2, file.encode())) + _field(14, 1)


def _value(name: str, shape: tuple[int | str, ...], element: int) -> bytes:
    sides = [_field(1, side) if isinstance(side, int) else _field(2, side.encode()) for side in shape]
    tensor = _field(1, element) + _field(2, b"".join(_field(1, side) for side in sides))
    return _field(1, name.encode()) + _field(2, _field(1, tensor))
