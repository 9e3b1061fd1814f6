"""How fast each lane drains: rows settled in a second of sending, over the last batches. No I/O here."""

from __future__ import annotations

from collections import deque

from millrace.entries import Lane

WINDOW_BATCHES = 64
WINDOW_S = 60.0


class DrainRate:
    """The last batches, at most WINDOW_S of sending. Time without anything to send, or without a link, is not in it."""

    def __init__(self) -> None:
        self._batches: deque[tuple[Lane, int, float]] = deque(maxlen=WINDOW_BATCHES)

    def note(self, lane: Lane, rows: int, spent_s: float) -> None:
        """Take note of a batch that the cloud committed."""
        self._batches.append((lane, rows, max(spent_s, 1e-3)))
        while len(self._batches) > 1 and self._spent_s() > WINDOW_S:
            self._batches.popleft()

    def rates(self) -> dict[Lane, float]:
        """Return rows per second of each lane that was sent lately, the time that went to the others included."""
        rows: dict[Lane, int] = {}
        for lane, count, _ in self._batches:
            rows[lane] = rows.get(lane, 0) + count
        spent_s = self._spent_s()
        return {lane: count / spent_s for lane, count in rows.items()}

    def _spent_s(self) -> float:
        return sum(spent_s for _, _, spent_s in self._batches)


def eta_s(rows: int, rows_per_s: float | None, *, moves: bool) -> float | None:
    """Return in how many seconds a lane's backlog is done at the rate measured; None while that cannot be said."""
    if not rows:
        return 0.0
    return rows / rows_per_s if moves and rows_per_s else None
