"""A checksum in the last column of a row whose numbers decide what may be let go: a flipped bit is not believed."""

from __future__ import annotations

import zlib
from typing import Any


def row_sum(*values: Any) -> int:
    """Return the checksum of a row's values; what kind of value each is counts too."""
    return zlib.crc32(repr(values).encode())


def summed(*values: Any) -> tuple[Any, ...]:
    """Return a row's values with their checksum behind them."""
    return (*values, row_sum(*values))


def is_believed(row: tuple[Any, ...], width: int) -> bool:
    """Whether a row is as it was written; version 0.1.0 wrote the first `width` columns and no checksum."""
    return len(row) == width or row[width:] == (row_sum(*row[:width]),)


def sql_row_sum(*values: Any) -> int:
    """Return `row_sum` as SQL asks for it: it hands over text as a blob, which damage cannot make unreadable."""
    return row_sum(*(value.decode(errors="replace") if isinstance(value, bytes) else value for value in values))
