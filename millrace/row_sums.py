"""A checksum in the last column of a row whose numbers decide what may be let go: a flipped bit is not believed."""

from __future__ import annotations

import zlib
from typing import Any

UNSUMMED = 0
"""The default of a column `checksum`, in every file's schema."""


def row_sum(*values: Any) -> int:
    """Return the checksum of a row's values; what kind of value each is counts too.

    Not by `repr`, which shows a character or escapes it as the Unicode tables of this Python have it.
    """
    return zlib.crc32(ascii(values).encode())


def summed(*values: Any) -> tuple[Any, ...]:
    """Return a row's values with their checksum behind them."""
    return (*values, row_sum(*values))


def is_believed(row: tuple[Any, ...], width: int, *, is_lent: bool = False) -> bool:
    """Whether a row is as it was written; version 0.1.0 wrote the first `width` columns and no checksum.

    Read by a page that is lent, such a row shows the column's default; 1 of 2^32 rows has it as its checksum.
    """
    if len(row) == width or (is_lent and row[width:] == (UNSUMMED,)):
        return True
    return row[width:] == (row_sum(*row[:width]),)


def sql_row_sum(*values: Any) -> int:
    """Return `row_sum` as SQL asks for it: it hands over text as a blob, which damage cannot make unreadable."""
    return row_sum(*(value.decode(errors="replace") if isinstance(value, bytes) else value for value in values))
