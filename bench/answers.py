"""Fast and right: what the real models see in real pictures by the gateway's scaled decoding, and by full decoding.

Each picture is asked about as a JPEG in its own size, at 720p and at 1600x1200, where scaled decoding sets in.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from bench.measures import Measure, at_most
from bench.models import DATA
from bench.native import LeftOut
from edge_gateway.bundle import InputSettings
from edge_gateway.engines.engine import TensorInfo
from edge_gateway.settings import LimitSettings
from edge_gateway.tensors import Preparation

MODELS = {"tf2_mobilenet_v2_1.0_224_ptq.tflite": (127.0, 127.5), "mobilenet_v2_1.0_224_quant.tflite": (128.0, 128.0)}
"""Mean and deviation by which their pixels stay as they are."""
SIZES = (None, (1280, 720), (1600, 1200))


def measures() -> list[Measure]:
    """Return how many answers differ. Errors: LeftOut."""
    files = sorted(file for file in (DATA / "images").glob("*") if file.suffix in (".jpg", ".bmp"))
    if not files:
        raise LeftOut("no pictures at ../shared/data")
    asked = differing = 0
    for name, numbers in MODELS.items():
        interpreter = Interpreter(model_path=str(DATA / "models" / name), num_threads=1)
        interpreter.allocate_tensors()
        for full, scaled in _tensors(interpreter, numbers, files):
            asked += 1
            differing += _best(interpreter, full) != _best(interpreter, scaled)
    return [
        at_most(f"of {asked} top-1 answers by scaled decoding, those that full decoding has otherwise", differing, 0)
    ]


def _tensors(
    interpreter: Interpreter, numbers: tuple[float, float], files: list[Path]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    given = interpreter.get_input_details()[0]
    _, height, width, _ = shape = tuple(int(side) for side in given["shape"])
    wanted = InputSettings(width=width, height=height, mean=numbers[0], std=numbers[1])
    preparation = Preparation(
        wanted, TensorInfo(shape, np.dtype(np.uint8), *given["quantization"]), LimitSettings().max_pixels, "bench"
    )
    for file in files:
        for size in SIZES:
            pixels = cv2.imread(str(file))
            pixels = pixels if size is None else cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC)
            picture = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
            full = cv2.resize(cv2.imdecode(picture, cv2.IMREAD_COLOR), (width, height), interpolation=cv2.INTER_LINEAR)
            yield cv2.cvtColor(full, cv2.COLOR_BGR2RGB)[np.newaxis], preparation.tensor(picture.tobytes())


def _best(interpreter: Interpreter, tensor: np.ndarray) -> int:
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], tensor)
    interpreter.invoke()
    return int(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).argmax())
