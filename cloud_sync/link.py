"""Is there a link: learnt from what the cloud committed, tried again with full jitter while it is down. No I/O here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

State = Literal["unknown", "up", "down"]
Random = Callable[[float, float], float]


class Backoff:
    """Pauses between tries that fail: a random part of a bound that doubles, until something succeeds."""

    def __init__(self, first_s: float, max_s: float, random: Random) -> None:
        """`random(low, high)` gives the jitter."""
        self._first_s, self._max_s, self._random = first_s, max_s, random
        self.failures = 0
        self._try_at_s = float("-inf")

    def wait_s(self, now_s: float) -> float:
        """Return for how long nothing should be tried; 0 or less for now."""
        return self._try_at_s - now_s

    def failed(self, now_s: float, at_least_s: float = 0.0) -> None:
        """Take note of a failure."""
        bound_s = min(self._max_s, self._first_s * 2 ** min(self.failures, 30))
        self.failures += 1
        self._try_at_s = now_s + max(at_least_s, self._random(0, bound_s))

    def succeeded(self) -> None:
        """Begin again with the shortest bound, and with no pause."""
        self.failures, self._try_at_s = 0, float("-inf")

    def try_now(self) -> None:
        """Cut the present pause short; the next one is no shorter for it."""
        self._try_at_s = float("-inf")


class Link:
    """The link's state; only a committed batch makes it up.

    It is a circuit breaker as well: after `breaker_failures` failures in a row it is half open, and what is tried
    then should be small.
    """

    def __init__(
        self,
        first_s: float,
        max_s: float,
        random: Random,
        *,
        breaker_failures: int = 5,
        retry_after_max_s: float = 900.0,
    ) -> None:
        """`random(low, high)` gives the jitter; `retry_after_max_s` bounds the pause that the cloud may ask for."""
        self.new_backoff = partial(Backoff, first_s, max_s, random)
        """Makes further backoffs with the same bounds, for what fails on its own."""
        self._backoff = self.new_backoff()
        self._breaker_failures, self._retry_after_max_s = breaker_failures, retry_after_max_s
        self.state: State = "unknown"

    @property
    def failures(self) -> int:
        """How many tries have failed since the last committed batch."""
        return self._backoff.failures

    @property
    def half_open(self) -> bool:
        """Whether the next request is only a try."""
        return self.failures >= self._breaker_failures

    def wait_s(self, now_s: float) -> float:
        """Return for how long nothing should be tried; 0 or less for now."""
        return self._backoff.wait_s(now_s)

    def committed(self) -> bool:
        """Take note of a committed batch; return whether the link came up with it."""
        came_up = self.state != "up"
        self.state = "up"
        self._backoff.succeeded()
        return came_up

    def failed(self, now_s: float, retry_after_s: float | None = None) -> bool:
        """Take note of a failure, and of the pause that the cloud asked for; return whether the link went down."""
        went_down = self.state != "down"
        self.state = "down"
        self._backoff.failed(now_s, min(retry_after_s or 0.0, self._retry_after_max_s))
        return went_down

    def try_now(self) -> None:
        """Cut the present pause short: what was wrong on this side has been mended."""
        self._backoff.try_now()
