"""The agent's queue: what it took is kept here until a gateway's receipt says that it is on the gateway's disk.

Kept means on this device's disk; for kinds of `durability: process`, in memory that only a power cut empties.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from device_agent import memory
from device_agent.settings import AgentSettings, OverflowSettings
from device_agent.shelves import Shelves
from millrace import events, jsontext, quota, topics
from millrace.blobs import StorageFailed
from millrace.clock import Clock, Instant
from millrace.entries import Draft, Entry, Lane
from millrace.outbox import Outbox
from millrace.quota import Held, Shedding
from millrace.ranges import RangeSet
from millrace.room import Room

log = logging.getLogger(__name__)

REKEY_ROWS = 64
SHED_ROWS = 128
SHED_BATCHES = 8


@dataclass(frozen=True, slots=True)
class Admission:
    """What the gate let through, encoded and ready to be kept: `picture` for a frame, `data` for all else."""

    channel: str
    type: str
    instant: Instant
    data: dict[str, object] | None = None
    picture: bytes | None = None
    content_type: str = "application/json"
    truth: str | None = None

    @property
    def size_bytes(self) -> int:
        """What it will take on the disk, roughly."""
        return len(self.picture) if self.picture is not None else 400


@dataclass(frozen=True, slots=True)
class Parcel:
    """An entry as it travels: the topic's kind and channel, the payload, and the event for MQTT 5's mirror."""

    entry: Entry
    kind: topics.Kind
    channel: str | None
    payload: bytes
    event: events.Event


_KIND_OF_TYPE = {type_: kind for kind, type_ in events.TYPE_OF_KIND.items()}
_LANE_OF_KIND = {
    topics.Kind.FRAME: Lane.FRAME,
    topics.Kind.READING: Lane.BULK,
    topics.Kind.WAVEFORM: Lane.BULK,
    topics.Kind.DEVICE_LEDGER: Lane.BULK,
}
_KIND_OF_SOURCE = {"readings": topics.Kind.READING, "waveform": topics.Kind.WAVEFORM}


class Spool:
    """The durable queue of one device. One thread uses it."""

    def __init__(self, settings: AgentSettings, machine_id: str, clock: Clock) -> None:
        """Open or create it. Errors: Locked, NewerSchema, StorageFailed; Damaged: the next start heals it."""
        self._prefix, self._device, self._clock = settings.prefix, settings.device, clock
        self._settings, self._folder = settings.spool, settings.state_dir
        self._volatile = _volatile_kinds(settings)
        with ExitStack() as undo:
            tail_folder = _tail_folder(settings) if self._volatile else None
            room = Room.for_quota(self._settings.max_bytes, self._settings.ballast_bytes)
            self._shelves = Shelves(self._folder, machine_id, clock.now().boot_id, tail_folder, room)
            undo.callback(self._shelves.close)
            self._outbox = self._shelves.disk
            self._offsets = self._find_offsets()
            self._bury_lost_tail()
            if not self._shelves.fits():
                self._spill_all()
            self._account_for_doubt()
            self._shelves.open_tail()
            self._young_from_seq = self._note_young()
            self._is_met = False
            self._policies = _policies(settings.spool.overflow)
            self._shedding = Shedding()
            self._looked: dict[Lane, int] = {}
            self.shed_rows = 0
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
        return sum(outbox.held_rows for outbox in self._shelves.both)

    @property
    def held_bytes(self) -> int:
        """How many bytes they take, pictures included."""
        return sum(outbox.held_bytes for outbox in self._shelves.both)

    def minted(self) -> dict[str, int]:
        """Return, for each epoch, the highest seq given out: this device's own ledger of what it promised."""
        return self._shelves.minted()

    def held_epochs(self) -> list[str]:
        """Return the epochs of which events wait here, the present one first."""
        minted = self.minted()
        waiting = [
            epoch
            for epoch, offset in self._offsets.items()
            if (first := self._shelves.read(offset, 1)) and first[0].position <= offset + minted.get(epoch, 0)
        ]
        return [self.epoch, *(epoch for epoch in reversed(waiting) if epoch != self.epoch)]

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

        It goes in the transaction that appends its ledger records; these have room beyond the quota. A part at a time:
        what is still too much goes at the next call.
        """
        high_water_bytes = self._settings.max_bytes * self._settings.high_water_ratio
        for _ in range(SHED_BATCHES):
            excess = quota.excess_bytes(self.held_bytes, needed_bytes, high_water_bytes)
            if excess <= 0 or not any(self._shed(lane, excess) for lane in (Lane.FRAME, Lane.BULK)):
                return

    def admit(self, admissions: Sequence[Admission]) -> list[Entry]:
        """Keep them; return the entries of those that are kept, which are promised from now on.

        All that go to one file go in one transaction, what must survive a power cut first. StorageFailed: none is kept.
        """
        in_tail: list[Admission] = []
        on_disk: list[Admission] = []
        for admission in admissions:
            (in_tail if self._goes_to_tail(admission) else on_disk).append(admission)
        entries = self._admit_to(self._outbox, on_disk) if on_disk else []
        tail = self._shelves.tail
        if not in_tail or tail is None:
            return entries
        try:
            return entries + self._admit_to(tail, in_tail)
        except StorageFailed as error:
            log.warning("tail_refused error=%s: the disk takes what it does not", error)
        try:
            return entries + self._admit_to(self._outbox, in_tail)
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
            event = events.decode_json(entry.body, len(entry.body)).with_base(self._base(entry.epoch))
        except events.MalformedEvent as error:
            log.error("entry_malformed epoch=%s seq=%d error=%s", entry.epoch, entry.seq, error)
            return None
        kind = _KIND_OF_TYPE[event.type]
        channel = event.key.source.rsplit("/", 1)[1]
        if entry.blob is None:
            return Parcel(
                entry, kind, None if kind is topics.Kind.DEVICE_LEDGER else channel, events.encode_json(event), event
            )
        picture = self._shelves.picture(entry.blob)
        if picture is None:
            return None
        return Parcel(entry, kind, channel, events.encode_frame(event, picture), event)

    def bury(self, entry: Entry, reason: str) -> None:
        """Give up an entry that cannot be sent, and say so: a ledger record takes its place."""
        epoch, seq = self._key_of(entry)
        log.error("entry_lost epoch=%s seq=%d reason=%r", epoch, seq, reason)
        with self._shelves.appending(self._outbox):
            self._outbox.forget([entry.position])
            self._append(self._outbox, [self._ledger(epoch, seq, seq, "lost", reason)])
        self._shelves.forget([entry.position])

    def settle(self, epoch: str, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Forget what a receipt covers; return the position ranges. Seqs never minted are not ours to forget.

        What the tail does not let go stays until the next receipt, which says the same again. Errors: StorageFailed.
        """
        positions = []
        if epoch in self._offsets:  # else none of its rows is held, and where they stood other rows may stand
            offset, minted = self._offsets[epoch], self.minted()[epoch]
            ours = [(max(first, 1), min(last, minted)) for first, last in ranges]
            positions = [(first + offset, last + offset) for first, last in ours if first <= last]
        with self._outbox.transaction():
            if epoch == self.epoch:
                self._outbox.set_note("young_from", None)
            for first, last in positions:
                self._outbox.forget_range(first, last)
        if (tail := self._shelves.tail) is not None:
            try:
                with tail.transaction():
                    for first, last in positions:
                        tail.forget_range(first, last)
            except StorageFailed as error:
                log.error("tail_not_settled epoch=%s error=%s", epoch, error)
        self._is_met |= epoch == self.epoch
        return positions

    def is_ahead(self, epoch: str, ranges: Sequence[tuple[int, int]]) -> bool:
        """Whether a receipt speaks of more than this spool can have sent: it was set back to an older state.

        Before the first receipt of its epoch is settled, a spool sends nothing that is young.
        """
        sendable = self._shelves.next_seq if self._is_met else self._young_from_seq
        return epoch == self.epoch and any(last >= sendable for _, last in ranges)

    def begin_epoch(self, reason: str, taken: Sequence[tuple[int, int]] = ((1, events.SEQ_MAX),)) -> None:
        """Begin a new epoch, and give new keys to what is young: minted since the spool was opened as it was set back.

        Of that only the seqs in `taken`, which the far side holds for other events: with their old keys they would be
        taken for repeats, and lost. All in one transaction.
        """
        old = self.epoch
        self._spill_all()
        try:
            self._give_new_keys(old, reason, RangeSet(taken))
        finally:
            self._shelves.open_tail()
        self._young_from_seq = 1
        self._is_met = True  # nobody knows the new name yet: what comes back under it was sent

    # --- inside

    def _give_new_keys(self, old: str, reason: str, taken: RangeSet) -> None:
        log.warning("epoch_begun reason=%r old=%s", reason, old)
        with self._outbox.transaction():
            self._outbox.new_epoch(reason)
            if old in self._offsets:
                self._rekey(self._offsets[old], taken)

    def _goes_to_tail(self, admission: Admission) -> bool:
        tail = self._shelves.tail
        if tail is None or _KIND_OF_TYPE[admission.type] not in self._volatile:
            return False
        return tail.held_bytes + admission.size_bytes <= self._settings.ram_max_bytes

    def _admit_to(self, outbox: Outbox, admissions: Sequence[Admission]) -> list[Entry]:
        pictures = {hashlib.sha256(a.picture).hexdigest(): a.picture for a in admissions if a.picture is not None}
        with self._shelves.appending(outbox):
            outbox.put_pictures(pictures)
            return self._append(outbox, [self._draft(admission, outbox.mint()) for admission in admissions])

    def _spill(self, now_s: float) -> None:
        for damaged in self._shelves.spill(now_s):
            self.bury(damaged, "the spool's copy in memory is damaged")

    def _spill_all(self) -> None:
        while self._shelves.tail is not None and self._shelves.tail.held_rows:
            self._spill(self._clock.uptime_s())
        self._shelves.put_tail_away()

    def _shed(self, lane: Lane, excess: int) -> bool:
        """Let go of some rows of a lane that are on disk; return whether there were any left to look at."""
        if not any(_LANE_OF_KIND[kind] is lane for kind in self._policies):
            return False
        after = self._looked.get(lane, 0)
        entries = self._outbox.read(after, SHED_ROWS, lane)
        if not entries:
            self._looked[lane] = 0
            return after > 0
        going, looked = self._shedding.pick([self._held(entry) for entry in entries], excess)
        for kind, policy in self._policies.items():
            self._declare_shed([row.position for row in going if row.kind is kind], policy)
        self._looked[lane] = looked
        return True

    def _held(self, entry: Entry) -> Held:
        kind, channel = _kind_of(entry)
        policy = self._policies.get(kind, "reject")
        return Held(entry.position, kind, channel, policy, self._outbox.size_bytes(entry))

    def _declare_shed(self, positions: Sequence[int], policy: str) -> None:
        keys: dict[str, RangeSet] = {}
        known = {position: key for position in positions if (key := self._key_at(position)) is not None}
        for epoch, seq in known.values():
            keys.setdefault(epoch, RangeSet()).add(seq)
        if not keys:
            return
        reason = f"{policy}: over {self._settings.high_water_ratio:.0%} of the spool"
        with self._shelves.appending(self._outbox):
            self._outbox.forget(list(known))
            self._append(
                self._outbox,
                [self._ledger(epoch, low, high, "shed", reason) for epoch, seqs in keys.items() for low, high in seqs],
            )
        self._shelves.forget(list(known))
        self.shed_rows += len(known)
        log.warning("events_shed count=%d total=%d policy=%s", len(known), self.shed_rows, policy)

    def _bury_lost_tail(self) -> None:
        """Declare what a power cut took, from what is on disk: more may be declared than was lost, never less."""
        with self._shelves.lost_tail() as lost:
            if lost is None:
                return
            reason = "the tail in memory was lost in a power cut; what was sent before it was not lost"
            self._append(
                self._outbox,
                [self._ledger(lost.epoch, first, last, "unproven", reason) for first, last in lost.ranges],
            )
        log.error("tail_lost epoch=%s ranges=%s reason=%r", lost.epoch, lost.ranges, reason)

    def _append(self, outbox: Outbox, drafts: list[Draft]) -> list[Entry]:
        entries = outbox.append(drafts, self._clock.uptime_s())
        if entries:
            self._offsets[self.epoch] = entries[0].position - entries[0].seq
        return entries

    def _draft(self, admission: Admission, seq: int) -> Draft:
        key = events.Key(topics.device_source(self._prefix, self._device, admission.channel), self.epoch, seq)
        event = events.new_event(
            admission.type,
            key,
            admission.instant,
            data=admission.data,
            truth=admission.truth,
            datacontenttype=admission.content_type,
        )
        body = events.encode_json(event)
        if admission.picture is None:
            return Draft(Lane.BULK, self.epoch, seq, body)
        digest = hashlib.sha256(admission.picture).hexdigest()
        return Draft(Lane.FRAME, self.epoch, seq, body, digest, len(admission.picture))

    def _ledger(self, epoch: str, first: int, last: int, disposition: str, reason: str) -> Draft:
        data = {
            "device": self._device,
            "epoch": epoch,
            "from": first,
            "to": last,
            "disposition": disposition,
            "reason": reason,
        }
        return self._draft(Admission("ledger", events.LEDGER, self._clock.now(), data), self._outbox.mint())

    def _account_for_doubt(self) -> None:
        """After damage or loss, write ledger records for all that is neither held nor surely received."""
        doubt = self._outbox.doubt()
        if doubt is None:
            return
        unproven = self._outbox.unproven(doubt)
        with self._outbox.transaction():
            self._append(
                self._outbox,
                [self._ledger(epoch, first, last, "unproven", doubt.why[:400]) for epoch, first, last in unproven],
            )
            self._outbox.resolve()

    def _rekey(self, offset: int, taken: RangeSet) -> None:
        after, last = offset + self._young_from_seq - 1, self._outbox.next_position - 1
        while entries := [entry for entry in self._outbox.read(after, REKEY_ROWS) if entry.position <= last]:
            after = entries[-1].position
            sound = [entry for entry in entries if entry.intact and entry.seq in taken]
            # Appended before the old rows go: their pictures never lack a row.
            self._append(self._outbox, [self._rekeyed(entry) for entry in sound])
            self._outbox.forget([entry.position for entry in sound])

    def _rekeyed(self, entry: Entry) -> Draft:
        seq = self._outbox.mint()
        body: dict[str, object] = jsontext.parse(entry.body, len(entry.body))  # type: ignore[assignment]
        body["id"] = f"{self.epoch}-{seq}"
        return Draft(entry.lane, self.epoch, seq, jsontext.dump(body), entry.blob)

    def _note_young(self) -> int:
        """Return the seq from which on this epoch's rows are younger than the last gateway's receipt, over restarts.

        Should a receipt show that the spool was set back, their seqs belong to other events.
        """
        noted = self._outbox.note("young_from")
        if noted is not None and noted.startswith(f"{self.epoch}-"):
            try:
                return events.parse_id(noted)[1]
            except events.MalformedEvent as error:
                self._outbox.spoilt(f"the note young_from makes no sense: {error}")
        with self._outbox.transaction():
            self._outbox.set_note("young_from", f"{self.epoch}-{self._shelves.next_seq}")
        return self._shelves.next_seq

    def _key_of(self, entry: Entry) -> tuple[str, int]:
        """Return an entry's epoch and seq; its position tells them even where the row itself is damaged."""
        return self._key_at(entry.position) or (entry.epoch, entry.seq)

    def _key_at(self, position: int) -> tuple[str, int] | None:
        minted = self.minted()
        for epoch, offset in self._offsets.items():
            if 1 <= position - offset <= minted.get(epoch, 0):
                return epoch, position - offset
        return None

    def _base(self, epoch: str) -> int:
        """Return the lowest seq that is still held of an epoch which has a row."""
        offset = self._offsets[epoch]
        lowest = self._shelves.first_position(offset)
        assert lowest is not None
        return lowest - offset

    def _find_offsets(self) -> dict[str, int]:
        """Return what to add to a seq of each epoch to get its position: an epoch's rows are appended without gaps."""
        offsets: dict[str, int] = {}
        minted = self.minted()
        after = 0
        while found := self._shelves.read(after, 1):
            entry = found[0]
            after = entry.position
            if entry.intact:
                offsets[entry.epoch] = entry.position - entry.seq
                after = offsets[entry.epoch] + minted[entry.epoch]
        return offsets


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


def _policies(chosen: OverflowSettings) -> dict[topics.Kind, quota.Policy]:
    """Return the kinds of which something may go."""
    policies = {
        topics.Kind.FRAME: chosen.frame,
        topics.Kind.READING: chosen.reading,
        topics.Kind.WAVEFORM: chosen.waveform,
    }
    return {kind: policy for kind, policy in policies.items() if policy != "reject"}


def _kind_of(entry: Entry) -> tuple[topics.Kind, str]:
    """Return kind and channel; what cannot be read counts as what no policy gives up: it is buried when sent."""
    try:
        event = events.decode_json(entry.body, len(entry.body))
        return _KIND_OF_TYPE[event.type], event.key.source.rsplit("/", 1)[1]
    except (events.MalformedEvent, KeyError):
        return topics.Kind.DEVICE_LEDGER, ""


def _tail_folder(settings: AgentSettings) -> Path:
    return settings.spool.ram_dir or memory.default_folder(
        settings.device, settings.state_dir, os.environ, os.geteuid()
    )
