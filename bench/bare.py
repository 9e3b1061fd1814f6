"""The limit of a frame: decode to the model's size and invoke, by OpenCV and the runtime themselves, no more."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

Infer = Callable[[bytes], object]
WARM_UP = 8
_REDUCED = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2))


@dataclass(frozen=True, slots=True)
class Pace:
    """A run of frames: frames a second, and milliseconds of processor time for each."""

    per_s: float
    cpu_ms: float

    def beside(self, around_cpu_ms: float) -> float:
        """Return frames/s on the processor time that something else leaves which takes so much of it for each frame."""
        return self.per_s * self.cpu_ms / (self.cpu_ms + around_cpu_ms)


class Limit:
    """One runtime for each thread."""

    def __init__(self, make: Callable[[], Infer], threads: int, pictures: Sequence[bytes]) -> None:
        """`make` gives what decodes and invokes one picture."""
        cv2.setNumThreads(1)
        self._pictures = pictures
        self._sides = [make() for _ in range(threads)]
        for infer in self._sides:
            for _ in range(WARM_UP):
                infer(pictures[0])

    def pace(self, count: int) -> Pace:
        """Run so many pictures on all threads at once."""
        turns = itertools.count()

        def work(infer: Infer) -> None:
            while (turn := next(turns)) < count:
                infer(self._pictures[turn % len(self._pictures)])

        threads = [threading.Thread(target=work, args=(side,)) for side in self._sides]
        begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        spent_s, cpu_s = time.perf_counter() - begun_s, time.process_time() - begun_cpu_s
        return Pace(count / spent_s, cpu_s / count * 1000)

    def lone_ms(self, count: int) -> float:
        """Return the median milliseconds of a picture, one after another on one thread."""
        spent_ms = []
        for number in range(count):
            begun_s = time.perf_counter()
            self._sides[0](self._pictures[number % len(self._pictures)])
            spent_ms.append((time.perf_counter() - begun_s) * 1000)
        return statistics.median(spent_ms)


def litert(model: Path) -> Infer:
    """Return a LiteRT interpreter on one thread; the model takes pixels as they are, or those less 128."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model.read_bytes(), num_threads=1)
    interpreter.allocate_tensors()
    given, gives = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    _, height, width, _ = given["shape"]

    is_signed = given["dtype"] is np.int8

    def infer(picture: bytes) -> object:
        pixels = decode(picture, width, height)
        interpreter.set_tensor(given["index"], ((pixels ^ 0x80).view(np.int8) if is_signed else pixels)[np.newaxis])
        interpreter.invoke()
        return interpreter.get_tensor(gives["index"])

    return infer


def onnx(model: Path, mean: float, std: float) -> Infer:
    """Return an ONNX Runtime session on one thread, for a model that takes one float picture of 3 planes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors alone
    session: Any = onnxruntime.InferenceSession(model.read_bytes(), options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    tensor = np.empty(given.shape, np.float32)
    _, _, height, width = given.shape
    table = ((np.arange(256) - mean) / std).astype(np.float32)

    def infer(picture: bytes) -> object:
        for place, plane in enumerate(cv2.split(decode(picture, width, height))):
            cv2.LUT(plane, table, dst=tensor[0, place])
        return session.run(None, {given.name: tensor})

    return infer


def decode(picture: bytes, width: int, height: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a JPEG as RGB pixels of the given size: scaled while decoding where it is twice as large, then linear."""
    encoded = np.frombuffer(picture, np.uint8)
    full_height, full_width = _size(picture)
    spare = min(full_width // width, full_height // height)
    flag = next((flag for factor, flag in _REDUCED if spare >= factor), cv2.IMREAD_COLOR)
    pixels = cv2.imdecode(encoded, flag | cv2.IMREAD_IGNORE_ORIENTATION)
    assert pixels is not None
    if pixels.shape[:2] != (height, width):
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


_SIZES: dict[int, tuple[int, int]] = {}


def _size(picture: bytes) -> tuple[int, int]:
    """Return height and width; looked up once for each picture, for a limit knows what it gets."""
    if (known := _SIZES.get(id(picture))) is None:
        known = _SIZES[id(picture)] = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR).shape[:2]
    return known
