"""The durable queue: what `append` returned from is on stable storage, in order, until it is forgotten.

One process writes a file, and a lock proves it; others read it through `outbox_reader` and change nothing.
The agent's spool and the gateway's database are both outboxes; the gateway adds tables of its own to the same file.
"""

from __future__ import annotations

import logging
import random
import string
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn

from millrace import events, jsontext, topics
from millrace.ballast import Ballast
from millrace.birth import birth
from millrace.blobs import BlobStore, StorageFailed, make_folder
from millrace.database import CommitFailed, Damaged, Database, storage_errors
from millrace.entries import SELECT_LANE, Draft, Entry, Lane, checksum_of, entry_of, is_sound
from millrace.healing import heal
from millrace.ranges import RangeSet
from millrace.rebuild import AGE_MAX_S, Known, Rebuild, Table
from millrace.reservation import LastSeen, Reservation

log = logging.getLogger(__name__)

_STEPS = (
    """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE own_epoch (
    epoch TEXT PRIMARY KEY, number INTEGER NOT NULL, next_seq INTEGER NOT NULL, reason TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE counter (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    next_position INTEGER NOT NULL, held_rows INTEGER NOT NULL, held_bytes INTEGER NOT NULL, age_s REAL NOT NULL
);
INSERT INTO counter VALUES (1, 1, 0, 0, 0);
CREATE TABLE entry (
    position INTEGER PRIMARY KEY,
    lane INTEGER NOT NULL,
    epoch TEXT NOT NULL,
    seq INTEGER NOT NULL,
    body BLOB NOT NULL,
    blob TEXT,
    bytes INTEGER NOT NULL,
    born_s INTEGER NOT NULL,
    checksum INTEGER NOT NULL
);
CREATE INDEX entry_by_lane ON entry (lane, position);
CREATE TABLE blob (sha256 TEXT PRIMARY KEY, rows INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE minted (
    origin TEXT, epoch TEXT, seq INTEGER NOT NULL, PRIMARY KEY (origin, epoch)
) WITHOUT ROWID;
""",
)

_SELECT_ALL = "SELECT * FROM entry WHERE position > ? ORDER BY position LIMIT ?"
_SELECT_KEYS = "SELECT position, lane, epoch, seq FROM entry WHERE position > ? ORDER BY position LIMIT ?"
_GAPS = (
    "SELECT here + 1, next - 1 FROM (SELECT here, lead(here) OVER (ORDER BY here) AS next FROM (SELECT ? AS here"
    " UNION ALL SELECT position FROM entry WHERE position BETWEEN ? AND ? UNION ALL SELECT ?)) WHERE next > here + 1"
)


