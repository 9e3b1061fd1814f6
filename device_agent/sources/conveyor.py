"""A rendered conveyor as a camera: parts pass at a steady rate, and each capture says what is really there."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from device_agent.sources.parts import LABELS, drifting_light, render_part
from device_agent.sources.source import Capture, Picture, SourceFinished

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from millrace.clock import Clock


class Conveyor:
    """A Source of rendered pictures; the same seed gives the same parts in the same order.

    `rate_hz` frames a second come, `count` in all (None: without end), `defect_ratio` of them with a defect.
    A reader that is late gets the next part then, and the one after it at the next tick: nothing comes in a burst.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        rate_hz: float = 2.0,
        count: int | None = None,
        seed: int = 0,
        width_px: int = 640,
        height_px: int = 480,
        defect_ratio: float = 0.3,
    ) -> None:
        if rate_hz <= 0:
            raise ValueError(f"rate_hz is {rate_hz}; it must be above 0")
        if not 0 <= defect_ratio <= 1:
            raise ValueError(f"defect_ratio is {defect_ratio}; it must be from 0 to 1")
        self._clock = clock
        self._interval_s = 1.0 / rate_hz
        self._count = count
        self._seed = seed
        self._width_px = width_px
        self._height_px = height_px
        self._defect_ratio = defect_ratio
        self._frame_number = 0
        self._due_s = clock.uptime_s()
        self._closed = threading.Event()

    def read(self, timeout_s: float) -> Capture | None:
        """Return the next part's picture, or None if none is due within `timeout_s`.

        Errors: SourceFinished after `count` pictures, or once the conveyor is closed.
        """
        if self._closed.is_set() or self._frame_number == self._count:
            raise SourceFinished(f"the conveyor ended after {self._frame_number} parts")
        wait_s = self._due_s - self._clock.uptime_s()
        if wait_s > 0 and (self._closed.wait(min(wait_s, timeout_s)) or wait_s > timeout_s):
            return None
        ticks_missed = max(0.0, self._clock.uptime_s() - self._due_s) // self._interval_s
        self._due_s += (ticks_missed + 1) * self._interval_s
        label, pixels = self._part(self._frame_number)
        self._frame_number += 1
        return Capture(self._clock.now(), Picture(pixels=pixels), truth=label)

    def close(self) -> None:
        """End a waiting read and every later one."""
        self._closed.set()

    def _part(self, frame_number: int) -> tuple[str, NDArray[np.uint8]]:
        rng = np.random.default_rng((self._seed, frame_number))
        label = str(rng.choice(LABELS[1:])) if rng.random() < self._defect_ratio else LABELS[0]
        light = drifting_light(frame_number, phase=float(self._seed % 360))
        return label, render_part(rng, label, light, self._width_px, self._height_px)
