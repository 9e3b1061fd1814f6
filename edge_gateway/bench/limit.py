"""What this machine could do at most: decode and invoke alone, without broker, disk or answers."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_gateway.bundle import load_bundle
from edge_gateway.engines.engine import Engine
from edge_gateway.engines.opening import Choice, open_engine
from edge_gateway.loaded import plan_for
from edge_gateway.settings import LimitSettings, ModelSettings
from edge_gateway.tensors import Preparation

MAX_PIXELS = LimitSettings().max_pixels
WARM_UP = 8


@dataclass(frozen=True, slots=True)
class Pace:
    """A run of frames: frames a second, and milliseconds of processor time for each."""

    per_s: float
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class Lone:
    """One frame by itself: milliseconds to decode it to a tensor, and to invoke the model. Medians."""

    decode_ms: float
    invoke_ms: float

    @property
    def all_ms(self) -> float:
        """Both."""
        return self.decode_ms + self.invoke_ms


@dataclass(frozen=True, slots=True)
class _Side:
    """What one thread works with."""

    engine: Engine
    preparation: Preparation


class Limit:
    """One engine for each thread, of one bundle; used while nothing else runs."""

    def __init__(self, bundle: Path, threads: int) -> None:
        """Load and warm them. Errors: ConfigError, EngineFailed."""
        self.bundle = load_bundle(bundle)
        choices = plan_for(self.bundle, ModelSettings(bundle=bundle)).choices
        self._sides = [self._side(choices[number % len(choices)]) for number in range(threads)]
        for side in self._sides:
            for _ in range(WARM_UP):
                side.engine.infer(np.zeros(side.engine.input.shape, side.engine.input.dtype))
        self.is_float = self._sides[0].engine.input.dtype.kind == "f"

    def _side(self, choice: Choice) -> _Side:
        bundle = self.bundle
        engine = open_engine(choice, bundle.content(choice.file), bundle.name)
        return _Side(engine, Preparation(bundle.manifest.picture, engine.input, MAX_PIXELS, bundle.name))

    def run(self, pictures: Sequence[bytes], count: int) -> Pace:
        """Decode and infer so many pictures, on all threads at once."""
        turns = itertools.count()

        def work(side: _Side) -> None:
            while (turn := next(turns)) < count:
                side.engine.infer(side.preparation.tensor(pictures[turn % len(pictures)]))

        threads = [threading.Thread(target=work, args=(side,)) for side in self._sides]
        begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        spent_s, cpu_s = time.perf_counter() - begun_s, time.process_time() - begun_cpu_s
        return Pace(count / spent_s, cpu_s / count * 1000)

    def lone(self, pictures: Sequence[bytes], count: int) -> Lone:
        """Decode and infer so many pictures one after another."""
        side = self._sides[0]
        decode_ms, invoke_ms = [], []
        for number in range(count):
            begun_s = time.perf_counter()
            tensor = side.preparation.tensor(pictures[number % len(pictures)])
            decoded_s = time.perf_counter()
            side.engine.infer(tensor)
            decode_ms.append((decoded_s - begun_s) * 1000)
            invoke_ms.append((time.perf_counter() - decoded_s) * 1000)
        return Lone(statistics.median(decode_ms), statistics.median(invoke_ms))
