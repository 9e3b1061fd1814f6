"""What is read of a damaged table: each row once at most, in a bounded number of questions, whatever the pages say."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from unit.damaged_tables import renumber

from millrace.database import PAGE_BYTES, Ruin
from millrace.salvage import Search, by_number

ROWS = 500
QUESTIONS_MAX = 20_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A table of 500 numbered rows over many pages."""
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("CREATE TABLE entry (position INTEGER PRIMARY KEY, body TEXT)")
        connection.executemany("INSERT INTO entry VALUES (?, ?)", [(n, f"row {n} " * 8) for n in range(1, ROWS + 1)])
        connection.commit()
    return path


class Asked(Ruin):
    """A ruin that is asked so often and no more."""

    count = 0

    def query(self, *arguments: object) -> list[tuple[object, ...]] | None:
        self.count += 1
        assert self.count < QUESTIONS_MAX, "it is asked without end"
        return super().query(*arguments)  # type: ignore[arg-type]


def read(path: Path) -> list[int]:
    with closing(Asked(path)) as ruin:
        return [row[0] for rows in by_number(ruin, "entry", "position", Search(5.0), ROWS) for row in rows]


def test_a_sound_table_is_read_in_whole_and_in_order(file: Path) -> None:
    assert read(file) == list(range(1, ROWS + 1))


@pytest.mark.parametrize("old", [1, 60, 127, 128, 300, 499, 500])
@pytest.mark.parametrize("new", [0, 1, 5])
def test_rows_out_of_their_order_do_not_come_again_without_end(file: Path, old: int, new: int) -> None:
    renumber(file, old, new, f"row {old} row".encode())
    found = read(file)
    assert set(range(1, ROWS + 1)) - {old, new} <= set(found)


def test_whatever_a_byte_became_reading_ends(file: Path) -> None:
    whole = file.read_bytes()
    chance = random.Random(7)
    for _ in range(150):
        data = bytearray(whole)
        data[chance.randrange(PAGE_BYTES, len(data))] ^= 1 << chance.randrange(8)
        file.write_bytes(data)
        assert len(read(file)) <= 2 * ROWS
