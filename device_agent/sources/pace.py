"""When a played-back item is due: never ahead of time, and a late reader misses none."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from millrace.clock import Clock


class Pace:
    """The due time of the next item; the first is due at once. `end` wakes a waiting reader."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due_s = clock.uptime_s()
        self._ended = threading.Event()

    @property
    def ended(self) -> bool:
        """Whether `end` was called."""
        return self._ended.is_set()

    def reached(self, timeout_s: float) -> bool:
        """Wait until the next item is due, at most `timeout_s`, and say whether it is; false once ended."""
        wait_s = self._due_s - self._clock.uptime_s()
        if wait_s > 0 and (self._ended.wait(min(wait_s, timeout_s)) or wait_s > timeout_s):
            return False
        return not self.ended

    def advance(self, interval_s: float) -> None:
        """Set the next item `interval_s` after this one; after a pause it goes on from now, without a rush."""
        self._due_s = max(self._due_s + interval_s, self._clock.uptime_s())

    def end(self) -> None:
        """Let no item be due any more."""
        self._ended.set()
