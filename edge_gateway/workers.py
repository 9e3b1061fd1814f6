"""The inference threads: frames, windows of readings and what is asked by HTTP, shared by the models."""

from __future__ import annotations

import os
from concurrent.futures import Future
from functools import partial

from edge_gateway.admission import Arrived, Outcome
from edge_gateway.crew import Crew
from edge_gateway.engines.engine import Tensor
from edge_gateway.models import Models


class Workers:
    """The inference threads, and what waits for them; no model holds more of them than its share."""

    def __init__(self, models: Models, count: int) -> None:
        """Start `count` threads (0: one for each core)."""
        self.count = worker_count(count)
        self._models = models
        self._crew = Crew(self.count, models.engines)

    def start(self, arrived: Arrived) -> None:
        """Begin the inference of a frame; its outcome is a future on the arrival itself."""
        places = self._models.serving(arrived.device, str(arrived.topic.channel))
        if places:
            infer = partial(self._models.infer, arrived.payload, places, arrived.digest)
            arrived.outcome = self._crew.submit(places, infer)

    def ask_window(self, place: int, window: Tensor) -> Future[Outcome]:
        """Begin the inference of a window of readings; the future gives what Models.infer gives."""
        return self._crew.submit([place], partial(self._models.infer, window, [place]))

    def ask(self, place: int, name: str, given: Tensor | bytes) -> Future[tuple[Tensor, ...]]:
        """Begin a bare inference for somebody who is no frame; the future gives what Models.infer_raw gives."""
        return self._crew.submit([place], partial(self._models.infer_raw, place, name, given))

    def close(self) -> None:
        """End the threads."""
        self._crew.close()


def worker_count(wanted: int) -> int:
    """Return how many inference threads there are where the settings say so many: 0 is one for each core."""
    return wanted or len(os.sched_getaffinity(0))
