"""What has been settled, on the sync worker's own disk: `sync.db`, written by it alone."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millrace.database import Damaged, Database
from millrace.entries import Entry, Lane
from millrace.healing import heal
from millrace.ranges import RangeSet
from millrace.row_sums import is_believed, summed
from millrace.settled import SCHEMA, SETTLED_WIDTH, life_file

log = logging.getLogger(__name__)

_STEPS = (
    SCHEMA
    + """
CREATE TABLE buried (
    epoch TEXT, position INTEGER, lane INTEGER NOT NULL, seq_epoch TEXT NOT NULL, seq INTEGER NOT NULL,
    reason TEXT NOT NULL, body BLOB NOT NULL, told INTEGER NOT NULL, PRIMARY KEY (epoch, position)
) WITHOUT ROWID;
""",
    """
ALTER TABLE settled ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
UPDATE settled SET checksum = row_sum(
    CAST(epoch AS BLOB), CAST(lane AS INTEGER), CAST(first AS INTEGER), CAST(last AS INTEGER)
);
ALTER TABLE buried ADD COLUMN blob TEXT;
ALTER TABLE buried ADD COLUMN buried_wall_ns INTEGER;
ALTER TABLE buried ADD COLUMN again INTEGER NOT NULL DEFAULT 0;
ALTER TABLE link ADD COLUMN said TEXT NOT NULL DEFAULT '';
CREATE TABLE paused (lane INTEGER PRIMARY KEY, since_wall_ns INTEGER NOT NULL);
CREATE TABLE ties_told (epoch TEXT PRIMARY KEY, no INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE rate (lane INTEGER PRIMARY KEY, rows_per_s REAL NOT NULL);
CREATE TABLE burials (lane INTEGER PRIMARY KEY, seen_rows INTEGER NOT NULL, buried_rows INTEGER NOT NULL);
""",
)
DAMAGED = "checksum does not fit: the row is damaged"


@dataclass(frozen=True, slots=True)
class Buried:
    """A row that the cloud refused: whose backlog it was (the gateway's `epoch`), and all that was kept of it.

    `blob` is its picture's digest, None where it has none or an older program buried it; so with `buried_wall_ns`.
    `again` is 1 while it is to be sent once more.
    """

    epoch: str
    position: int
    lane: Lane
    seq_epoch: str
    seq: int
    reason: str
    body: bytes
    blob: str | None
    buried_wall_ns: int | None
    again: int

    def entry(self) -> Entry:
        """Return it as the row that it was."""
        return Entry(
            self.position, self.lane, self.seq_epoch, self.seq, self.body, self.blob, len(self.body), 0, intact=True
        )


SELECT_BURIED = (
    "SELECT epoch, position, lane, seq_epoch, seq, reason, body, blob, buried_wall_ns, again FROM buried"
    " WHERE (epoch, position) > (?, ?)"
)


def read_buried(rows: Iterable[tuple[Any, ...]]) -> list[Buried]:
    """Return what SELECT_BURIED gave."""
    return [Buried(epoch, position, Lane(lane), *rest) for epoch, position, lane, *rest in rows]


class Progress:
    """The account for one gateway. The drain uses it, and whoever gives it orders: one at a time gets in."""

    def __init__(self, path: Path) -> None:
        """Open or create it. Errors: Locked, NewerSchema, StorageFailed.

        A damaged one is set aside: everything is sent again, and the cloud knows what it has.
        """
        self._mutex = threading.RLock()
        try:
            self._open(path)
        except Damaged:  # it is marked: opened again it is healed
            self._open(path)

    def _open(self, path: Path) -> None:
        why = heal(path, lambda _old, new, _why: Database(new, _STEPS).close())
        if why is not None:
            log.error("account_damaged error=%s: all is sent again", why)
        self._database = Database(path, _STEPS)
        self._connection = self._database.connection
        with ExitStack() as undo:
            undo.callback(self._database.close)
            self._load()
            undo.pop_all()

    def _load(self) -> None:
        self._settled: dict[tuple[str, Lane], RangeSet] = {}
        settled = self._connection.execute("SELECT * FROM settled").fetchall()
        paused = self._connection.execute("SELECT lane FROM paused").fetchall()
        try:
            for row in settled:
                if not is_believed(row, SETTLED_WIDTH):
                    self._database.spoilt(f"what was settled is not as it was written: {row}")
                epoch, lane, first, last, _ = row
                self.settled(epoch, Lane(lane)).add(first, last)
            self.paused = frozenset(Lane(lane) for (lane,) in paused)
        except (ValueError, TypeError) as error:
            self._database.spoilt(f"what was settled cannot be read: {error}")

    def show_life(self) -> None:
        """Show whoever reads the account that the worker's loop goes on; costs no sync."""
        with suppress(OSError):  # a disk that refuses is said where it matters
            os.utime(life_file(self._database.path))

    def settled(self, epoch: str, lane: Lane) -> RangeSet:
        """Return what is settled in a lane for an epoch of the gateway."""
        return self._settled.setdefault((epoch, lane), RangeSet())

    def settle(
        self,
        epoch: str,
        lane: Lane,
        first: int,
        last: int,
        buried: Sequence[tuple[Entry, str]] = (),
        wall_ns: int | None = None,
        seen: tuple[int, int] | None = None,
    ) -> None:
        """Note that the cloud has committed these positions, but for the buried ones, whose bytes are kept here.

        `seen` is for `burials`.
        """
        after = RangeSet(self.settled(epoch, lane))
        after.add(first, last)
        with self._transaction():
            self._connection.execute("DELETE FROM settled WHERE epoch = ? AND lane = ?", (epoch, int(lane)))
            self._connection.executemany(
                "INSERT INTO settled VALUES (?, ?, ?, ?, ?)", [summed(epoch, int(lane), *pair) for pair in after]
            )
            self._connection.executemany(
                "INSERT OR REPLACE INTO buried (epoch, position, lane, seq_epoch, seq, reason, body, told, blob,"
                " buried_wall_ns) VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, ?)",
                [
                    (epoch, e.position, int(lane), e.epoch, e.seq, reason[:500], e.body, e.blob, wall_ns)
                    for e, reason in buried
                ],
            )
            if seen is not None:
                self._connection.execute("INSERT OR REPLACE INTO burials VALUES (?, ?, ?)", (int(lane), *seen))
        self._settled[epoch, lane] = after

    def burials(self, lane: Lane) -> tuple[int, int]:
        """Return how many rows of a lane were seen of late, and how many of these were buried; a BurialCap's memory."""
        with self._mutex:
            sql = "SELECT seen_rows, buried_rows FROM burials WHERE lane = ?"
            return self._connection.execute(sql, (int(lane),)).fetchone() or (0, 0)

    def untold(self) -> list[tuple[str, int, bytes, str, str, int]]:
        """Return up to 100 buried rows of which the cloud has not been told.

        Each is (epoch, position, body, reason, and the row's own epoch and seq).
        """
        with self._mutex:
            return self._connection.execute(
                "SELECT epoch, position, body, reason, seq_epoch, seq FROM buried WHERE told = 0 LIMIT 100"
            ).fetchall()

    def told(self, rows: Sequence[tuple[str, int, bytes, str, str, int]]) -> None:
        """Note that the cloud has been told of these."""
        with self._transaction():
            self._connection.executemany(
                "UPDATE buried SET told = 1 WHERE epoch = ? AND position = ?", [(row[0], row[1]) for row in rows]
            )

    def ties_told(self, epoch: str) -> int:
        """Return up to which number the cloud was told of boots that met, as the gateway numbers them in an epoch."""
        with self._mutex:
            row = self._connection.execute("SELECT no FROM ties_told WHERE epoch = ?", (epoch,)).fetchone()
        return int(row[0]) if row else 0

    def note_ties_told(self, epoch: str, no: int) -> None:
        """Note that number."""
        with self._transaction():
            self._connection.execute("INSERT OR REPLACE INTO ties_told VALUES (?, ?)", (epoch, no))

    # --- orders

    def pause(self, lanes: Iterable[Lane], wall_ns: int) -> None:
        """Hold these lanes back from the next batch on, over restarts too."""
        with self._transaction():
            self._connection.executemany(
                "INSERT OR IGNORE INTO paused VALUES (?, ?)", [(int(lane), wall_ns) for lane in lanes]
            )
        self.paused |= frozenset(lanes)

    def resume(self, lanes: Iterable[Lane]) -> None:
        """Let these lanes go on."""
        with self._transaction():
            self._connection.executemany("DELETE FROM paused WHERE lane = ?", [(int(lane),) for lane in lanes])
        self.paused -= frozenset(lanes)

    def buried(self, epoch: str = "", position: int = 0, max_rows: int = 100) -> list[Buried]:
        """Return buried rows behind one of them, in order."""
        with self._mutex:
            rows = self._connection.execute(
                f"{SELECT_BURIED} ORDER BY epoch, position LIMIT ?", (epoch, position, max_rows)
            )
            return read_buried(rows.fetchall())

    def send_again(self, rows: Iterable[Buried]) -> None:
        """Note that these buried rows are to go up once more, each with the picture that it names."""
        with self._transaction():
            self._connection.executemany(
                "UPDATE buried SET again = 1, blob = ? WHERE epoch = ? AND position = ?",
                [(row.blob, row.epoch, row.position) for row in rows],
            )

    def waiting_again(self, max_rows: int) -> list[Buried]:
        """Return buried rows that are to go up once more and whose lane is not paused."""
        with self._mutex:
            rows = self._connection.execute(
                f"{SELECT_BURIED} AND again = 1 AND lane NOT IN (SELECT lane FROM paused) LIMIT ?",  # noqa: S608
                ("", 0, max_rows),
            )
            return read_buried(rows.fetchall())

    def sent_again(self, outcome: Mapping[Buried, str | None], wall_ns: int) -> None:
        """Note what became of rows that went up again: the cloud holds one (None), or why it stays buried."""
        if not outcome:
            return
        with self._transaction():
            for row, reason in outcome.items():
                key = (row.epoch, row.position)
                if reason is None:
                    self._connection.execute("DELETE FROM buried WHERE epoch = ? AND position = ?", key)
                    continue
                self._connection.execute(
                    "UPDATE buried SET again = 0, reason = ?, buried_wall_ns = ? WHERE epoch = ? AND position = ?",
                    (reason[:500], wall_ns, *key),
                )

    # --- what others read

    def note_link(
        self, state: str, wall_ns: int, rows_per_s: float, said: str = "", rates: Mapping[Lane, float] | None = None
    ) -> None:
        """Write the link's state for those who read this file; `said` is what is wrong with it or with a lane.

        `rates` are the rows per second that lanes drain with.
        """
        with self._transaction():
            self._connection.execute(
                "UPDATE link SET since_wall_ns = CASE state WHEN ? THEN since_wall_ns ELSE ? END, state = ?,"
                " last_success_wall_ns = CASE ? WHEN 'up' THEN ? ELSE last_success_wall_ns END, rows_per_s = ?,"
                " said = ?",
                (state, wall_ns, state, state, wall_ns, rows_per_s, said[:500]),
            )
            self._connection.executemany(
                "INSERT OR REPLACE INTO rate VALUES (?, ?)", [(int(lane), rate) for lane, rate in (rates or {}).items()]
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._mutex, self._database.transaction():
            yield

    def close(self) -> None:
        """Close the file and give the lock back."""
        self._database.close()
