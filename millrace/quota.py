"""What goes when a store is nearly full, by each channel's policy; pure, over rows and numbers that are passed in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from millrace import topics

Policy = Literal["reject", "drop_oldest", "thin"]

RELIEF_RATIO = 0.95
"""Once over high water, so much of it is gone down to, so that not every event that comes makes one go."""
RUN_ROWS = 32


@dataclass(frozen=True, slots=True)
class Held:
    """A row that could go: its place in the queue, what it is and of which channel, its policy, and what it takes."""

    position: int
    kind: topics.Kind
    channel: str
    policy: Policy
    size_bytes: int


def excess_bytes(held_bytes: int, needed_bytes: int, high_water_bytes: float) -> int:
    """Return how many bytes should go so that what is needed fits; 0 for none."""
    if held_bytes + needed_bytes <= high_water_bytes:
        return 0
    return held_bytes + needed_bytes - int(high_water_bytes * RELIEF_RATIO)


class Shedding:
    """Goes through what is held, from the oldest on, again and again, and picks what goes.

    Of a channel to be thinned every second one goes in each pass, so that the whole time of each channel stays covered.
    Frames go one by one; what is small goes in runs of 32, for each range that goes costs a ledger record.
    """

    def __init__(self) -> None:
        self._passed: Counter[str] = Counter()

    def pick(self, rows: Iterable[Held], excess: int) -> tuple[list[Held], int]:
        """Return which rows go, until `excess` bytes are free, and the position up to which was looked (0: none)."""
        going: list[Held] = []
        looked = 0
        for row in rows:
            if excess <= 0:
                break
            looked = row.position
            if self._goes(row):
                going.append(row)
                excess -= row.size_bytes
        return going, looked

    def _goes(self, row: Held) -> bool:
        if row.policy != "thin":
            return row.policy == "drop_oldest"
        run = 1 if row.kind is topics.Kind.FRAME else RUN_ROWS
        self._passed[row.channel] += 1
        return (self._passed[row.channel] - 1) // run % 2 == 1
