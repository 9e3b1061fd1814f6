"""The durable queue: what `append` returned from is on stable storage, in order, until it is forgotten.

One process writes a file, and a lock proves it; others read it through `outbox_reader` and change nothing.
The agent's spool and the gateway's database are both outboxes; the gateway adds tables of its own to the same file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NoReturn

from millrace import doubts, notes
from millrace.blobs import BlobStore
from millrace.database import insert, storage_errors
from millrace.doubts import Doubt
from millrace.entries import SELECT_LANE, Draft, Entry, Lane, ascend, checksum_of, entry_of
from millrace.outbox_file import OutboxFile
from millrace.outbox_tables import Extension
from millrace.room import Room
from millrace.short_bodies import shortened

_SELECT_ALL = "SELECT * FROM entry WHERE position > ? ORDER BY position LIMIT ?"
_GAPS = (
    "SELECT here + 1, next - 1 FROM (SELECT here, lead(here) OVER (ORDER BY here) AS next FROM (SELECT ? AS here"
    " UNION ALL SELECT position FROM entry WHERE position BETWEEN ? AND ? UNION ALL SELECT ?)) WHERE next > here + 1"
)


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
        self._own_lanes = more.own_lanes
        shared: OutboxFile | None = None if numbered_by is None else numbered_by._file
        self._file: OutboxFile = OutboxFile(path, blobs, machine_id, more, numbered_by=shared, room=room)
        self.connection = self._file.connection
        self._counters, self._pictures = self._file.counters, self._file.pictures

    def close(self) -> None:
        """Close the file and give the lock back."""
        self._file.close()

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
        return self._file.is_short

    def minted(self) -> dict[str, int]:
        """Return, for each of our own epochs, the highest seq given out (0 for none yet). Errors: StorageFailed."""
        return self._counters.minted()

    def reserved(self, epoch: str) -> int | None:
        """Return a seq that this epoch has not minted beyond, over all files of this numbering; None: nobody knows."""
        return self._file.reserved.get(epoch)

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
        """Return of the own seqs in doubt those of which no row is held: (epoch, first, last), oldest epoch first.

        Errors: Damaged.
        """
        return doubts.unproven(self.connection, doubt, self._own_lanes, self.spoilt)

    def resolve(self) -> None:
        """Note, inside the present transaction, that ledger records account for what was in doubt."""
        doubts.resolve(self.connection)

    def spoilt(self, why: str) -> NoReturn:
        """Say that what the file holds cannot be right: raise Damaged; the next start heals it."""
        self._file.spoilt(why)

    # --- writing

    def transaction(self) -> AbstractContextManager[None]:
        """Commit all that is done inside, on stable storage, or nothing; StorageFailed if the disk refuses.

        Inside another transaction it is a part of that one.
        """
        return self._file.transaction()

    def overwrite_failed_commit(self) -> None:
        """See, outside of a transaction, that no commit whose sync failed comes back at the next start.

        Needed before another file takes its seqs; in this one the next commit overwrites it. Errors: StorageFailed.
        """
        self._file.overwrite_failed_commit()

    def put_pictures(self, pictures: Mapping[str, bytes]) -> None:
        """Store pictures by digest for drafts of the present transaction; if it fails, the new ones go again."""
        self._pictures.put(pictures)

    def append(self, drafts: Sequence[Draft], uptime_s: float, positions: Sequence[int] | None = None) -> list[Entry]:
        """Append in order inside the present transaction; return the entries.

        `positions`: where they stand if not at the end; free places below it, given out before.
        """
        if positions is None:
            first = self.extend(drafts, uptime_s)
            positions = range(first, first + len(drafts))
        else:
            self._counters.changed_otherwise()
            self._insert(drafts, positions, uptime_s)
        born_s = int(self._counters.age_s(uptime_s))
        return [
            Entry(position, d.lane, d.epoch, d.seq, d.body, d.blob, len(d.body), born_s, intact=True)
            for position, d in zip(positions, drafts, strict=True)
        ]

    def extend(self, drafts: Sequence[Draft], uptime_s: float) -> int:
        """Append in order at the end, inside the present transaction; return the position of the first."""
        first = self._counters.next_position
        if any(draft.blob is not None for draft in drafts):
            self._counters.changed_otherwise()
        self._insert(drafts, range(first, first + len(drafts)), uptime_s)
        return first

    def _insert(self, drafts: Sequence[Draft], positions: Sequence[int], uptime_s: float) -> None:
        counters = self._counters
        born_s = int(counters.age_s(uptime_s))
        rows = []
        for position, draft in zip(positions, drafts, strict=True):
            lane, epoch, seq, body, blob = int(draft.lane), draft.epoch, draft.seq, draft.body, draft.blob
            kept, checksum = shortened(body, epoch, seq), checksum_of(lane, epoch, seq, body, blob)
            rows.append((position, lane, epoch, seq, kept, blob, len(body), born_s, checksum))
            counters.held_bytes += len(body)
            if blob is not None:
                counters.held_bytes += self._pictures.refer(blob, draft.blob_bytes)
        if rows:
            counters.next_position = max(counters.next_position, max(positions) + 1)
        counters.held_rows += len(rows)
        insert(self.connection, "INSERT INTO entry", rows)

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
        """Return what was noted under a key, or None. Errors: Damaged."""
        rows = self.connection.execute(notes.SELECT_ONE, (key,)).fetchall()
        if not notes.are_believed(rows):
            self.spoilt(f"what is noted under {key!r} is not as it was written: {rows}")
        return str(rows[0][1]) if rows else None

    def set_note(self, key: str, value: str | None) -> None:
        """Note a value under a key inside the present transaction; None takes it away."""
        if value is None:
            self.connection.execute("DELETE FROM meta WHERE key = ?", (key,))
        else:
            notes.write(self.connection, key, value)

    def _account_for(self, rows: list[tuple[int, str | None]]) -> int:
        counters = self._counters
        if rows:
            counters.changed_otherwise()
        for size, blob in rows:
            counters.held_bytes -= size
            if blob is not None:
                counters.held_bytes -= self._pictures.release(blob)
        counters.held_rows -= len(rows)
        return len(rows)

    # --- reading

    def read(self, after: int, max_rows: int, lane: Lane | None = None) -> list[Entry]:
        """Return up to `max_rows` entries in order, positions above `after`, of one lane or of all.

        Errors: StorageFailed, Damaged.
        """
        with storage_errors(self.path):
            if lane is None:
                rows = self.connection.execute(_SELECT_ALL, (after, max_rows))
            else:
                rows = self.connection.execute(SELECT_LANE, (int(lane), after, max_rows))
            found = [entry_of(*row) for row in rows.fetchall()]
        if not ascend([entry.position for entry in found], after):
            self.spoilt(f"rows above {after} are out of their order")
        return found

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
