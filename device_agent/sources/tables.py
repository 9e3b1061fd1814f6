"""Cells and headings of text tables: numbers, times, and column names as they may stand in a reading; pure."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime

MAX_COLUMNS = 255
_MAX_NAME_CHARS = 64


def number(cell: str) -> float | None:
    """Return a cell's finite number, or None if it holds none."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in cell else None


def seconds(cell: str) -> float | None:
    """Return a cell's time in seconds: a number as it is, ISO 8601 since 1970 (UTC if it names no zone), else None."""
    plain = number(cell)
    if plain is not None:
        return plain
    try:
        moment = datetime.fromisoformat(cell.strip())
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def wire_name(heading: str) -> str:
    """Return a heading as a reading's name: `Volume Flow RateRMS` gives `Volume_Flow_RateRMS`."""
    name = re.sub(r"[^A-Za-z0-9_.:-]+", "_", heading.strip())
    return (name if name[:1].isalpha() or name[:1] == "_" else f"_{name}")[:_MAX_NAME_CHARS]


def chosen_columns(
    header: Sequence[str], columns: Sequence[str] | None, time_column: str | None
) -> list[tuple[int, str]]:
    """Return place and wire name of each wanted column: the named, or all that have a heading and are not the time.

    Errors: ValueError that says which heading is missing or stands for two columns, or that there are too many.
    """
    named = [*(columns or []), *([] if time_column is None else [time_column])]
    missing = [name for name in named if name not in header]
    if missing:
        there = ", ".join(repr(heading) for heading in header[:20])
        raise ValueError(f"no column {missing[0]!r}; the first line has {there or 'nothing'}")
    wanted = [name for name in header if name.strip() and name != time_column] if columns is None else list(columns)
    if len(wanted) > MAX_COLUMNS:
        raise ValueError(f"{len(wanted)} columns; name at most {MAX_COLUMNS} of them in `columns`")
    names = [wire_name(heading) for heading in named if heading == time_column] + [wire_name(name) for name in wanted]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two columns would both be called {twice!r}; rename one or choose by `columns`")
    return [(header.index(heading), wire_name(heading)) for heading in wanted]
