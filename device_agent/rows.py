"""The spool's rows under their keys: an epoch's are appended without gaps, so that a row's position tells its seq."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from device_agent.packing import Admission, Packer, digest_of
from device_agent.shelves import Shelves
from millrace.clock import Clock
from millrace.entries import Draft, Entry
from millrace.outbox import Outbox


class Rows:
    """The rows on both shelves. One thread uses them."""

    def __init__(self, shelves: Shelves, packer: Packer, clock: Clock) -> None:
        """Find where each epoch's rows stand. Errors: StorageFailed, Damaged."""
        self._shelves, self._packer, self._clock = shelves, packer, clock
        self._offsets = self._find_offsets()

    def _find_offsets(self) -> dict[str, int]:
        """Return what to add to a seq of each epoch to get its position."""
        offsets: dict[str, int] = {}
        minted, disk = self._shelves.minted(), self._shelves.disk
        newest = disk.next_position - disk.next_seq
        after = 0
        while found := self._shelves.read(after, 1):
            entry = found[0]
            after = entry.position
            if entry.intact:
                if entry.seq > minted.get(entry.epoch, 0):
                    disk.spoilt(f"it holds seq {entry.seq} of {entry.epoch}, and knows it as not minted")
                offsets[entry.epoch] = entry.position - entry.seq
                after = offsets[entry.epoch] + minted[entry.epoch]
            elif newest < entry.position < disk.next_position:  # no other row of its epoch may be left to tell its key
                offsets.setdefault(disk.epoch, newest)
        return offsets

    # --- adding to them

    def admit(self, outbox: Outbox, admissions: Sequence[Admission]) -> list[Entry]:
        """Append admissions, pictures and all, to one of the files in one transaction. Errors: StorageFailed."""
        pictures = {digest_of(a.picture): a.picture for a in admissions if a.picture is not None}
        with self._shelves.appending(outbox):
            outbox.put_pictures(pictures)
            return self.append(outbox, [self._draft(outbox, admission) for admission in admissions])

    def declare(self, lost: Iterable[tuple[str, int, int]], disposition: str, reason: str) -> None:
        """Append, inside the present transaction on disk, a ledger record for each (epoch, first, last)."""
        disk = self._shelves.disk
        records = (self._packer.record(which, disposition, reason, self._clock.now()) for which in lost)
        self.append(disk, [self._draft(disk, record) for record in records])

    def append(self, outbox: Outbox, drafts: Sequence[Draft]) -> list[Entry]:
        """Append what was minted in the present epoch to one of the files, inside its present transaction."""
        entries = outbox.append(drafts, self._clock.uptime_s())
        if entries:
            self._offsets[self._shelves.disk.epoch] = entries[0].position - entries[0].seq
        return entries

    def _draft(self, outbox: Outbox, admission: Admission) -> Draft:
        return self._packer.draft(admission, self._shelves.disk.epoch, outbox.mint())

    # --- keys and positions

    def offset(self, epoch: str) -> int | None:
        """Return what to add to a seq of an epoch to get its position; None if none of its rows is held."""
        return self._offsets.get(epoch)

    def positions(self, epoch: str, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return where these seqs of an epoch stand or stood; those that were never minted are left out."""
        if epoch not in self._offsets:  # none of its rows is held, and where they stood other rows may stand
            return []
        offset, minted = self._offsets[epoch], self._shelves.minted()[epoch]
        ours = [(max(first, 1), min(last, minted)) for first, last in ranges]
        return [(first + offset, last + offset) for first, last in ours if first <= last]

    def key_of(self, entry: Entry) -> tuple[str, int]:
        """Return an entry's epoch and seq; its position tells them even where the row itself is damaged."""
        return self.key_at(entry.position) or (entry.epoch, entry.seq)

    def key_at(self, position: int) -> tuple[str, int] | None:
        """Return the epoch and seq of the row that stands or stood there, or None."""
        minted = self._shelves.minted()
        for epoch, offset in self._offsets.items():
            if 1 <= position - offset <= minted.get(epoch, 0):
                return epoch, position - offset
        return None

    def base(self, epoch: str) -> int:
        """Return the lowest seq that is still held of an epoch which has a row."""
        offset = self._offsets[epoch]
        lowest = self._shelves.first_position(offset)
        assert lowest is not None
        return lowest - offset

    def held_epochs(self) -> list[str]:
        """Return the epochs of which rows are held, the oldest first."""
        minted = self._shelves.minted()
        return [
            epoch
            for epoch, offset in self._offsets.items()
            if (first := self._shelves.read(offset, 1)) and first[0].position <= offset + minted.get(epoch, 0)
        ]
