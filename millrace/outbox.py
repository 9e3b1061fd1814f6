"""The durable queue: what `append` returned from is on stable storage, in order, until it is forgotten.

One process writes a file, and a lock proves it; others read it through `outbox_reader` and change nothing.
The agent's spool and the gateway's database are both outboxes; the gateway adds tables of its own to the same file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

from millrace import doubts, outbox_tables
from millrace.birth import birth
from millrace.blobs import BlobStore, StorageFailed, make_folder
from millrace.counters import Counters, random_epoch
from millrace.database import CommitFailed, Damaged, Database, storage_errors
from millrace.doubts import Doubt
from millrace.entries import SELECT_LANE, Draft, Entry, Lane, checksum_of, entry_of, is_sound
from millrace.healing import heal
from millrace.outbox_tables import Extension
from millrace.pictures import Pictures
from millrace.rebuild import Known, Rebuild
from millrace.reservation import LastSeen, Reservation
from millrace.room import Room, RoomLeft

log = logging.getLogger(__name__)

_SELECT_ALL = "SELECT * FROM entry WHERE position > ? ORDER BY position LIMIT ?"
_GAPS = (
    "SELECT here + 1, next - 1 FROM (SELECT here, lead(here) OVER (ORDER BY here) AS next FROM (SELECT ? AS here"
    " UNION ALL SELECT position FROM entry WHERE position BETWEEN ? AND ? UNION ALL SELECT ?)) WHERE next > here + 1"
)
Fill = Callable[[Path, Path, str], None]


class Outbox:
    """The writer's side of the file; used by one thread. Opening it creates it and takes the lock.

    A damaged file is set aside, and what reads of it is carried over; see `doubt`.
    """

    def __init__(
        self,
        path: Path,
        blobs: BlobStore,
        machine_id: str,
        more: Extension | None = None,
        *,
        numbered_by: Outbox | None = None,
        room: Room | None = None,
    ) -> None:
        """Open or create the file. Errors: Locked, NewerSchema, StorageFailed; Damaged: the next start heals it.

        A full disk is tried again without the ballast.

        `numbered_by` names the outbox whose present epoch, seqs and positions a new file shares. That one also reserves
        them, and nothing heals this one.
        """
        more = more or Extension()
        self.path = path
        self.blobs = blobs
        with ExitStack() as undo, storage_errors(path):
            make_folder(path.parent)
            steps = outbox_tables.steps(more)
            self._last_seen = LastSeen(path.with_name(path.name + ".seen"))
            undo.callback(self._last_seen.close)
            self._own_lanes = more.own_lanes
            if numbered_by is None:
                self._reservation = Reservation(path.with_name(path.name + ".epoch"))
                self._room_left = RoomLeft(path, room)
                database = self._open_in_any_state(steps, self._rebuild(steps, more, machine_id), machine_id)
            else:
                self._reservation = numbered_by._reservation
                self._room_left = RoomLeft(path, None)
                database = self._open(steps, lambda: self._share_epoch(numbered_by))
            undo.callback(database.close)
            self._room_left.used_bytes = database.used_bytes()
            self._pictures.look_for_orphans()
            undo.pop_all()

    def close(self) -> None:
        """Close the file and give the lock back."""
        self._database.close()
        self._last_seen.close()

    # --- opening

    def _open_in_any_state(self, steps: Sequence[str], fill: Fill, machine_id: str) -> Database:
        for _ in range(2):
            try:
                return self._open_healed(steps, fill, machine_id)
            except Damaged:  # met behind the check: the mark is set
                continue
            except StorageFailed:
                if not self._room_left.release():
                    raise
        return self._open_healed(steps, fill, machine_id)

    def _open_healed(self, steps: Sequence[str], fill: Fill, machine_id: str) -> Database:
        heal(self.path, fill, is_used=bool(self._reservation.reserved))
        return self._open(steps, lambda: self._choose_epoch(machine_id))

    def _open(self, steps: Sequence[str], choose_epoch: Callable[[], None]) -> Database:
        self._database = Database(self.path, steps, max_bytes=self._room_left.max_bytes)
        with ExitStack() as undo:
            undo.callback(self._database.close)
            self.connection = self._database.connection
            self._pictures = Pictures(self.connection, self.blobs)
            self._counters = Counters(self._database, self._reservation)
            choose_epoch()
            undo.pop_all()
        return self._database

    def _rebuild(self, steps: Sequence[str], more: Extension, machine_id: str) -> Fill:
        def fill(old: Path, new: Path, why: str) -> None:
            tables = (*outbox_tables.CARRIED, *more.tables)
            known = Known(self._reservation.reserved, self._last_seen.read())
            rebuild = Rebuild(self.blobs, known, random_epoch(), machine_id, is_sound, more.own_lanes, tables)
            database = Database(new, steps)
            try:
                rebuild.fill(old, database, why)
            finally:
                database.close()

        return fill

    def _choose_epoch(self, machine_id: str) -> None:
        """Go on in the last epoch; begin another in a new file, a copy, on another machine, or after a loss."""
        is_new = self._counters.is_new
        now = {"machine_id": machine_id, "birth": birth(self.path)}
        known = dict(self.connection.execute("SELECT key, value FROM meta"))
        lost = doubts.find_lost(self.connection, self._counters, self._reservation.reserved, self._last_seen.read())
        if not lost and all(known.get(key) == value for key, value in now.items()):
            return
        with self.transaction():
            if lost:
                why = "the file was lost" if is_new else "set back to an older state"
                log.error("outbox_set_back file=%s why=%r", self.path, why)
                doubts.begin(self.connection, why, lost)
                self.new_epoch(why)
            elif is_new:
                self.new_epoch("created")
            elif known.get("machine_id", machine_id) != machine_id:
                self.new_epoch("another machine")
            elif "birth" in known:
                self.new_epoch("a copy was put in its place")
            self.connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", now.items())

    def _share_epoch(self, other: Outbox) -> None:
        if self._counters.is_new:
            with self.transaction():
                self._counters.share(other._counters, f"shared with {other.path}")

    # --- its counters

    @property
    def epoch(self) -> str:
        """The present epoch, in which seqs are minted."""
        return self._counters.epoch

    @property
    def next_seq(self) -> int:
        """The next seq of the present epoch."""
        return self._counters.next_seq

    @property
    def next_position(self) -> int:
        """Where the next entry will stand."""
        return self._counters.next_position

    @property
    def held_rows(self) -> int:
        """How many entries it holds."""
        return self._counters.held_rows

    @property
    def held_bytes(self) -> int:
        """How many bytes they take, pictures included."""
        return self._counters.held_bytes

    @property
    def is_short(self) -> bool:
        """Whether only ledger records, alarms and what makes room may be written: the file or its disk is nearly full.

        Any thread may ask; it ends by itself when there is room.
        """
        return self._room_left.is_short

    def minted(self) -> dict[str, int]:
        """Return, for each of our own epochs, the highest seq given out (0 for none yet). Errors: StorageFailed."""
        return self._counters.minted()

    def reserved(self, epoch: str) -> int | None:
        """Return a seq that this epoch has not minted beyond, over all files of this numbering; None: nobody knows."""
        return self._reservation.reserved.get(epoch)

    def age_s(self, uptime_s: float) -> float:
        """Return for how many seconds this file has been in use, over all runs; no clock can make it jump."""
        return self._counters.age_s(uptime_s)

    def mint(self) -> int:
        """Give out the next seq of the present epoch inside the present transaction; it counts only if that commits."""
        return self._counters.mint()

    def new_epoch(self, reason: str) -> str:
        """Begin a new epoch: from now on seqs count from 1 under a new name. Return the name."""
        with self.transaction():
            return self._counters.begin_epoch(reason)

    def witness(self, epoch: str, next_seq: int, next_position: int) -> None:
        """Note, inside the present transaction, that another file of this numbering stands so far; never goes back."""
        self._counters.witness(epoch, next_seq, next_position)

    # --- doubt

    def doubt(self) -> Doubt | None:
        """Return what is not proven since the file was damaged or lost, until it is `resolved`."""
        return doubts.read(self.connection)

    def unproven(self, doubt: Doubt) -> list[tuple[str, int, int]]:
        """Return of the own seqs in doubt those of which no row is held: (epoch, first, last), oldest epoch first."""
        return doubts.unproven(self.connection, doubt, self._own_lanes)

    def resolve(self) -> None:
        """Note, inside the present transaction, that ledger records account for what was in doubt."""
        doubts.resolve(self.connection)

    def spoilt(self, why: str) -> NoReturn:
        """Say that what the file holds cannot be right: raise Damaged; the next start heals it."""
        self._database.spoilt(why)

    # --- writing

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit all that is done inside, on stable storage, or nothing; StorageFailed if the disk refuses.

        Inside another transaction it is a part of that one. Pictures whose last row went are unlinked after the
        commit. On a full disk the ballast goes, and the next transaction has its room.
        """
        if self.connection.in_transaction:
            yield
            return
        before = self._counters.state()
        committed = False
        try:
            with storage_errors(self.path):
                self._pictures.collect_orphans()
            with self._database.transaction():
                yield
                if before != self._counters.state():
                    self._counters.save()
                used_bytes = self._database.used_bytes()
            committed, self._room_left.used_bytes = True, used_bytes
            self._last_seen.note((self.epoch, self.next_seq, self.next_position))
        except StorageFailed as error:
            if isinstance(error, CommitFailed):
                self._pictures.keep_new()
            self._room_left.release()
            raise
        finally:
            if not committed:
                self._counters.restore(before)
            self._pictures.end(committed=committed)

    def put_pictures(self, pictures: Mapping[str, bytes]) -> None:
        """Store pictures by digest for drafts of the present transaction; if it fails, the new ones go again."""
        self._pictures.put(pictures)

    def append(self, drafts: Sequence[Draft], uptime_s: float, positions: Sequence[int] | None = None) -> list[Entry]:
        """Append in order inside the present transaction; return the entries.

        `positions`: where they stand if not at the end; free places below it, given out before.
        """
        counters = self._counters
        born_s = int(counters.age_s(uptime_s))
        entries = []
        if positions is None:
            positions = range(counters.next_position, counters.next_position + len(drafts))
        for position, draft in zip(positions, drafts, strict=True):
            entries.append(
                Entry(
                    position,
                    draft.lane,
                    draft.epoch,
                    draft.seq,
                    draft.body,
                    draft.blob,
                    len(draft.body),
                    born_s,
                    intact=True,
                )
            )
            counters.next_position = max(counters.next_position, position + 1)
            counters.held_bytes += len(draft.body)
            if draft.blob is not None:
                counters.held_bytes += self._pictures.refer(draft.blob, draft.blob_bytes)
        counters.held_rows += len(entries)
        self.connection.executemany(
            "INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(e.position, e.lane, e.epoch, e.seq, e.body, e.blob, e.bytes, e.born_s, checksum_of(e)) for e in entries],
        )
        return entries

    def forget(self, positions: Sequence[int]) -> int:
        """Delete these rows inside the present transaction; return how many there were."""
        gone = 0
        for position in positions:
            gone += self._account_for(
                self.connection.execute(
                    "DELETE FROM entry WHERE position = ? RETURNING CAST(bytes AS INTEGER), blob", (position,)
                ).fetchall()
            )
        return gone

    def forget_range(self, first: int, last: int) -> int:
        """Delete the rows from position `first` to `last` inside the present transaction; return how many."""
        rows = self.connection.execute(
            "DELETE FROM entry WHERE position BETWEEN ? AND ? RETURNING CAST(bytes AS INTEGER), blob", (first, last)
        ).fetchall()
        return self._account_for(rows)

    def note_minted(self, origin: str, epoch: str, seq: int) -> None:
        """Remember, inside the present transaction, how far an origin has minted; it never goes back."""
        self.connection.execute(
            "INSERT INTO minted VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET seq = max(seq, excluded.seq)",
            (origin, epoch, seq),
        )

    def note(self, key: str) -> str | None:
        """Return what was noted under a key, or None."""
        row = self.connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_note(self, key: str, value: str | None) -> None:
        """Note a value under a key inside the present transaction; None takes it away."""
        if value is None:
            self.connection.execute("DELETE FROM meta WHERE key = ?", (key,))
        else:
            self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def _account_for(self, rows: list[tuple[int, str | None]]) -> int:
        counters = self._counters
        for size, blob in rows:
            counters.held_bytes -= size
            if blob is not None:
                counters.held_bytes -= self._pictures.release(blob)
        counters.held_rows -= len(rows)
        return len(rows)

    # --- reading

    def read(self, after: int, max_rows: int, lane: Lane | None = None) -> list[Entry]:
        """Return up to `max_rows` entries in order, positions above `after`, of one lane or of all.

        Errors: StorageFailed.
        """
        with storage_errors(self.path):
            if lane is None:
                rows = self.connection.execute(_SELECT_ALL, (after, max_rows))
            else:
                rows = self.connection.execute(SELECT_LANE, (int(lane), after, max_rows))
            return [entry_of(*row) for row in rows.fetchall()]

    def first_position(self, after: int = 0) -> int | None:
        """Return the lowest position held above `after`, or None. Errors: StorageFailed."""
        found: int | None
        with storage_errors(self.path):
            (found,) = self.connection.execute(
                "SELECT min(position) FROM entry WHERE position > ?", (after,)
            ).fetchone()
        return found

    def size_bytes(self, entry: Entry) -> int:
        """Return what an entry takes, its picture included, which others may share."""
        if entry.blob is None:
            return entry.bytes
        return entry.bytes + self._pictures.size_bytes(entry.blob)

    def gaps(self, first: int, last: int) -> list[tuple[int, int]]:
        """Return the ranges of positions from `first` to `last` where no row stands."""
        if first > last:
            return []
        return [
            (int(low), int(high))
            for low, high in self.connection.execute(_GAPS, (first - 1, first, last, last + 1)).fetchall()
        ]
