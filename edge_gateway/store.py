"""The gateway's memory: which events were accepted, what was answered, what waits for the cloud, in one transaction."""

from __future__ import annotations

import heapq
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from edge_gateway.bad_folders import BadFolders
from edge_gateway.streams import Stream
from edge_gateway.tables import STEPS, STREAM_WIDTH, TABLES, UNREADABLE, ranges_of
from edge_gateway.taken import RUN_MAX, Taken
from millrace import crashpoints, healing, ties
from millrace.blobs import BlobStore
from millrace.database import Damaged, insert
from millrace.entries import Draft, Entry, Lane, entry_of
from millrace.mending import Sighting
from millrace.outbox import Outbox
from millrace.outbox_tables import Extension
from millrace.ranges import RangeSet
from millrace.room import Room
from millrace.row_sums import is_believed, row_sum, summed
from millrace.settled import SettledReader

log = logging.getLogger(__name__)

ANSWERS_KEPT = 20_000
ANSWER_BYTES = 168
FORGET_EVERY = 1000
PURGE_ROWS = 500
PURGED_SHARE = 0.9  # a store that was full is cleared down to this, so that it is not full again at once
_OWN_LANES = (Lane.ALARM, Lane.VERDICT, Lane.RESULT)
QUARANTINE_PAYLOAD_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Answer:
    """What was stored for an accepted event: where its results begin, how many, and its own digest or mark."""

    position: int
    rows: int
    digest: str


