"""What the spool lets go of above high water: rows on disk, as each kind's policy says, every range declared."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from device_agent.packing import kind_of
from device_agent.rows import Rows
from device_agent.settings import OverflowSettings, SpoolSettings
from device_agent.shelves import Shelves
from millrace import quota, topics
from millrace.entries import Entry, Lane
from millrace.quota import Held, Shedding
from millrace.ranges import RangeSet

log = logging.getLogger(__name__)

SHED_ROWS = 128
SHED_BATCHES = 8
_LANE_OF_KIND = {
    topics.Kind.FRAME: Lane.FRAME,
    topics.Kind.READING: Lane.BULK,
    topics.Kind.WAVEFORM: Lane.BULK,
    topics.Kind.DEVICE_LEDGER: Lane.BULK,
}


class Overflow:
    """Sheds a part at a time, from the oldest on. One thread uses it."""

    def __init__(self, settings: SpoolSettings, shelves: Shelves, rows: Rows) -> None:
        """Begin at the oldest row."""
        self._settings, self._shelves, self._rows = settings, shelves, rows
        self._policies = _policies(settings.overflow)
        self._shedding = Shedding()
        self._looked: dict[Lane, int] = {}
        self.shed_rows = 0

    def make_room(self, needed_bytes: int) -> None:
        """Above high water let go of what the kinds' policies give up. Errors: StorageFailed.

        It goes in the transaction that appends its ledger records; these have room beyond the quota. A part at a time:
        what is still too much goes at the next call.
        """
        high_water_bytes = self._settings.max_bytes * self._settings.high_water_ratio
        for _ in range(SHED_BATCHES):
            excess = quota.excess_bytes(self._shelves.held_bytes, needed_bytes, high_water_bytes)
            if excess <= 0 or not any(self._shed(lane, excess) for lane in (Lane.FRAME, Lane.BULK)):
                return

    def _shed(self, lane: Lane, excess: int) -> bool:
        """Let go of some rows of a lane that are on disk; return whether there were any left to look at."""
        if not any(_LANE_OF_KIND[kind] is lane for kind in self._policies):
            return False
        after = self._looked.get(lane, 0)
        entries = self._shelves.disk.read(after, SHED_ROWS, lane)
        if not entries:
            self._looked[lane] = 0
            return after > 0
        going, looked = self._shedding.pick([self._held(entry) for entry in entries], excess)
        for kind, policy in self._policies.items():
            self._declare([row.position for row in going if row.kind is kind], policy)
        self._looked[lane] = looked
        return True

    def _held(self, entry: Entry) -> Held:
        kind, channel = kind_of(entry)
        policy = self._policies.get(kind, "reject")
        return Held(entry.position, kind, channel, policy, self._shelves.disk.size_bytes(entry))

    def _declare(self, positions: Sequence[int], policy: str) -> None:
        keys: dict[str, RangeSet] = {}
        known = {position: key for position in positions if (key := self._rows.key_at(position)) is not None}
        for epoch, seq in known.values():
            keys.setdefault(epoch, RangeSet()).add(seq)
        if not keys:
            return
        reason = f"{policy}: over {self._settings.high_water_ratio:.0%} of the spool"
        disk = self._shelves.disk
        with self._shelves.appending(disk):
            disk.forget(list(known))
            gone = ((epoch, first, last) for epoch, seqs in keys.items() for first, last in seqs)
            self._rows.declare(gone, "shed", reason)
        self._shelves.forget(list(known))
        self.shed_rows += len(known)
        log.warning("events_shed count=%d total=%d policy=%s", len(known), self.shed_rows, policy)


def _policies(chosen: OverflowSettings) -> dict[topics.Kind, quota.Policy]:
    """Return the kinds of which something may go."""
    policies = {
        topics.Kind.FRAME: chosen.frame,
        topics.Kind.READING: chosen.reading,
        topics.Kind.WAVEFORM: chosen.waveform,
    }
    return {kind: policy for kind, policy in policies.items() if policy != "reject"}
