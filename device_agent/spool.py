"""The agent's queue: what it took is on its own disk until a gateway's receipt says that it is on the gateway's."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from device_agent.settings import AgentSettings
from millrace import events, jsontext, topics
from millrace.blobs import BlobStore
from millrace.clock import Clock, Instant
from millrace.outbox import Draft, Entry, Lane, Outbox
from millrace.ranges import RangeSet

log = logging.getLogger(__name__)

REKEY_ROWS = 64


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


class Spool:
    """The durable queue of one device. One thread uses it."""

    def __init__(self, settings: AgentSettings, machine_id: str, clock: Clock) -> None:
        """Open or create it. Errors: Locked, NewerSchema, StorageFailed."""
        self._prefix, self._device, self._clock = settings.prefix, settings.device, clock
        self._max_bytes, self._min_free_bytes = settings.spool.max_bytes, settings.spool.min_free_bytes
        folder = self._folder = settings.state_dir
        self._outbox = Outbox(folder / "spool.db", BlobStore(folder / "frames"), machine_id)
        self._offsets = self._find_offsets()
        self._young_from_seq = self._note_young()
        self._is_met = False
        self._account_for_doubt()

    def close(self) -> None:
        """Close the file; what it holds stays."""
        self._outbox.close()

    @property
    def epoch(self) -> str:
        """The epoch in which seqs are minted now."""
        return self._outbox.epoch

    @property
    def held_rows(self) -> int:
        """How many events wait for a receipt."""
        return self._outbox.held_rows

    @property
    def held_bytes(self) -> int:
        """How many bytes they take, pictures included."""
        return self._outbox.held_bytes

    def minted(self) -> dict[str, int]:
        """Return, for each epoch, the highest seq given out: this device's own ledger of what it promised."""
        return self._outbox.minted()

    def has_room(self, admission: Admission) -> bool:
        """Whether the quota lets it in; if not, the capture is refused and counted, before anything was promised."""
        if self._outbox.held_bytes + admission.size_bytes > self._max_bytes:
            return False
        return shutil.disk_usage(self._folder).free - admission.size_bytes >= self._min_free_bytes

    def admit(self, admissions: Sequence[Admission]) -> list[Entry]:
        """Keep all of them in one transaction; when this returns they are promised. StorageFailed: none is."""
        pictures = {hashlib.sha256(a.picture).hexdigest(): a.picture for a in admissions if a.picture is not None}
        with self._outbox.transaction():
            self._outbox.put_pictures(pictures)
            return self._append([self._draft(admission, self._outbox.mint()) for admission in admissions])

    def read(self, after: int, max_rows: int) -> list[Entry]:
        """Return the next entries above a position, oldest first."""
        return self._outbox.read(after, max_rows)

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
        picture = self._outbox.blobs.get(entry.blob)
        if picture is None or hashlib.sha256(picture).hexdigest() != entry.blob:
            return None
        return Parcel(entry, kind, channel, events.encode_frame(event, picture), event)

    def bury(self, entry: Entry, reason: str) -> None:
        """Give up an entry that cannot be sent, and say so: a ledger record takes its place."""
        epoch, seq = self._key_of(entry)
        log.error("entry_lost epoch=%s seq=%d reason=%r", epoch, seq, reason)
        with self._outbox.transaction():
            self._outbox.forget([entry.position])
            self._append([self._ledger(epoch, seq, seq, "lost", reason)])

    def settle(self, epoch: str, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Forget what a receipt covers; return the position ranges. Seqs never minted are not ours to forget."""
        positions = []
        if epoch in self._offsets:  # else none of its rows is held, and where they stood other rows may stand
            offset, minted = self._offsets[epoch], self._outbox.minted()[epoch]
            ours = [(max(first, 1), min(last, minted)) for first, last in ranges]
            positions = [(first + offset, last + offset) for first, last in ours if first <= last]
        with self._outbox.transaction():
            if epoch == self.epoch:
                self._outbox.connection.execute("DELETE FROM meta WHERE key = 'young_from'")
            for first, last in positions:
                self._outbox.forget_range(first, last)
        self._is_met |= epoch == self.epoch
        return positions

    def is_ahead(self, epoch: str, ranges: Sequence[tuple[int, int]]) -> bool:
        """Whether a receipt speaks of more than this spool can have sent: it was set back to an older state.

        Before the first receipt of its epoch is settled, a spool sends nothing that is young.
        """
        sendable = self._outbox.next_seq if self._is_met else self._young_from_seq
        return epoch == self.epoch and any(last >= sendable for _, last in ranges)

    def begin_epoch(self, reason: str, taken: Sequence[tuple[int, int]] = ((1, events.SEQ_MAX),)) -> None:
        """Begin a new epoch, and give new keys to what is young: minted since the spool was opened as it was set back.

        Of that only the seqs in `taken`, which the far side holds for other events: with their old keys they would be
        taken for repeats, and lost. All in one transaction.
        """
        old = self.epoch
        log.warning("epoch_begun reason=%r old=%s", reason, old)
        with self._outbox.transaction():
            self._outbox.new_epoch(reason)
            if old in self._offsets:
                self._rekey(self._offsets[old], RangeSet(taken))
        self._young_from_seq = 1
        self._is_met = True  # nobody knows the new name yet: what comes back under it was sent

    # --- inside

    def _append(self, drafts: list[Draft]) -> list[Entry]:
        entries = self._outbox.append(drafts, self._clock.uptime_s())
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
                [self._ledger(epoch, first, last, "unproven", doubt.why[:400]) for epoch, first, last in unproven]
            )
            self._outbox.resolve()

    def _rekey(self, offset: int, taken: RangeSet) -> None:
        after, last = offset + self._young_from_seq - 1, self._outbox.next_position - 1
        while entries := [entry for entry in self._outbox.read(after, REKEY_ROWS) if entry.position <= last]:
            after = entries[-1].position
            sound = [entry for entry in entries if entry.intact and entry.seq in taken]
            # Appended before the old rows go: their pictures never lack a row.
            self._append([self._rekeyed(entry) for entry in sound])
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
        connection = self._outbox.connection
        row = connection.execute("SELECT value FROM meta WHERE key = 'young_from'").fetchone()
        if row is not None and row[0].startswith(f"{self.epoch}-"):
            return events.parse_id(row[0])[1]
        with self._outbox.transaction():
            value = f"{self.epoch}-{self._outbox.next_seq}"
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('young_from', ?)", (value,))
        return self._outbox.next_seq

    def _key_of(self, entry: Entry) -> tuple[str, int]:
        """Return an entry's epoch and seq; its position tells them even where the row itself is damaged."""
        minted = self._outbox.minted()
        for epoch, offset in self._offsets.items():
            if 1 <= entry.position - offset <= minted.get(epoch, 0):
                return epoch, entry.position - offset
        return entry.epoch, entry.seq

    def _base(self, epoch: str) -> int:
        """Return the lowest seq that is still held of an epoch which has a row."""
        offset = self._offsets[epoch]
        lowest = self._outbox.first_position(offset)
        assert lowest is not None
        return lowest - offset

    def _find_offsets(self) -> dict[str, int]:
        """Return what to add to a seq of each epoch to get its position: an epoch's rows are appended without gaps."""
        offsets: dict[str, int] = {}
        minted = self._outbox.minted()
        after = 0
        while found := self._outbox.read(after, 1):
            entry = found[0]
            after = entry.position
            if entry.intact:
                offsets[entry.epoch] = entry.position - entry.seq
                after = offsets[entry.epoch] + minted[entry.epoch]
        return offsets
