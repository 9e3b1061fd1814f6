"""What is young, minted since the last gateway's receipt: if the spool was set back, it gets new keys and is not lost.

A spool that was set back mints seqs again that it had minted before, and the far side holds other events under them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from device_agent.packing import rekeyed
from device_agent.rows import Rows
from device_agent.shelves import Shelves
from millrace import events
from millrace.entries import Draft, Entry
from millrace.ranges import RangeSet

log = logging.getLogger(__name__)

REKEY_ROWS = 64
_KEY = "young_from"


class Young:
    """From where on rows of the present epoch are young. One thread uses it."""

    def __init__(self, shelves: Shelves, rows: Rows) -> None:
        """Read it, or note it where it begins now. Errors: StorageFailed, Damaged."""
        self._shelves, self._rows = shelves, rows
        self._from_seq = self._noted()
        self._is_met = False

    def _noted(self) -> int:
        """Return the seq from which on this epoch's rows are younger than the last gateway's receipt, over restarts."""
        disk = self._shelves.disk
        noted = disk.note(_KEY)
        if noted is not None and noted.startswith(f"{disk.epoch}-"):
            try:
                return events.parse_id(noted)[1]
            except events.MalformedEvent as error:
                disk.spoilt(f"the note {_KEY} makes no sense: {error}")
        with disk.transaction():
            disk.set_note(_KEY, f"{disk.epoch}-{self._shelves.next_seq}")
        return self._shelves.next_seq

    def settle(self, epoch: str) -> None:
        """Note a receipt of an epoch inside the transaction on disk that forgets what it covers."""
        if epoch == self._shelves.disk.epoch:
            self._shelves.disk.set_note(_KEY, None)

    def meet(self, epoch: str) -> None:
        """Note that a receipt of an epoch is settled: of the present one, all that is held may be sent from now on."""
        self._is_met |= epoch == self._shelves.disk.epoch

    def is_ahead(self, epoch: str, ranges: Sequence[tuple[int, int]]) -> bool:
        """Whether a receipt speaks of more than this spool can have sent: it was set back to an older state.

        Before the first receipt of its epoch is settled, a spool sends nothing that is young.
        """
        sendable = self._shelves.next_seq if self._is_met else self._from_seq
        return epoch == self._shelves.disk.epoch and any(last >= sendable for _, last in ranges)

    def begin_epoch(self, reason: str, taken: RangeSet) -> None:
        """Begin a new epoch, and give new keys to the young ones of seqs in `taken`, all of them on disk.

        All in one transaction. Errors: StorageFailed.
        """
        disk = self._shelves.disk
        old = disk.epoch
        log.warning("epoch_begun reason=%r old=%s", reason, old)
        with disk.transaction():
            disk.new_epoch(reason)
            offset = self._rows.offset(old)
            if offset is not None:
                self._rekey(offset, taken)
        self._from_seq = 1
        self._is_met = True  # nobody knows the new name yet: what comes back under it was sent

    def _rekey(self, offset: int, taken: RangeSet) -> None:
        disk = self._shelves.disk
        after, last = offset + self._from_seq - 1, disk.next_position - 1
        while entries := [entry for entry in disk.read(after, REKEY_ROWS) if entry.position <= last]:
            after = entries[-1].position
            sound = [entry for entry in entries if entry.intact and entry.seq in taken]
            # Appended before the old rows go: their pictures never lack a row.
            self._rows.append(disk, [self._rekeyed(entry) for entry in sound])
            disk.forget([entry.position for entry in sound])

    def _rekeyed(self, entry: Entry) -> Draft:
        disk = self._shelves.disk
        return rekeyed(entry, disk.epoch, disk.mint())
