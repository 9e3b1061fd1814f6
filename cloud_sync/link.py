"""Is there a link: learnt from what the cloud committed, tried again with full jitter while it is down. No I/O here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

State = Literal["unknown", "up", "down"]


class Link:
    """The link's state; only a committed batch makes it up."""

    def __init__(self, first_s: float, max_s: float, random: Callable[[float, float], float]) -> None:
        """`random(low, high)` gives the jitter."""
        self._first_s, self._max_s, self._random = first_s, max_s, random
        self.state: State = "unknown"
        self.failures = 0
        self._try_at_s = float("-inf")

    def wait_s(self, now_s: float) -> float:
        """Return for how long nothing should be tried; 0 or less for now."""
        return self._try_at_s - now_s

    def committed(self, now_s: float) -> bool:
        """Take note of a committed batch; return whether the link came up with it."""
        came_up = self.state != "up"
        self.state, self.failures, self._try_at_s = "up", 0, now_s
        return came_up

    def failed(self, now_s: float, retry_after_s: float | None = None) -> bool:
        """Take note of a failure, and of the pause that the cloud asked for; return whether the link went down."""
        went_down = self.state != "down"
        self.state = "down"
        bound_s = min(self._max_s, self._first_s * 2 ** min(self.failures, 30))
        self.failures += 1
        pause_s = self._random(0, bound_s)
        if retry_after_s is not None:
            pause_s = max(pause_s, min(retry_after_s, self._max_s))
        self._try_at_s = now_s + pause_s
        return went_down
