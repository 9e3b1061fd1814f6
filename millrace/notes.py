"""What an outbox's file notes under keys, in table `meta`: each note has a checksum, like all that others go by."""

from __future__ import annotations

from collections.abc import Iterable

from millrace.database import Connection
from millrace.row_sums import is_believed, summed

Row = tuple[str, ...]
SELECT_ALL = "SELECT * FROM meta"
SELECT_ONE = "SELECT * FROM meta WHERE key = ?"
WIDTH = 2
"""How many columns a row has before its checksum."""


def write(connection: Connection, key: str, value: str) -> None:
    """Note a value under a key, inside the present transaction."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", summed(key, value))


def are_believed(rows: Iterable[Row]) -> bool:
    """Whether notes are as they were written; only if all are is one that is not there surely none."""
    return all(is_believed(row, WIDTH) for row in rows)
