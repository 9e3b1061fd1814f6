"""Time that stands still until a test moves it."""

from __future__ import annotations

from dataclasses import dataclass

from millrace.clock import Instant

WALL_NS = 1_790_000_000_000_000_000


@dataclass
class FakeClock:
    """A clock whose wall never moves; its uptime is what a test sets."""

    seconds: float = 100.0

    def now(self) -> Instant:
        """Return this moment of the boot `f00d`."""
        return Instant(WALL_NS, "f00d", int(self.seconds * 1e9))

    def uptime_s(self) -> float:
        """Return the seconds set."""
        return self.seconds
