"""Values in plain words for a terminal: spans, sizes, tables; nothing that somebody sent steers it. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

_SPANS = ((86400, "d"), (3600, "h"), (60, "min"))
_SIZES = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def span(seconds: float) -> str:
    """Return a length of time, such as `3 h`."""
    for unit_s, word in _SPANS:
        if seconds >= unit_s:
            return f"{seconds / unit_s:.0f} {word}"
    return f"{seconds:.0f} s"


def size(size_bytes: int) -> str:
    """Return a number of bytes, such as `41.3 KiB`."""
    for unit_bytes, word in _SIZES:
        if size_bytes >= unit_bytes:
            return f"{size_bytes / unit_bytes:.1f} {word}"
    return f"{size_bytes} B"


def text(value: object) -> str:
    """Return a value that somebody sent, with nothing in it that would steer the terminal."""
    if value is None:
        return "-"
    return "".join(letter if letter.isprintable() else "?" for letter in str(value)[:200])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table, each column as wide as its widest cell."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
