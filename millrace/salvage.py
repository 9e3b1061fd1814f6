"""What can still be read of a damaged file: the rows around the damage, in order, a slice at a time.

SQLite's own check sees no flipped bit and its `.recover` gave up after three bad pages; so each row is asked for, and
who asked judges it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from millrace.database import PAGE_BYTES, Ruin

Row = tuple[Any, ...]

SLICE_ROWS = 256
END = 1 << 50
LAST_STRETCH = 1 << 16
"""So far is looked into damage behind which nothing reads, where nobody knows how far the table goes."""


@dataclass(slots=True)
class Search:
    """How long damaged parts may yet be looked through for single rows; what reads at once costs nothing of it."""

    left_s: float


def knows(ruin: Ruin, table: str) -> bool:
    """Whether the first page, which says where everything is, can be read and speaks of the table."""
    return bool(ruin.query("SELECT 1 FROM sqlite_schema WHERE name = ?", (table,)))


def lend_first_page(old: Path, fresh: Path, copy: Path) -> None:
    """Make a copy of a file whose first page is damaged, with that of a fresh file of the same making. Errors: OSError.

    The same steps put the same tables at the same places, and the first of them those of an older version, whose rows
    lack the later columns. `fresh` must have nothing in its log.
    """
    with fresh.open("rb") as file:
        page = bytearray(file.read(PAGE_BYTES))
        size_bytes = os.fstat(file.fileno()).st_size
    page[92:96] = b"\0\0\0\0"  # else the fresh file's length would be believed
    if old.exists():
        shutil.copyfile(old, copy)
    log = old.with_name(old.name + "-wal")
    if log.exists():
        shutil.copyfile(log, copy.with_name(copy.name + "-wal"))
    with copy.open("r+b" if old.exists() else "wb") as file:
        file.write(page)
        if os.fstat(file.fileno()).st_size < size_bytes:  # SQLite reads nothing where a table would lie behind the end
            file.truncate(size_bytes)


def by_number(ruin: Ruin, table: str, number: str, search: Search, last: int | None = None) -> Iterator[list[Row]]:
    """Yield the readable rows of a table, ascending by `number`, its integer primary key, in slices.

    `last` is the highest number in the table, where it is known.
    What cannot be read is narrowed down to single rows until `search` is used up; then what reads at once is taken.
    """
    after, some = 0, f"SELECT {number}, * FROM {table} WHERE {number} > ? ORDER BY {number} LIMIT ?"  # noqa: S608
    part = f"SELECT {number}, * FROM {table} WHERE {number} > ? AND {number} <= ? ORDER BY {number}"  # noqa: S608
    count = SLICE_ROWS
    while True:
        found = _above(ruin, some, after, count)
        if found == []:
            return
        if found:
            yield [row[1:] for row in found]
            after, count = found[-1][0], SLICE_ROWS
        elif count > 1:
            count //= 2
        else:
            # Damage begins at the next row: find one behind it that reads, and what does between.
            step = 1
            while step < END and _above(ruin, some, after + step, 1) is None:
                step *= 2
            is_end = step >= END
            end = after + step
            if is_end:
                end = after + LAST_STRETCH if last is None else max(after, last)
            yield from _between(ruin, part, after, end, search)
            if is_end:
                return
            after = end


def _above(ruin: Ruin, sql: str, after: int, count: int) -> list[Row] | None:
    """Return the rows above `after`; None if they cannot be read, or only rows came that were not asked for.

    Where damage has put rows out of their order, SQLite gives some again and again.
    """
    found = ruin.query(sql, (after, count))
    above = [row for row in found or () if row[0] > after]
    return above if above or found == [] else None


def _between(ruin: Ruin, sql: str, after: int, last: int, search: Search) -> Iterator[list[Row]]:
    """Yield what reads of `after` to `last`, one of which does not: halve, and halve again."""
    waiting = [(after, last)]
    while waiting:
        low, high = waiting.pop()
        begun_s = time.monotonic()
        found = ruin.query(sql, (low, high))
        search.left_s -= time.monotonic() - begun_s
        if found:
            yield [row[1:] for row in found]
        elif found is None and high - low > 1 and search.left_s > 0:
            middle = (low + high) // 2
            waiting += [(middle, high), (low, middle)]


def by_name(ruin: Ruin, table: str, key: tuple[str, ...]) -> Iterator[list[Row]]:
    """Yield the readable rows of a table in slices, from either end as far as the damage; some come twice then."""
    for order in ("", " DESC"):
        columns = ", ".join(name + order for name in key)
        rows = ruin.rows(f"SELECT * FROM {table} ORDER BY {columns}")  # noqa: S608
        while found := list(islice(rows, SLICE_ROWS)):
            yield found
        if order == "" and ruin.query(f"SELECT count(*) FROM {table}") is not None:  # noqa: S608
            return
