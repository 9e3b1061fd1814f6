"""A small engine that works, until it does what a test wants of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from edge_gateway.engines.engine import Engine, EngineFailed, Tensor, TensorInfo

GIVEN = TensorInfo((1, 8), np.dtype(np.float32), 0.0, 0, "in")
SUM = TensorInfo((1, 1), np.dtype(np.float32), 0.0, 0, "sum")
SQUARES = TensorInfo((1, 8), np.dtype(np.float32), 0.0, 0, "squares")


class Odd:
    """Gives the sum and the squares of eight numbers; after so many answers it does `what`, while the file is there."""

    input, outputs = GIVEN, (SUM, SQUARES)

    def __init__(self, what: str = "", after: int = 0, file: Path | None = None) -> None:
        self._what, self._after, self._file, self._done = what, after, file, 0
        if what == "refuse" and (file is None or file.exists()):
            raise EngineFailed("no accelerator is plugged in")
        if what == "other tensors":
            self.outputs = (SUM, SUM)

    def infer(self, tensor: Tensor) -> tuple[Tensor, ...]:
        self._done += 1
        total, squares = tensor.sum(keepdims=True), tensor**2
        if self._does("raise"):
            raise EngineFailed("the accelerator lost its mind")
        while self._does("hang"):
            time.sleep(0.01)
        if self._does("abort"):
            os.kill(os.getpid(), signal.SIGABRT)
        if self._does("no number"):
            squares = squares * np.float32("nan")
        if self._does("half a shape"):
            squares = squares[:, :4]
        if self._does("wrong"):
            squares = squares + 1
        return total, squares

    def close(self) -> None:
        pass

    def _does(self, what: str) -> bool:
        return self._what == what and self._done > self._after and (self._file is None or self._file.exists())


def opening(what: str = "", after: int = 0, file: Path | None = None) -> Callable[[], Engine]:
    """Return how to open such an engine, as it can be sent to another process."""
    return partial(Odd, what, after, file)
