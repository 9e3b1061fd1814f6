"""A detector made here, with the runtime's own TFLite_Detection_PostProcess: it sees green and blue pixels."""

from __future__ import annotations

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

LABELS = ("green", "blue")
MOST = 4
SCALE = 10.0


def ssd_model(side: int) -> bytes:
    """Return a TensorFlow Lite model for float pictures (1, side, side, 3) of 0 to 1.

    Each pixel is an anchor and its colours are its scores: red that of the background, then those of LABELS.
    """
    rows, columns = np.divmod(np.arange(side * side), side)
    sides = np.full(side * side, 1 / side)
    anchors = np.stack([(rows + 0.5) / side, (columns + 0.5) / side, sides, sides], axis=1).astype(np.float32)
    graph = schema.SubGraphT()
    graph.tensors = []
    model = schema.ModelT()
    model.version, model.buffers, model.subgraphs = 3, [schema.BufferT()], [graph]

    def tensor(name: str, shape: tuple[int, ...], content: np.ndarray | None = None) -> int:
        made = schema.TensorT()
        made.name, made.shape, made.type = name, list(shape), schema.TensorType.FLOAT32
        if content is not None:
            buffer = schema.BufferT()
            buffer.data = list(content.tobytes())
            model.buffers.append(buffer)
            made.buffer = len(model.buffers) - 1
            if content.dtype == np.int32:
                made.type = schema.TensorType.INT32
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    def operator(code: int, inputs: list[int], outputs: list[int]) -> schema.OperatorT:
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = code, inputs, outputs
        return made

    picture = tensor("picture", (1, side, side, 3))
    scores = tensor("scores", (1, side * side, 3))
    shape = tensor("shape", (3,), np.array([1, side * side, 3], np.int32))
    offsets = tensor("offsets", (1, side * side, 4), np.zeros((1, side * side, 4), np.float32))
    anchor = tensor("anchors", anchors.shape, anchors)
    found = [tensor(f"TFLite_Detection_PostProcess:{at}", shape) for at, shape in enumerate(_shapes())]
    suppress = operator(1, [offsets, scores, anchor], found)
    suppress.customOptions = list(_options())
    graph.operators = [operator(0, [picture, shape], [scores]), suppress]
    graph.inputs, graph.outputs = [picture], found
    model.operatorCodes = [_code(schema.BuiltinOperator.RESHAPE), _code(schema.BuiltinOperator.CUSTOM)]
    model.operatorCodes[1].customCode = "TFLite_Detection_PostProcess"
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _shapes() -> list[tuple[int, ...]]:
    return [(1, MOST, 4), (1, MOST), (1, MOST), (1,)]


def _code(builtin: int) -> schema.OperatorCodeT:
    made = schema.OperatorCodeT()
    made.builtinCode = made.deprecatedBuiltinCode = builtin
    made.version = 1
    return made


def _options() -> bytes:
    made = flexbuffers.Builder()
    with made.Map():
        for name, number in [("max_detections", MOST), ("max_classes_per_detection", 1), ("num_classes", len(LABELS))]:
            made.Int(name, number)
        for name, ratio in [("nms_score_threshold", 0.1), ("nms_iou_threshold", 0.5)]:
            made.Float(name, ratio)
        for name in ("y_scale", "x_scale", "h_scale", "w_scale"):
            made.Float(name, SCALE)
    return bytes(made.Finish())