class Store:
    """The writer's side of `gateway.db`. One thread uses it; every method but reads belongs inside `transaction`."""

    def __init__(
        self, folder: Path, machine_id: str, max_bytes: int, *, ballast_bytes: int = 0, tables_bytes: int = 1 << 30
    ) -> None:
        """Open or create it; answers and quarantine take `tables_bytes`. Errors: Locked, NewerSchema, StorageFailed."""
        room = Room.for_quota(max_bytes, ballast_bytes, tables_bytes)
        self._path = folder / "gateway.db"
        self.blobs = BlobStore(folder / "frames")
        self.bad_folders = BadFolders()
        self._settled = SettledReader(folder / "sync.db")
        self._max_bytes = max_bytes
        self._purge_after = 0
        self._streams: dict[tuple[str, str], Stream] = {}
        self._declared: dict[int, str] = {}
        self._of_device: dict[str, list[Stream]] = {}
        self._remembered: Counter[int] = Counter()
        self._accepted: list[tuple[Draft, Stream, str]] = []
        self._answers: dict[int, Callable[[], int]] = {}
        self._accepted_bytes, self._accepted_s = 0, 0.0
        more = Extension(STEPS, TABLES, _OWN_LANES)
        opened = partial(Outbox, self._path, self.blobs, machine_id, more, room=room)
        try:
            self._begin(opened())
        except Damaged:  # it is marked: opened again it is healed
            self._begin(opened())
        if self._settled.highest(self.outbox.epoch) >= self.outbox.next_position:
            log.error("store_set_back epoch=%s: more is settled than was ever written here", self.outbox.epoch)
            self.outbox.new_epoch("set back to an older state")
        published = self.outbox.note("published") or ""
        self.published = int(published) if published.isdecimal() else 0
        self._saved_published: int | None = self.published

    def _begin(self, outbox: Outbox) -> None:
        """Take an outbox for ours and read the streams that are in it. Errors: Damaged; then it is closed again."""
        self.outbox, self._connection, self._taken = outbox, outbox.connection, Taken(outbox.connection)
        with ExitStack() as undo:
            undo.callback(outbox.close)
            self.reload_streams()
            undo.pop_all()

    @property
    def full(self) -> bool:
        """Whether the quota or the disk is used up: nothing new is accepted, devices keep what they have."""
        return self._held_bytes >= self._max_bytes or self.outbox.is_short

    def above(self, ratio: float) -> bool:
        """Whether more than this share of the quota is used up."""
        return self._held_bytes > ratio * self._max_bytes

    @property
    def _held_bytes(self) -> int:
        return self.outbox.held_bytes + self._accepted_bytes

    # --- streams and answers

    def stream(self, device: str, epoch: str) -> Stream | None:
        """Return what is known of an epoch of a device."""
        return self._streams.get((device, epoch))

    def streams(self) -> list[Stream]:
        """Return all of them."""
        return list(self._streams.values())

    @property
    def devices(self) -> int:
        """How many devices have a stream."""
        return len(self._of_device)

    def epochs_of(self, device: str) -> list[Stream]:
        """Return the streams of a device."""
        return self._of_device.get(device, [])

    def minted_of(self, stream: Stream) -> int:
        """Return how far a device is known to have minted in an epoch: as it said, and as came."""
        row = self._connection.execute(
            "SELECT seq FROM minted WHERE origin = ? AND epoch = ?", (f"device/{stream.device}", stream.epoch)
        ).fetchone()
        return max(int(row[0]) if row else 0, stream.highest())

    def retire(self, stream: Stream) -> None:
        """Forget an epoch of a device, all but its rows."""
        self.write_accepted()
        self._connection.execute("DELETE FROM stream WHERE no = ?", (stream.no,))
        self._connection.execute("DELETE FROM answer WHERE stream = ?", (stream.no,))
        self._taken.forget(stream.no)
        self._connection.execute("DELETE FROM declared WHERE stream = ?", (stream.no,))
        self._connection.execute(
            "DELETE FROM minted WHERE origin = ? AND epoch = ?", (f"device/{stream.device}", stream.epoch)
        )
        del self._streams[stream.device, stream.epoch]
        self._of_device[stream.device].remove(stream)
        self._declared.pop(stream.no, None)
        del self._remembered[stream.no]

    def open_stream(self, device: str, epoch: str) -> Stream:
        """Return the stream, made if it is new."""
        known = self._streams.get((device, epoch))
        if known is not None:
            return known
        ((no,),) = self._connection.execute("SELECT coalesce(max(no), 0) + 1 FROM stream").fetchall()
        self._connection.execute("INSERT INTO stream VALUES (?, ?, ?, ?, ?, ?)", summed(no, device, epoch, 0, "[]"))
        stream = Stream(no, device, epoch)
        self._keep(stream)
        return stream

    def _keep(self, stream: Stream) -> None:
        self._streams[stream.device, stream.epoch] = stream
        self._of_device.setdefault(stream.device, []).append(stream)

    def save_stream(self, stream: Stream) -> None:
        """Write how far a stream is accounted for."""
        ahead = json.dumps(stream.ahead.ranges())
        checksum = row_sum(stream.no, stream.device, stream.epoch, stream.watermark, ahead)
        self._connection.execute(
            "UPDATE stream SET watermark = ?, ahead = ?, checksum = ? WHERE no = ?",
            (stream.watermark, ahead, checksum, stream.no),
        )
        declared = json.dumps(stream.declared.ranges()) if stream.declared else None
        if declared != self._declared.get(stream.no):
            self._save_declared(stream.no, declared)
        if stream.ahead:  # else the watermark tells how far the device has minted
            self.outbox.note_minted(f"device/{stream.device}", stream.epoch, stream.highest())

    def _save_declared(self, no: int, declared: str | None) -> None:
        if declared is None:
            self._connection.execute("DELETE FROM declared WHERE stream = ?", (no,))
            del self._declared[no]
        else:
            self._connection.execute("INSERT OR REPLACE INTO declared VALUES (?, ?)", (no, declared))
            self._declared[no] = declared

    def reload_streams(self) -> None:
        """Read all streams again: what a transaction that failed had changed in memory is void. Errors: Damaged."""
        self._streams.clear()
        self._of_device.clear()
        self._accepted, self._accepted_bytes = [], 0
        self._answers = {}
        self._saved_published = None
        self._declared = dict(self._connection.execute("SELECT stream, ranges FROM declared"))
        for row in self._connection.execute("SELECT * FROM stream").fetchall():
            if not is_believed(row, STREAM_WIDTH):
                self.outbox.spoilt(f"what was accepted of a device's epoch is not as it was written: {row}")
            no, device, epoch, watermark, ahead, _ = row
            try:
                declared = ranges_of(self._declared.get(no, "[]"))
                self._keep(Stream(no, device, epoch, int(watermark), ranges_of(ahead), declared))
            except UNREADABLE as error:
                self.outbox.spoilt(f"what was accepted of {device}'s epoch {epoch} cannot be read: {error}")

    def remember(self, stream: Stream, seq: int, answer: Answer) -> None:
        """Keep where the answer to an event lies, for as long as it may be asked again."""
        self._remember_answer((stream.no, seq, answer.position, answer.rows, answer.digest))

    def _remember_answer(self, answer: tuple[int, int, int, int, str]) -> None:
        insert(self._connection, "INSERT OR REPLACE INTO answer", [answer])
        self._forget_oldest([answer[0]])

    def _forget_oldest(self, remembered: Iterable[int]) -> None:
        """Take note of which streams more is remembered; now and then forget what was too long ago."""
        for no, count in Counter(remembered).items():
            self._remembered[no] += count
            if self._remembered[no] >= FORGET_EVERY:  # whatever the seqs are: a device may leave some out
                self._remembered[no] = 0
                self._connection.execute(
                    "DELETE FROM answer WHERE stream = ? AND seq <="
                    " (SELECT seq FROM answer WHERE stream = ? ORDER BY seq DESC LIMIT 1 OFFSET ?)",
                    (no, no, ANSWERS_KEPT),
                )
                self._taken.trim(no, ANSWERS_KEPT)

    def recall(self, stream: Stream, seq: int) -> Answer | None:
        """Return what was answered to an event, or None if it is too long ago or nothing was."""
        self.write_accepted()
        row = self._connection.execute(
            "SELECT position, rows, digest FROM answer WHERE stream = ? AND seq = ?", (stream.no, seq)
        ).fetchone()
        if row:
            return Answer(*row)
        found = self._taken.find(stream.no, seq)
        return Answer(found[0], 0, found[1]) if found else None

    def latest(self, stream: Stream, count: int) -> Iterator[tuple[int, Answer, Entry | None]]:
        """Yield the last `count` events of a stream, the highest seq first: seq, answer, and the event's own row.

        The row is None where it is not held, or not where a row that was accepted stands.
        """
        self.write_accepted()
        both = self._latest_answers(stream, count), self._latest_taken(stream, count)
        yield from islice(heapq.merge(*both, key=lambda found: found[0], reverse=True), count)

    def _latest_taken(self, stream: Stream, count: int) -> Iterator[tuple[int, Answer, Entry | None]]:
        entries: dict[int, Entry] = {}
        for seq, position, mark in self._taken.latest(stream.no, count):
            if position not in entries:
                entries = {entry.position: entry for entry in self.outbox.read(position - RUN_MAX, RUN_MAX)}
            yield seq, Answer(position, 0, mark), _own(entries.get(position), stream, seq)

    def _latest_answers(self, stream: Stream, count: int) -> Iterator[tuple[int, Answer, Entry | None]]:
        rows = self._connection.execute(
            "SELECT answer.seq, answer.position, rows, digest, entry.* FROM answer"
            " LEFT JOIN entry ON entry.position = answer.position - (rows > 0)"
            " WHERE stream = ? ORDER BY answer.seq DESC LIMIT ?",
            (stream.no, count),
        )
        for seq, position, results, digest, *row in rows:
            entry = entry_of(*row) if row[0] is not None else None
            yield seq, Answer(position, results, digest), _own(entry, stream, seq)

    def recent_digests(self, stream: Stream, count: int) -> dict[str, int]:
        """Return digest, or mark, -> seq of the last `count` events of a stream."""
        self.write_accepted()
        answers = self._connection.execute(
            "SELECT seq, digest FROM answer WHERE stream = ? ORDER BY seq DESC LIMIT ?", (stream.no, count)
        ).fetchall()
        answers += [(seq, mark) for seq, _, mark in self._taken.latest(stream.no, count)]
        return {digest: seq for seq, digest in heapq.nlargest(count, answers)}

    def results_of(self, answer: Answer) -> list[Entry]:
        """Return the stored results of an answer; none if they are purged."""
        if not answer.rows:
            return []
        entries = self.outbox.read(answer.position - 1, answer.rows)
        return [e for e in entries if e.intact and e.position < answer.position + answer.rows and e.lane is Lane.RESULT]

    def unpublished(self, max_rows: int) -> list[Entry]:
        """Return results and alarms that were committed and perhaps never published, in order."""
        found = [e for lane in (Lane.ALARM, Lane.RESULT) for e in self.outbox.read(self.published, max_rows, lane)]
        return sorted((e for e in found if e.intact), key=lambda e: e.position)

    # --- writing

    def append(self, drafts: Sequence[Draft], uptime_s: float) -> list[Entry]:
        """Append to the outbox."""
        return self.outbox.append(drafts, uptime_s)

    def accept(
        self, draft: Draft, stream: Stream, digest: str, uptime_s: float, answer: Callable[[], int] | None = None
    ) -> None:
        """Append a row, and remember its answer, with all such of this transaction at once.

        `answer` appends the row's results, behind it, and returns how many; it may wait for them.
        """
        if answer is not None:
            self._answers[len(self._accepted)] = answer
        self._accepted.append((draft, stream, digest))
        self._accepted_bytes += len(draft.body)
        self._accepted_s = uptime_s

    def write_accepted(self) -> None:
        """Write what was accepted; to be called before the transaction ends."""
        if not self._accepted:
            return
        accepted, self._accepted, self._accepted_bytes = self._accepted, [], 0
        answers, self._answers = self._answers, {}
        begin = 0
        for place, answer in answers.items():
            self._write_rows(accepted[begin : place + 1], answer)
            begin = place + 1
        if begin < len(accepted):
            self._write_rows(accepted[begin:])

    def _write_rows(
        self, accepted: Sequence[tuple[Draft, Stream, str]], answer: Callable[[], int] | None = None
    ) -> None:
        """Write rows, and behind the last of them what `answer` appends."""
        first = self.outbox.extend([draft for draft, _, _ in accepted], self._accepted_s)
        taken = [
            (stream.no, draft.seq, position, digest) for position, (draft, stream, digest) in enumerate(accepted, first)
        ]
        if answer is not None and (rows := answer()):
            no, seq, position, digest = taken.pop()
            self._remember_answer((no, seq, position + 1, rows, digest))
        self._taken.note(taken)
        self._forget_oldest(no for no, *_ in taken)

    def quarantine(self, topic: str, reason: str, payload: bytes, wall_ns: int, max_rows: int) -> None:
        """Keep a malformed message for a look; the oldest make room."""
        self._connection.execute(
            "INSERT INTO quarantine (wall_ns, topic, reason, payload) VALUES (?, ?, ?, ?)",
            (wall_ns, topic[:512], reason[:512], payload[:QUARANTINE_PAYLOAD_BYTES]),
        )
        self._connection.execute("DELETE FROM quarantine WHERE no <= (SELECT max(no) FROM quarantine) - ?", (max_rows,))

    def note_sighting(self, sighting: Sighting) -> None:
        """Keep what a device's boot and ours know of one another's uptime: it mends the device's times."""
        ties.note(self._connection, sighting)

    def mark_published(self, position: int) -> None:
        """Remember up to where results were published; it goes to the disk with the next transaction."""
        self.published = max(self.published, position)

    def save_published(self, *, anew: bool = False) -> None:
        """Write that position, if it has moved; `anew`: in any case, so that the disk is asked."""
        if anew or self.published != self._saved_published:
            self.outbox.set_note("published", str(self.published))
            self._saved_published = self.published

    # --- settling

    def settled(self, lane: Lane) -> RangeSet:
        """Return what the sync worker has settled of a lane; everything else there is unsent."""
        return self._settled.read(self.outbox.epoch).get(lane, RangeSet())

    def purge(self, uplink: bool, retention_s: float, retention_bytes: int, uptime_s: float) -> bool:
        """Drop what is settled and older than the retention, or over its bytes; return whether more is due at once."""
        settled = self._settled.read(self.outbox.epoch) if uplink else {}
        age_s = self.outbox.age_s(uptime_s)
        keep_bytes = min(retention_bytes, int(self._max_bytes * PURGED_SHARE))
        slice_ = self.outbox.read(self._purge_after, PURGE_ROWS)
        self._purge_after = slice_[-1].position if len(slice_) == PURGE_ROWS else 0
        gone = 0
        with self.outbox.transaction():
            for entry in slice_:
                is_young = age_s - retention_s <= entry.born_s <= age_s  # none is older than the file but by damage
                if is_young and self.outbox.held_bytes <= keep_bytes:
                    self._purge_after = 0  # what follows is younger
                    break
                if not uplink or entry.lane is Lane.LOCAL or entry.position in settled.get(entry.lane, ()):
                    gone += self.outbox.forget([entry.position])
        if gone:
            crashpoints.reached("gateway.purged")
        return gone >= PURGE_ROWS // 2

    def heed_readers(self) -> None:
        """Raise Damaged if whoever reads the file beside us has met damage in it: the next start heals it."""
        if healing.is_asked_for(self._path):
            self.outbox.spoilt("damage was met by another program that reads it")

    def close(self) -> None:
        """Close the file; what it holds stays."""
        self.outbox.close()


def _own(entry: Entry | None, stream: Stream, seq: int) -> Entry | None:
    """Return an entry that is what a stream took under this seq; None where it is not."""
    is_own = entry is not None and entry.intact and (entry.epoch, entry.seq) == (stream.epoch, seq)
    return entry if is_own else None
