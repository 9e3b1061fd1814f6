"""A new outbox from what a damaged one still says: rows keep keys, positions and pictures; the rest is in doubt."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from millrace import doubts, events, notes
from millrace.blobs import BlobStore
from millrace.counters import AGE_MAX_S, COUNTER_WIDTH, EPOCH_WIDTH, write_counter, write_epoch
from millrace.database import TAILS, Database, Ruin
from millrace.doubts import Doubt
from millrace.reservation import Seen
from millrace.row_sums import is_believed, summed
from millrace.salvage import Row, Search, by_name, by_number, knows, lend_first_page
from millrace.short_bodies import in_full

log = logging.getLogger(__name__)

SEARCH_S = 2.0
"""How long rows in damaged parts are looked for one by one; what reads at once is carried however long it takes."""
COMMIT_ROWS = 4096
PLAUSIBLE_POSITIONS = 1 << 32
COMMIT_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Table:
    """A further table to carry over: `number` is its integer primary key, else `key` names its primary key's columns.

    `fits` judges a row's values; a row that is carried twice is kept once. `width` is how many columns of it the
    checksum in the last one covers; 0 where there is none.
    """

    name: str
    fits: Callable[[Row], bool]
    number: str = ""
    key: tuple[str, ...] = ()
    width: int = 0

    def believed(self, row: Row, *, is_lent: bool) -> Row | None:
        """Return a row that was salvaged as it is to be written, or None if it cannot be as it was."""
        if not self.width:
            return row if self.fits(row) else None
        values = row[: self.width]
        return summed(*values) if is_believed(row, self.width, is_lent=is_lent) and self.fits(values) else None


@dataclass(frozen=True, slots=True)
class Known:
    """What is known from beside the damaged file: how far each epoch may have minted, and what was surely committed."""

    reserved: Mapping[str, int]
    seen: Seen | None
    """How far some commit had come, mostly the last."""
    boot_id: str
    """Of the present boot."""


@dataclass(slots=True)
class _Carried:
    age_s: float = 0.0
    last_position: int = 0
    highest: dict[str, int] = field(default_factory=dict)
    offsets: dict[str, int] = field(default_factory=dict)


class Rebuild:
    """Fills a new file. `is_sound` judges a row of `entry`.

    `own_lanes` are those in which a row of an own epoch is the owner's own; None for a file with no rows but his.
    """

    def __init__(
        self,
        blobs: BlobStore,
        known: Known,
        new_epoch: str,
        machine_id: str,
        is_sound: Callable[[Row], bool],
        own_lanes: Collection[int] | None,
        tables: Sequence[Table],
    ) -> None:
        self._blobs, self._known, self._new_epoch, self._machine_id = blobs, known, new_epoch, machine_id
        self._is_sound, self._own_lanes, self._tables = is_sound, own_lanes, tables

    def fill(self, old: Path, database: Database, why: str) -> None:
        """Carry over what can be read of `old`. Errors: StorageFailed."""
        begun_s = time.monotonic()
        search, carried = Search(SEARCH_S), _Carried()
        database.connection.execute("PRAGMA synchronous = OFF")  # the whole is synced once
        with _opened(old, database) as ruin:
            carried.age_s = _age_s(ruin)
            if knows(ruin, "entry"):
                self._carry_entries(ruin, database, carried, search)
                for table in self._tables:
                    carry(ruin, database, table, search)
            rows = self._settle_counters(ruin, database, carried, why)
        database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        with database.path.open("rb") as file:
            os.fsync(file.fileno())
        log.warning("salvaged file=%s rows=%d seconds=%.1f", old, rows, time.monotonic() - begun_s)

    def _carry_entries(self, ruin: Ruin, database: Database, carried: _Carried, search: Search) -> None:
        waiting: list[Row] = []
        size_bytes = 0
        next_position = self._next_position(ruin, 0)
        for rows in by_number(ruin, "entry", "position", search, next_position - 1 if next_position else None):
            for row in filter(self._is_sound, rows):
                waiting.append(row)
                size_bytes += len(row[4])
            if len(waiting) >= COMMIT_ROWS or size_bytes >= COMMIT_BYTES:
                self._write(database, waiting, carried)
                waiting, size_bytes = [], 0
        self._write(database, waiting, carried)

    def _write(self, database: Database, rows: Sequence[Row], carried: _Carried) -> None:
        values = []
        for position, lane, epoch, seq, body, blob, _, born_s, checksum in rows:
            if self._own_lanes is None:  # an epoch's rows stand without gaps: where one stands tells its place
                position = seq + carried.offsets.setdefault(epoch, position - seq)  # noqa: PLW2901
            if self._own_lanes is None or lane in self._own_lanes:
                carried.highest[epoch] = max(carried.highest.get(epoch, 0), seq)
            carried.last_position = max(carried.last_position, position)
            born_s = min(born_s, int(carried.age_s))  # noqa: PLW2901
            size_bytes = len(in_full(body, epoch, seq))
            values.append((position, lane, epoch, seq, body, blob, size_bytes, born_s, checksum))
        with database.transaction():
            database.connection.executemany("INSERT OR IGNORE INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def _refer(self, database: Database) -> tuple[int, int]:
        """Count what rows refer to, inside the present transaction; return how many rows and bytes are held."""
        run = database.connection.execute
        run("INSERT INTO blob SELECT blob, count(*), 0 FROM entry WHERE blob IS NOT NULL GROUP BY blob")
        after = ""
        while found := run("SELECT sha256 FROM blob WHERE sha256 > ? LIMIT 1000", (after,)).fetchall():
            after = found[-1][0]
            sizes = [(self._size_bytes(sha256), sha256) for (sha256,) in found]
            database.connection.executemany("UPDATE blob SET bytes = ? WHERE sha256 = ?", sizes)
        rows, row_bytes = run("SELECT count(*), coalesce(sum(bytes), 0) FROM entry").fetchone()
        (picture_bytes,) = run("SELECT coalesce(sum(bytes), 0) FROM blob").fetchone()
        return rows, row_bytes + picture_bytes

    def _size_bytes(self, sha256: str) -> int:
        try:
            return self._blobs.path(sha256).stat().st_size
        except OSError:
            return 0  # whoever is to send it finds out

    def _settle_counters(self, ruin: Ruin, database: Database, carried: _Carried, why: str) -> int:
        own = _own_epochs(ruin, self._known.reserved)
        next_position = self._next_position(ruin, carried.last_position + 1)
        older = doubts.read(database.connection) or Doubt("", is_salvaged=True, ranges={})  # not accounted for yet
        at_most = self._minted_at_most(own, carried)
        doubt = {epoch: (1, max(last, older.ranges.get(epoch, (1, 0))[1])) for epoch, last in at_most.items() if last}
        sure = self._own_last(ruin, own, carried)
        own_last = {**{epoch: last for epoch, last in sure.items() if epoch not in older.ranges}, **older.own_last}
        with database.transaction():
            # One that minted nothing is kept too: of an epoch that is not here, all that is reserved would be in doubt.
            for number, epoch in enumerate([*at_most, self._new_epoch], 1):
                next_seq = max(own.get(epoch, 0), carried.highest.get(epoch, 0)) + 1
                reason = "salvaged" if epoch in at_most else f"the file was damaged: {why}"
                write_epoch(database.connection, epoch, number, next_seq, reason)
            rows, held_bytes = self._refer(database)
            write_counter(database.connection, next_position, rows, held_bytes, carried.age_s)
            notes.write(database.connection, "machine_id", self._machine_id)
            doubts.write(database.connection, Doubt(why, True, doubt, own_last))
        return int(rows)

    def _next_position(self, ruin: Ruin, at_least: int) -> int:
        """Return the next position as far as anyone can say; `at_least` is known otherwise."""
        at_least = max(at_least, self._known.seen.next_position if self._known.seen else 0)
        found = _counter(ruin)
        if found and isinstance(found[1], int) and 0 < found[1] - at_least < PLAUSIBLE_POSITIONS:
            return found[1]
        return at_least

    def _minted_at_most(self, own: Mapping[str, int], carried: _Carried) -> dict[str, int]:
        """Return for each own epoch, oldest first, a seq beyond which it has surely minted nothing."""
        reserved, seen = self._known.reserved, self._known.seen
        epochs = list(dict.fromkeys(chain(own, reserved, [seen.epoch] if seen else [])))
        if self._own_lanes is None:
            epochs += [epoch for epoch in carried.highest if epoch not in epochs]
        last = {}
        for epoch in epochs:
            minted = own.get(epoch)
            # What shares its numbers with another file, as a spool with its tail, cannot speak for that one.
            is_last_word = self._own_lanes is not None and self._is_agreed(epoch, minted)
            if minted is None or (epoch == epochs[-1] and not is_last_word):
                minted = max(
                    minted or 0, reserved.get(epoch, 0), seen.next_seq - 1 if seen and seen.epoch == epoch else 0
                )
            last[epoch] = max(minted, carried.highest.get(epoch, 0))
        return last

    def _own_last(self, ruin: Ruin, own: Mapping[str, int], carried: _Carried) -> dict[str, int]:
        """Return how far an epoch has surely come as far as a file tells that may share its numbers; empty: not known.

        Where its notes could not be read, its owner is not to take it that no other file was noted.
        """
        noted = ruin.query(notes.SELECT_ALL)
        if not noted or not notes.are_believed(noted):
            return {}
        return {
            epoch: minted
            for epoch, minted in own.items()
            if self._own_lanes is None and self._is_agreed(epoch, minted) and carried.highest.get(epoch, 0) <= minted
        }

    def _is_agreed(self, epoch: str, minted: int | None) -> bool:
        """Whether a file tells the last word of an epoch: what was seen of it says the same.

        A kill may come between a commit and the note of it: without a power cut since, a file that says more is right.
        """
        seen = self._known.seen
        if seen is None or minted is None or seen.epoch != epoch:
            return False
        return seen.next_seq == minted + 1 or (seen.boot_id == self._known.boot_id and seen.next_seq <= minted)


def carry(ruin: Ruin, database: Database, table: Table, search: Search) -> None:
    """Write the rows of a table that read and fit. Errors: StorageFailed."""
    slices = by_number(ruin, table.name, table.number, search) if table.number else by_name(ruin, table.name, table.key)
    for rows in slices:
        sound = [row for found in rows if (row := table.believed(found, is_lent=ruin.is_lent)) is not None]
        if sound:
            places = ", ".join("?" * len(sound[0]))
            with database.transaction():
                database.connection.executemany(
                    f"INSERT OR IGNORE INTO {table.name} VALUES ({places})",  # noqa: S608
                    sound,
                )


@contextmanager
def _opened(old: Path, database: Database) -> Iterator[Ruin]:
    """Open the damaged file, or where its first page is damaged too, a copy that was lent one; the copy goes again."""
    copy = database.path.with_name(database.path.name + ".lent")
    is_there = old.exists() and old.stat().st_size > 0  # SQLite would unlink the log of an empty one
    ruin = Ruin(old if is_there else copy)
    try:
        if not knows(ruin, "entry"):
            ruin.close()
            database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            lend_first_page(old, database.path, copy)
            ruin = Ruin(copy, is_lent=True)
        yield ruin
    finally:
        ruin.close()
        for tail in TAILS:
            copy.with_name(copy.name + tail).unlink(missing_ok=True)


def _age_s(ruin: Ruin) -> float:
    counter, born = _counter(ruin), ruin.query("SELECT max(born_s) FROM entry")
    for age_s in (counter and counter[4], born and born[0][0]):
        if isinstance(age_s, float | int) and 0 <= age_s < AGE_MAX_S:
            return float(age_s)
    return 0.0


def _counter(ruin: Ruin) -> Row | None:
    rows = ruin.query("SELECT * FROM counter")
    return rows[0] if rows and is_believed(rows[0], COUNTER_WIDTH, is_lent=ruin.is_lent) else None


def _own_epochs(ruin: Ruin, reserved: Mapping[str, int]) -> dict[str, int]:
    """Return the highest seq of each epoch whose row reads and makes sense, oldest first."""
    rows = {
        row[0]: row
        for rows in by_name(ruin, "own_epoch", ("epoch",))
        for row in rows
        if is_believed(row, EPOCH_WIDTH, is_lent=ruin.is_lent)
        and isinstance(row[0], str)
        and events.EPOCH.match(row[0])
        and all(isinstance(number, int) and number >= 1 for number in row[1:3])
        and row[2] - 1 <= reserved.get(row[0], events.SEQ_MAX)
    }
    return {row[0]: row[2] - 1 for row in sorted(rows.values(), key=lambda row: row[1])}
