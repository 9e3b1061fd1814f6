"""A MobileNetV2 1.0 224 in ONNX with random weights, and the same by quantize_dynamic: how fast it is, not how right.

mobilenet_onnx FOLDER: writes float.onnx and dynamic.onnx there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

BLOCKS = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
"""Expansion, channels, repeats, stride of the first, as the paper's table 2 has them."""


class Network:
    """Grows node by node."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(1)
        self._keep("zero", np.float32(0))
        self._keep("six", np.float32(6))

    def conv(self, given: str, channels: tuple[int, int], side: int, stride: int, groups: int, relu: bool) -> str:
        """Append a convolution with a bias, as it is once batch normalisation is folded in; return its output."""
        name, (inward, outward) = f"n{len(self.nodes)}", channels
        fan = inward // groups * side * side
        shape = (outward, inward // groups, side, side)
        self._keep(f"{name}w", self._rng.normal(0, np.sqrt(2 / fan), shape).astype(np.float32))
        self._keep(f"{name}b", np.zeros(outward, np.float32))
        pads = [side // 2] * 4
        options = {"kernel_shape": [side, side], "strides": [stride, stride], "pads": pads, "group": groups}
        self.nodes.append(helper.make_node("Conv", [given, f"{name}w", f"{name}b"], [name], **options))
        return self.node("Clip", name, "zero", "six") if relu else name

    def node(self, kind: str, *given: str) -> str:
        """Append a node; return its output."""
        name = f"n{len(self.nodes)}{kind}"
        self.nodes.append(helper.make_node(kind, list(given), [name]))
        return name

    def classes(self, given: str, inward: int, outward: int) -> str:
        """Append the mean over the picture, a matrix and a softmax; return its output."""
        flat = self.node("Flatten", self.node("GlobalAveragePool", given))
        self._keep("classw", self._rng.normal(0, 0.03, (inward, outward)).astype(np.float32))
        return self.node("Softmax", self.node("MatMul", flat, "classw"))

    def _keep(self, name: str, value: object) -> None:
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))


def mobilenet() -> onnx.ModelProto:
    """Return the model: (1, 3, 224, 224) floats to (1, 1000) scores."""
    net = Network()
    last, channels = net.conv("image", (3, 32), 3, 2, 1, relu=True), 32
    for expansion, outward, repeats, first_stride in BLOCKS:
        for repeat in range(repeats):
            stride, given, wide = first_stride if repeat == 0 else 1, last, channels * expansion
            if expansion > 1:
                last = net.conv(last, (channels, wide), 1, 1, 1, relu=True)
            last = net.conv(last, (wide, wide), 3, stride, wide, relu=True)
            last = net.conv(last, (wide, outward), 1, 1, 1, relu=False)
            if stride == 1 and channels == outward:
                last = net.node("Add", last, given)
            channels = outward
    last = net.classes(net.conv(last, (channels, 1280), 1, 1, 1, relu=True), 1280, 1000)
    floats = TensorProto.FLOAT
    given = helper.make_tensor_value_info("image", floats, [1, 3, 224, 224])
    gives = helper.make_tensor_value_info(last, floats, [1, 1000])
    graph = helper.make_graph(net.nodes, "mobilenet", [given], [gives], net.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    onnx.save(mobilenet(), folder / "float.onnx")
    quantize_dynamic(folder / "float.onnx", folder / "dynamic.onnx", weight_type=QuantType.QUInt8)
