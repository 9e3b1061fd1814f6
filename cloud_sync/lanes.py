"""Which rows go next: lanes by weight, oldest first, with a share for what is live. No I/O here.

Nothing starves: while several lanes wait, each is served in proportion to its weight.
"""

from __future__ import annotations

from collections.abc import Iterable

from millrace.entries import Lane
from millrace.ranges import RangeSet

WEIGHTS = {Lane.ALARM: 32, Lane.VERDICT: 16, Lane.RESULT: 16, Lane.FRAME: 4, Lane.BULK: 4}


class Schedule:
    """Smooth weighted round robin over the lanes that have something to send."""

    def __init__(self, live_share: float) -> None:
        self._live_share = live_share
        self._credit: dict[Lane, float] = dict.fromkeys(WEIGHTS, 0.0)
        self._live_credit = 0.0

    def next_lane(self, waiting: Iterable[Lane]) -> Lane | None:
        """Return the lane whose turn it is among those that wait, or None if none does."""
        lanes = [lane for lane in WEIGHTS if lane in set(waiting)]
        if not lanes:
            return None
        for lane in lanes:
            self._credit[lane] += WEIGHTS[lane]
        chosen = max(lanes, key=lambda lane: (self._credit[lane], -lane))
        self._credit[chosen] -= sum(WEIGHTS[lane] for lane in lanes)
        return chosen

    def live_turn(self) -> bool:
        """Say whether this request carries the newest rows rather than the oldest."""
        self._live_credit += self._live_share
        if self._live_credit < 1:
            return False
        self._live_credit -= 1
        return True


def oldest_unsettled(settled: RangeSet) -> int:
    """Return the position after which the backlog of a lane begins: everything up to it is settled."""
    first = next(iter(settled), None)
    return first[1] if first is not None and first[0] == 1 else 0
