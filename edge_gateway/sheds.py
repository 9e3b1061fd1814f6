"""What is given up of publishers that keep nothing: counted, and said in one ledger record a device and second.

A flood of bare messages then costs the store one row a second, not one for each. No I/O; safe between threads.
"""

from __future__ import annotations

import threading
from collections import Counter

SAID_EVERY_S = 1.0
Why = tuple[str, str]
"""(device, reason)"""


class Sheds:
    """Counts by device and reason that no ledger record speaks of yet."""

    def __init__(self) -> None:
        self._pending: Counter[Why] = Counter()
        self._said_s = float("-inf")
        self._lock = threading.Lock()

    def add(self, device: str, reason: str, count: int = 1) -> None:
        """Note that so many messages of a device were given up."""
        with self._lock:
            self._pending[device, reason] += count

    def due(self, now_s: float) -> bool:
        """Whether it is time to say what has been counted."""
        return bool(self._pending) and now_s - self._said_s >= SAID_EVERY_S

    def pending(self) -> dict[Why, int]:
        """Return what is to be said."""
        with self._lock:
            return dict(self._pending)

    def said(self, counts: dict[Why, int], now_s: float) -> None:
        """Note that ledger records for these are committed."""
        with self._lock:
            self._pending -= Counter(counts)
            self._said_s = now_s
