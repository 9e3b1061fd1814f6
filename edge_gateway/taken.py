"""Which readings were taken, in runs: of one stream, one behind the other in the queue, a mark of 8 bytes for each.

A mark tells a repeat from another event under the same key; whatever has results is remembered in `answer` instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any

from millrace.database import Connection, insert

SCHEMA = """
CREATE TABLE taken (
    stream INTEGER, first INTEGER, position INTEGER NOT NULL, marks BLOB NOT NULL, PRIMARY KEY (stream, first)
) WITHOUT ROWID;
"""
MARK_BYTES = 8
RUN_MAX = 64
"""So many marks stay within a quarter of a page: SQLite keeps what is longer on a page of its own."""
_DIGEST_CHARS = 64
_COVERS = "SELECT first, position, marks FROM taken WHERE stream = ? AND first <= ? ORDER BY first DESC LIMIT 1"
_NEWEST = "SELECT first, position, marks FROM taken WHERE stream = ? ORDER BY first DESC LIMIT ?"
_TRIM = """
DELETE FROM taken WHERE stream = ?1 AND first <= (
    SELECT first FROM (
        SELECT first, sum(length(marks)) OVER (ORDER BY first DESC) AS bytes FROM taken WHERE stream = ?1
    )
    WHERE bytes > ?2 ORDER BY first DESC LIMIT 1
)
"""

Row = tuple[int, int, int, str]
"""A stream's number, a seq, the position of its row, and what it is remembered as."""


def mark(remembered_as: str) -> str:
    """Return the mark of an event in hexadecimal digits: the begin of its digest."""
    if len(remembered_as) == _DIGEST_CHARS:
        return remembered_as[: 2 * MARK_BYTES]
    return sha256(remembered_as.encode()).hexdigest()[: 2 * MARK_BYTES]


class Taken:
    """The table of runs in one file."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def note(self, rows: Sequence[Row]) -> None:
        """Remember rows in the order of their positions, inside the present transaction."""
        runs: list[tuple[int, int, int, list[str]]] = []
        latest: tuple[int, int, int] | None = None
        for stream, seq, position, remembered_as in rows:
            if latest != (stream, seq - 1, position - 1) or len(runs[-1][3]) == RUN_MAX:
                runs.append((stream, seq, position, []))
            runs[-1][3].append(mark(remembered_as))
            latest = stream, seq, position
        insert(
            self._connection,
            "INSERT OR REPLACE INTO taken",
            [(stream, first, position, bytes.fromhex("".join(marks))) for stream, first, position, marks in runs],
        )

    def find(self, stream: int, seq: int) -> tuple[int, str] | None:
        """Return the position and the mark of an event; None if none of it is remembered here."""
        row = self._connection.execute(_COVERS, (stream, seq)).fetchone()
        if row is None or seq - row[0] >= len(row[2]) // MARK_BYTES:
            return None
        first, position, marks = row
        return position + seq - first, _marks(marks)[seq - first]

    def latest(self, stream: int, count: int) -> Iterator[tuple[int, int, str]]:
        """Yield seq, position and mark of a stream's last events, `count` at least if there are, the highest first."""
        for first, position, marks in self._connection.execute(_NEWEST, (stream, count)).fetchall():
            for place, found in reversed(list(enumerate(_marks(marks)))):
                yield first + place, position + place, found
                count -= 1
            if count <= 0:
                return

    def trim(self, stream: int, kept: int) -> None:
        """Forget the oldest of a stream beyond about so many events, inside the present transaction."""
        self._connection.execute(_TRIM, (stream, kept * MARK_BYTES))

    def forget(self, stream: int) -> None:
        """Forget all of a stream, inside the present transaction."""
        self._connection.execute("DELETE FROM taken WHERE stream = ?", (stream,))


def fits(row: tuple[Any, ...]) -> bool:
    """Say whether a salvaged row makes sense."""
    marks = row[3]
    is_run = isinstance(marks, bytes) and len(marks) % MARK_BYTES == 0 and 0 < len(marks) <= RUN_MAX * MARK_BYTES
    return is_run and all(isinstance(number, int) and number >= 0 for number in row[:3])


def _marks(marks: bytes) -> list[str]:
    digits = marks.hex()
    return [digits[at : at + 2 * MARK_BYTES] for at in range(0, len(digits), 2 * MARK_BYTES)]
