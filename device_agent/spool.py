"""The agent's queue: what it took is kept here until a gateway's receipt says that it is on the gateway's disk.

Kept means on this device's disk; for kinds of `durability: process`, in memory that only a power cut empties.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from device_agent import memory, packing
from device_agent.overflow import Overflow
from device_agent.packing import KIND_OF_TYPE, Admission, Packer, Parcel
from device_agent.rows import Rows
from device_agent.settings import AgentSettings
from device_agent.shelves import Shelves
from device_agent.young import Young
from millrace import events, topics
from millrace.blobs import StorageFailed
from millrace.clock import Clock
from millrace.entries import Entry
from millrace.ranges import RangeSet
from millrace.room import Room

log = logging.getLogger(__name__)

_KIND_OF_SOURCE = {"readings": topics.Kind.READING, "waveform": topics.Kind.WAVEFORM}


class Spool:
    """The durable queue of one device. One thread uses it."""

    def __init__(self, settings: AgentSettings, machine_id: str, clock: Clock) -> None:
        """Open or create it. Errors: Locked, NewerSchema, StorageFailed; Damaged: the next start heals it."""
        self._settings, self._folder, self._clock = settings.spool, settings.state_dir, clock
        self._volatile = _volatile_kinds(settings)
        with ExitStack() as undo:
            tail_folder = _tail_folder(settings) if self._volatile else None
            room = Room.for_quota(self._settings.max_bytes, self._settings.ballast_bytes)
            self._shelves = Shelves(self._folder, machine_id, clock.now().boot_id, tail_folder, room)
            undo.callback(self._shelves.close)
            self._outbox = self._shelves.disk
            self._rows = Rows(self._shelves, Packer(settings.prefix, settings.device), clock)
            if not self._shelves.fits():
                self._spill_all()
            self._account_for_doubt()  # while the disk still tells of a tail that is lost
            self._bury_lost_tail()
            self._shelves.open_tail()
            self._young = Young(self._shelves, self._rows)
            self._overflow = Overflow(self._settings, self._shelves, self._rows)
            undo.pop_all()

    def close(self) -> None:
        """Close it; what it holds stays, all of it on disk if that has room."""
        try:
            self._spill_all()
        except StorageFailed as error:
            log.error("tail_not_spilled error=%s: it stays in memory until the next start", error)
        self._shelves.close()

    @property
    def epoch(self) -> str:
        """The epoch in which seqs are minted now."""
        return self._outbox.epoch

    @property
    def held_rows(self) -> int:
        """How many events wait for a receipt."""
        return self._shelves.held_rows

    @property
    def held_bytes(self) -> int:
        """How many bytes they take, pictures included."""
        return self._shelves.held_bytes

    def minted(self) -> dict[str, int]:
        """Return, for each epoch, the highest seq given out: this device's own ledger of what it promised."""
        return self._shelves.minted()

    def held_epochs(self) -> list[str]:
        """Return the epochs of which events wait here, the present one first."""
        older = (epoch for epoch in reversed(self._rows.held_epochs()) if epoch != self.epoch)
        return [self.epoch, *older]

    @property
    def shed_rows(self) -> int:
        """How many events have gone since the start, by the kinds' policies."""
        return self._overflow.shed_rows

    def has_room(self, admission: Admission) -> bool:
        """Whether the quota lets it in; if not, the capture is refused and counted, before anything was promised."""
        if self.held_bytes + admission.size_bytes > self._settings.max_bytes:
            return False
        if self._goes_to_tail(admission):
            return True
        if self._outbox.is_short:
            return False
        try:
            free_bytes = shutil.disk_usage(self._folder).free
        except OSError as error:
            log.error("disk_not_asked folder=%s error=%s", self._folder, error)
            return False
        return free_bytes - admission.size_bytes >= self._settings.min_free_bytes

    def make_room(self, needed_bytes: int) -> None:
        """Above high water let go of what the kinds' policies give up. Errors: StorageFailed.

        A disk that others fill is no reason: nothing held goes for it, and what is new is refused.
        """
        self._overflow.make_room(needed_bytes)

    def admit(self, admissions: Sequence[Admission]) -> list[Entry]:
        """Keep them; return the entries of those that are kept, which are promised from now on.

        All that go to one file go in one transaction, what must survive a power cut first. StorageFailed: none is kept.
        """
        in_tail: list[Admission] = []
        on_disk: list[Admission] = []
        for admission in admissions:
            (in_tail if self._goes_to_tail(admission) else on_disk).append(admission)
        entries = self._rows.admit(self._outbox, on_disk) if on_disk else []
        tail = self._shelves.tail
        if not in_tail or tail is None:
            return entries
        try:
            return entries + self._rows.admit(tail, in_tail)
        except StorageFailed as error:
            log.warning("tail_refused error=%s: the disk takes what it does not", error)
        try:
            return entries + self._rows.admit(self._outbox, in_tail)
        except StorageFailed as error:
            if not entries:
                raise
            log.error("frames_refused count=%d error=%s", len(in_tail), error)
            return entries

    def tend(self, now_s: float) -> None:
        """Move to the disk, a bounded part at a time, what has waited in memory for too long. Errors: StorageFailed."""
        tail, late_s = self._shelves.tail, self._settings.spill_after_s
        if tail is None or not tail.held_rows or self._outbox.is_short:
            return
        if tail.held_bytes > self._settings.ram_max_bytes or self._shelves.oldest_s(now_s) >= late_s:
            self._spill(now_s)

    def read(self, after: int, max_rows: int) -> list[Entry]:
        """Return the next entries above a position, oldest first."""
        return self._shelves.read(after, max_rows)

    def parcel(self, entry: Entry) -> Parcel | None:
        """Return the entry as it travels, or None if it can no longer be read as it was written: bury it."""
        if not entry.intact:
            return None
        try:
            event = packing.event_of(entry).with_base(self._rows.base(entry.epoch))
        except events.MalformedEvent as error:
            log.error("entry_malformed epoch=%s seq=%d error=%s", entry.epoch, entry.seq, error)
            return None
        picture = self._shelves.picture(entry.blob) if entry.blob is not None else None
        if entry.blob is not None and picture is None:
            return None
        return packing.parcel(entry, event, picture)

    def bury(self, entry: Entry, reason: str) -> None:
        """Give up an entry that cannot be sent, and say so: a ledger record takes its place."""
        epoch, seq = self._rows.key_of(entry)
        log.error("entry_lost epoch=%s seq=%d reason=%r", epoch, seq, reason)
        with self._shelves.appending(self._outbox):
            self._outbox.forget([entry.position])
            self._rows.declare([(epoch, seq, seq)], "lost", reason)
        self._shelves.forget([entry.position])

    def settle(self, epoch: str, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Forget what a receipt covers; return the position ranges. Seqs never minted are not ours to forget.

        What the tail does not let go stays until the next receipt, which says the same again. Errors: StorageFailed.
        """
        positions = self._rows.positions(epoch, ranges)
        with self._outbox.transaction():
            self._young.settle(epoch)
            for first, last in positions:
                self._outbox.forget_range(first, last)
        if (tail := self._shelves.tail) is not None:
            try:
                with tail.transaction():
                    for first, last in positions:
                        tail.forget_range(first, last)
            except StorageFailed as error:
                log.error("tail_not_settled epoch=%s error=%s", epoch, error)
        self._young.meet(epoch)
        return positions

    def is_ahead(self, epoch: str, ranges: Sequence[tuple[int, int]]) -> bool:
        """Whether a receipt speaks of more than this spool can have sent: it was set back to an older state."""
        return self._young.is_ahead(epoch, ranges)

    def begin_epoch(self, reason: str, taken: Sequence[tuple[int, int]] = ((1, events.SEQ_MAX),)) -> None:
        """Begin a new epoch, and give new keys to what is young: minted since the spool was opened as it was set back.

        Of that only the seqs in `taken`, which the far side holds for other events: with their old keys they would be
        taken for repeats, and lost. All in one transaction.
        """
        self._spill_all()
        try:
            self._young.begin_epoch(reason, RangeSet(taken))
        finally:
            self._shelves.open_tail()

    # --- inside

    def _goes_to_tail(self, admission: Admission) -> bool:
        tail = self._shelves.tail
        if tail is None or KIND_OF_TYPE[admission.type] not in self._volatile:
            return False
        return tail.held_bytes + admission.size_bytes <= self._settings.ram_max_bytes

    def _spill(self, now_s: float) -> None:
        for damaged in self._shelves.spill(now_s):
            self.bury(damaged, "the spool's copy in memory is damaged")

    def _spill_all(self) -> None:
        while self._shelves.tail is not None and self._shelves.tail.held_rows:
            self._spill(self._clock.uptime_s())
        self._shelves.put_tail_away()

    def _bury_lost_tail(self) -> None:
        """Declare what a power cut took, from what is on disk: more may be declared than was lost, never less."""
        with self._shelves.lost_tail() as lost:
            if lost is None:
                return
            reason = "the tail in memory was lost in a power cut; what was sent before it was not lost"
            self._rows.declare(((lost.epoch, first, last) for first, last in lost.ranges), "unproven", reason)
        log.error("tail_lost epoch=%s ranges=%s reason=%r", lost.epoch, lost.ranges, reason)

    def _account_for_doubt(self) -> None:
        """After damage or loss, write ledger records for all that is neither held nor surely received."""
        doubt = self._shelves.doubt()
        if doubt is None:
            return
        unproven = self._outbox.unproven(doubt)
        with self._outbox.transaction():
            self._rows.declare(unproven, "unproven", doubt.why[:400])
            self._outbox.resolve()


def _volatile_kinds(settings: AgentSettings) -> frozenset[topics.Kind]:
    """Return the kinds that this device's channels have and that need not survive a power cut."""
    kinds = {_KIND_OF_SOURCE.get(channel.source.kind, topics.Kind.FRAME) for channel in settings.channels.values()}
    chosen = settings.spool.durability
    durability = {
        topics.Kind.FRAME: chosen.frame,
        topics.Kind.READING: chosen.reading,
        topics.Kind.WAVEFORM: chosen.waveform,
    }
    return frozenset(kind for kind in kinds if durability[kind] == "process")


def _tail_folder(settings: AgentSettings) -> Path:
    return settings.spool.ram_dir or memory.default_folder(
        settings.device, settings.state_dir, os.environ, os.geteuid()
    )