KEYS_AT_ONCE = 4096
RESERVE_BYTES = 32 << 20
ORPHANS_AT_START_S = 0.2
ORPHANS_BETWEEN_S = 0.002
"""For so long pictures that have no row are looked for at the start, and before each transaction until all are seen."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """After damage or loss: seqs of own epochs, of which only those that are held or were received are proven.

    `is_salvaged` says that rows in the midst may be missing, others' too.
    """

    why: str
    is_salvaged: bool
    ranges: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Room:
    """How far a file may grow, and how large its ballast is; 0 for none.

    The last RESERVE_BYTES are for what must always be written: ledger records and alarms.
    """

    max_bytes: int
    ballast_bytes: int = 0

    @classmethod
    def for_quota(cls, quota_bytes: int, ballast_bytes: int, more_bytes: int = 0) -> Room:
        """Return the room for rows of so many bytes, each of which takes up to twice that with its indexes.

        `more_bytes` are for the owner's own tables.
        """
        return cls(2 * quota_bytes + more_bytes + 2 * RESERVE_BYTES, ballast_bytes)


@dataclass(frozen=True, slots=True)
class Extension:
    """What an owner keeps in the same file: `steps` make his tables, schema by schema; `tables` are carried over.

    `own_lanes` are those in which a row of an own epoch is his own; None if there are no others' rows.
    """

    steps: Sequence[str] = ()
    tables: Sequence[Table] = ()
    own_lanes: Sequence[Lane] | None = None


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
        self.epoch, self.next_seq = "", 1
        self._discard: set[str] = set()
        self._new_pictures: set[str] = set()
        self._unlooked: Iterator[str] = iter(())
        self._max_bytes: int | None = None
        self._ballast: Ballast | None = None
        self._age_origin_s: float | None = None
        with ExitStack() as undo, storage_errors(path):
            make_folder(path.parent)
            steps = [ours + theirs for ours, theirs in zip_longest(_STEPS, more.steps, fillvalue="")]
            self._last_seen = LastSeen(path.with_name(path.name + ".seen"))
            undo.callback(self._last_seen.close)
            self._own_lanes = more.own_lanes
            if numbered_by is None:
                self._reservation = Reservation(path.with_name(path.name + ".epoch"))
                if room is not None:
                    self._max_bytes = room.max_bytes
                    self._ballast = Ballast(path.with_name(path.name + ".ballast"), room.ballast_bytes)
                database = self._open_in_any_state(steps, self._rebuild(steps, more, machine_id), machine_id)
            else:
                self._reservation = numbered_by._reservation
                database = self._open(steps, lambda: self._share_epoch(numbered_by))
            undo.callback(database.close)
            self._used_bytes = database.used_bytes()
            self._unlooked = blobs.digests()
            self._collect_orphans(ORPHANS_AT_START_S)
            undo.pop_all()

    def close(self) -> None:
        """Close the file and give the lock back."""
        self._database.close()
        self._last_seen.close()

    @property
    def is_short(self) -> bool:
        """Whether only ledger records, alarms and what makes room may be written: the file or its disk is nearly full.

        Any thread may ask; it ends by itself when there is room.
        """
        if self._max_bytes is not None and self._used_bytes > self._max_bytes - RESERVE_BYTES:
            return True
        return self._ballast is not None and not self._ballast.is_at_hand()

    def _open_in_any_state(
        self, steps: Sequence[str], fill: Callable[[Path, Path, str], None], machine_id: str
    ) -> Database:
        for _ in range(2):
            try:
                return self._open_healed(steps, fill, machine_id)
            except Damaged:  # met behind the check: the mark is set
                continue
            except StorageFailed:
                if self._ballast is None or not self._ballast.release():
                    raise
        return self._open_healed(steps, fill, machine_id)

    def _open_healed(self, steps: Sequence[str], fill: Callable[[Path, Path, str], None], machine_id: str) -> Database:
        heal(self.path, fill, is_used=bool(self._reservation.reserved))
        return self._open(steps, lambda: self._load_epoch(machine_id))

    def _open(self, steps: Sequence[str], load_epoch: Callable[[], None]) -> Database:
        self._database = Database(self.path, steps, max_bytes=self._max_bytes)
        with ExitStack() as undo:
            undo.callback(self._database.close)
            self.connection = self._database.connection
            self._load_counters()
            load_epoch()
            undo.pop_all()
        return self._database

    def _rebuild(self, steps: Sequence[str], more: Extension, machine_id: str) -> Callable[[Path, Path, str], None]:
        def fill(old: Path, new: Path, why: str) -> None:
            tables = (
                Table("meta", _fits_meta, key=("key",)),
                Table("minted", _fits_minted, key=("origin", "epoch")),
                *more.tables,
            )
            known = Known(self._reservation.reserved, self._last_seen.read())
            rebuild = Rebuild(self.blobs, known, random_epoch(), machine_id, is_sound, more.own_lanes, tables)
            database = Database(new, steps)
            try:
                rebuild.fill(old, database, why)
            finally:
                database.close()

        return fill

    def _load_counters(self) -> None:
        self.next_position: int
        self.held_rows: int
        self.held_bytes: int
        rows = self.connection.execute("SELECT next_position, held_rows, held_bytes, age_s FROM counter").fetchall()
        last_position = self.connection.execute("SELECT max(position) FROM entry").fetchone()[0] or 0
        try:
            ((self.next_position, self.held_rows, self.held_bytes, age_s),) = rows
            is_sane = self.next_position > last_position and min(self.held_rows, self.held_bytes) >= 0
            is_sane = is_sane and 0 <= age_s < AGE_MAX_S
        except (ValueError, TypeError):
            is_sane = False
        if not is_sane:
            self._database.spoilt(f"its counters make no sense: {rows}, last position {last_position}")
        self._age_s = float(age_s)

    # --- epochs

    def _load_epoch(self, machine_id: str) -> None:
        row = self.connection.execute("SELECT epoch, next_seq FROM own_epoch ORDER BY number DESC LIMIT 1").fetchone()
        if row is not None:
            self.epoch, self.next_seq = row
        now = {"machine_id": machine_id, "birth": birth(self.path)}
        known = dict(self.connection.execute("SELECT key, value FROM meta"))
        lost = self._find_lost(is_new=row is None)
        if not lost and all(known.get(key) == value for key, value in now.items()):
            return
        with self.transaction():
            if lost:
                self._begin_in_doubt("the file was lost" if row is None else "set back to an older state", lost)
            elif row is None:
                self.new_epoch("created")
            elif known.get("machine_id", machine_id) != machine_id:
                self.new_epoch("another machine")
            elif "birth" in known:
                self.new_epoch("a copy was put in its place")
            self.connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", now.items())

    # --- doubt

    def _find_lost(self, *, is_new: bool) -> dict[str, tuple[int, int]]:
        """Return the seqs that were minted or may have been, and of which this file knows nothing.

        It was set back, by a restored copy or a lost log, if it says less than was seen committed.
        """
        minted, reserved, seen = self.minted(), self._reservation.reserved, self._last_seen.read()
        if is_new:
            return {epoch: (1, last) for epoch, last in reserved.items() if last}
        doubt = self.doubt()
        if seen is None or (doubt and seen[0] in doubt.ranges):
            return {}
        epoch, next_seq, next_position = seen
        if epoch in minted and next_seq <= minted[epoch] + 1 and next_position <= self.next_position:
            return {}
        self.next_position = max(self.next_position, next_position)
        last = {**reserved, epoch: max(reserved.get(epoch, 0), next_seq - 1)}
        return {
            name: (minted.get(name, 0) + 1, last[name])
            for name in last
            if (name == self.epoch or name not in minted) and last[name] > minted.get(name, 0)
        }

    def _begin_in_doubt(self, why: str, lost: Mapping[str, tuple[int, int]]) -> None:
        log.error("outbox_set_back file=%s why=%r", self.path, why)
        older = self.doubt()
        ranges, is_salvaged = ({**lost, **older.ranges}, older.is_salvaged) if older else (lost, False)
        told = jsontext.dump({"why": why, "is_salvaged": is_salvaged, "ranges": ranges}).decode()
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES ('doubt', ?)", (told,))
        self.new_epoch(why)

    def doubt(self) -> Doubt | None:
        """Return what is not proven since the file was damaged or lost, until it is `resolved`."""
        row = self.connection.execute("SELECT value FROM meta WHERE key = 'doubt'").fetchone()
        try:
            value: Any = jsontext.parse(row[0]) if row else None
            return value and Doubt(
                str(value["why"]),
                bool(value["is_salvaged"]),
                {str(epoch): (int(first), int(last)) for epoch, (first, last) in value["ranges"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def unproven(self, doubt: Doubt) -> list[tuple[str, int, int]]:
        """Return of the own seqs in doubt those of which no row is held: (epoch, first, last), oldest epoch first."""
        held = {epoch: RangeSet() for epoch in doubt.ranges}
        for epoch, first, last in self._runs():
            if epoch in held:
                held[epoch].add(first, last)
        return [
            (epoch, first, last)
            for epoch, (low, high) in doubt.ranges.items()
            for first, last in held[epoch].gaps(low, high)
        ]

    def _runs(self) -> Iterator[tuple[str, int, int]]:
        """Yield the seqs of rows that are the owner's own, where their epoch is, as runs: (epoch, first, last)."""
        after, run = 0, ("", 0, 0)
        while rows := self.connection.execute(_SELECT_KEYS, (after, KEYS_AT_ONCE)).fetchall():
            after = rows[-1][0]
            for _, lane, epoch, seq in rows:
                if self._own_lanes is not None and lane not in self._own_lanes:
                    continue
                if (epoch, seq) != (run[0], run[2] + 1):
                    yield run
                    run = (epoch, seq, seq)
                run = (epoch, run[1], seq)
        yield run

    def resolve(self) -> None:
        """Note, inside the present transaction, that ledger records account for what was in doubt."""
        self.connection.execute("DELETE FROM meta WHERE key = 'doubt'")

    def spoilt(self, why: str) -> NoReturn:
        """Say that what the file holds cannot be right: raise Damaged; the next start heals it."""
        self._database.spoilt(why)

    def _share_epoch(self, other: Outbox) -> None:
        row = self.connection.execute("SELECT epoch, next_seq FROM own_epoch").fetchone()
        if row is not None:
            self.epoch, self.next_seq = row
            return
        with self.transaction():
            self.epoch, self.next_seq, self.next_position = other.epoch, other.next_seq, other.next_position
            self.connection.execute(
                "INSERT INTO own_epoch VALUES (?, 1, ?, ?)", (self.epoch, self.next_seq, f"shared with {other.path}")
            )

    def witness(self, epoch: str, next_seq: int, next_position: int) -> None:
        """Note, inside the present transaction, that another file of this numbering stands so far; never goes back."""
        if epoch == self.epoch:
            self.next_seq = max(self.next_seq, next_seq)
        else:
            self.connection.execute(
                "UPDATE own_epoch SET next_seq = max(next_seq, ?) WHERE epoch = ?", (next_seq, epoch)
            )
        self.next_position = max(self.next_position, next_position)

    def reserved(self, epoch: str) -> int | None:
        """Return a seq that this epoch has not minted beyond, over all files of this numbering; None: nobody knows."""
        return self._reservation.reserved.get(epoch)

    def new_epoch(self, reason: str) -> str:
        """Begin a new epoch: from now on seqs count from 1 under a new name. Return the name."""
        with self.transaction():
            self._save_counters()
            self.epoch, self.next_seq = random_epoch(), 1
            self.connection.execute(
                "INSERT INTO own_epoch SELECT ?, coalesce(max(number), 0) + 1, 1, ? FROM own_epoch",
                (self.epoch, reason),
            )
        return self.epoch

    def minted(self) -> dict[str, int]:
        """Return, for each of our own epochs, the highest seq given out (0 for none yet). Errors: StorageFailed."""
        with storage_errors(self.path):
            return dict(self.connection.execute("SELECT epoch, next_seq - 1 FROM own_epoch ORDER BY number"))

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
        before = self._state()
        committed = False
        try:
            with storage_errors(self.path):
                self._collect_orphans(ORPHANS_BETWEEN_S)
            with self._database.transaction():
                yield
                if before != self._state():
                    self._save_counters()
                used_bytes = self._database.used_bytes()
            committed, self._used_bytes = True, used_bytes
            self._last_seen.note((self.epoch, self.next_seq, self.next_position))
        except StorageFailed as error:
            if isinstance(error, CommitFailed):
                self._new_pictures = set()  # their rows may come back; if not, the next start takes them for orphans
            if self._ballast is not None:
                self._ballast.release()
            raise
        finally:
            if not committed:
                self.epoch, self.next_seq, self.next_position, self.held_rows, self.held_bytes = before
            unwanted = self._discard if committed else self._new_pictures
            self._discard, self._new_pictures = set(), set()
            self.blobs.discard(unwanted)

    def _state(self) -> tuple[str, int, int, int, int]:
        return self.epoch, self.next_seq, self.next_position, self.held_rows, self.held_bytes

    def put_pictures(self, pictures: Mapping[str, bytes]) -> None:
        """Store pictures by digest for drafts of the present transaction; if it fails, the new ones go again."""
        self._new_pictures |= self.blobs.put(pictures)

    def mint(self) -> int:
        """Give out the next seq of the present epoch inside the present transaction; it counts only if that commits."""
        seq = self.next_seq
        self.next_seq += 1
        return seq

    def append(self, drafts: Sequence[Draft], uptime_s: float, positions: Sequence[int] | None = None) -> list[Entry]:
        """Append in order inside the present transaction; return the entries.

        `positions`: where they stand if not at the end; free places below it, given out before.
        """
        born_s = int(self.age_s(uptime_s))
        entries = []
        if positions is None:
            positions = range(self.next_position, self.next_position + len(drafts))
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
            self.next_position = max(self.next_position, position + 1)
            self.held_bytes += len(draft.body) + self._refer(draft)
        self.held_rows += len(entries)
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

    def age_s(self, uptime_s: float) -> float:
        """Return for how many seconds this file has been in use, over all runs; no clock can make it jump."""
        if self._age_origin_s is None:
            self._age_origin_s = uptime_s - self._age_s
        self._age_s = uptime_s - self._age_origin_s
        return self._age_s

    def _refer(self, draft: Draft) -> int:
        if draft.blob is None:
            return 0
        changed = self.connection.execute("UPDATE blob SET rows = rows + 1 WHERE sha256 = ?", (draft.blob,))
        if changed.rowcount:
            return 0
        self.connection.execute("INSERT INTO blob VALUES (?, 1, ?)", (draft.blob, draft.blob_bytes))
        self._discard.discard(draft.blob)
        return draft.blob_bytes

    def _account_for(self, rows: list[tuple[int, str | None]]) -> int:
        for size, blob in rows:
            self.held_bytes -= size
            if blob is None:
                continue
            left = self.connection.execute(
                "UPDATE blob SET rows = rows - 1 WHERE sha256 = ? RETURNING rows, bytes", (blob,)
            ).fetchall()
            if left and left[0][0] <= 0:
                self.connection.execute("DELETE FROM blob WHERE sha256 = ?", (blob,))
                self.held_bytes -= left[0][1]
                self._discard.add(blob)
        self.held_rows -= len(rows)
        return len(rows)

    def _save_counters(self) -> None:
        self._reservation.cover(self.epoch, self.next_seq - 1)
        self.connection.execute("UPDATE own_epoch SET next_seq = ? WHERE epoch = ?", (self.next_seq, self.epoch))
        self.connection.execute(
            "UPDATE counter SET next_position = ?, held_rows = ?, held_bytes = ?, age_s = ?",
            (self.next_position, self.held_rows, self.held_bytes, self._age_s),
        )

    def _collect_orphans(self, budget_s: float) -> None:
        """Go on unlinking pictures that a crash left without a row, outside of a transaction, for so long at most."""
        end_s = time.monotonic() + budget_s
        for digest in self._unlooked:
            if self.connection.execute("SELECT 1 FROM blob WHERE sha256 = ?", (digest,)).fetchone() is None:
                self.blobs.discard([digest])
            if time.monotonic() > end_s:
                return

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
        row = self.connection.execute("SELECT bytes FROM blob WHERE sha256 = ?", (entry.blob,)).fetchone()
        return entry.bytes + (int(row[0]) if row else 0)

    def gaps(self, first: int, last: int) -> list[tuple[int, int]]:
        """Return the ranges of positions from `first` to `last` where no row stands."""
        if first > last:
            return []
        return [
            (int(low), int(high))
            for low, high in self.connection.execute(_GAPS, (first - 1, first, last, last + 1)).fetchall()
        ]


def _fits_meta(row: tuple[Any, ...]) -> bool:
    return all(isinstance(value, str) for value in row) and row[0] != "birth"  # this file was made now


def _fits_minted(row: tuple[Any, ...]) -> bool:
    origin, epoch, seq = row
    kind, _, name = origin.partition("/") if isinstance(origin, str) else ("", "", "")
    return (
        kind in ("device", "gateway")
        and topics.LEVEL.match(name) is not None
        and isinstance(epoch, str)
        and events.EPOCH.match(epoch) is not None
        and isinstance(seq, int)
        and 0 <= seq <= events.SEQ_MAX
    )


def random_epoch() -> str:
    """Return 8 random characters of a-z and 0-9."""
    letters = string.ascii_lowercase + string.digits
    return "".join(random.SystemRandom().choices(letters, k=8))
