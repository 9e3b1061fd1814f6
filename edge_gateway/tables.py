"""The tables that gateway.db has beside its queue's own, and which salvaged row of one still makes sense."""

from __future__ import annotations

import json
from typing import Any

from edge_gateway import taken
from millrace import events, ties, topics
from millrace.ranges import RangeSet
from millrace.rebuild import Table

STEPS = (
    """
CREATE TABLE stream (
    no INTEGER PRIMARY KEY, device TEXT NOT NULL, epoch TEXT NOT NULL,
    watermark INTEGER NOT NULL, ahead TEXT NOT NULL, UNIQUE (device, epoch)
);
CREATE TABLE answer (
    stream INTEGER, seq INTEGER, position INTEGER NOT NULL, rows INTEGER NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY (stream, seq)
) WITHOUT ROWID;
CREATE TABLE quarantine (
    no INTEGER PRIMARY KEY, wall_ns INTEGER NOT NULL, topic TEXT NOT NULL, reason TEXT NOT NULL, payload BLOB NOT NULL
);
""",
    ties.SCHEMA
    + """
CREATE TABLE declared (stream INTEGER, ranges TEXT NOT NULL, PRIMARY KEY (stream)) WITHOUT ROWID;
ALTER TABLE stream ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
UPDATE stream SET checksum = row_sum(
    no, CAST(device AS BLOB), CAST(epoch AS BLOB), CAST(watermark AS INTEGER), CAST(ahead AS BLOB)
);
""",
    taken.SCHEMA,
)

STREAM_WIDTH = 5
"""How many columns a row of `stream` has before its checksum."""
UNREADABLE = (ValueError, TypeError, OverflowError)
"""What damaged text or a damaged number raises when it is read."""


def ranges_of(text: str) -> RangeSet:
    """Return the ranges that a column holds. Errors: UNREADABLE."""
    return RangeSet((int(first), int(last)) for first, last in json.loads(text))


def _is_stream(row: tuple[Any, ...]) -> bool:
    try:
        no, device, epoch, watermark, ahead = row
        topics.check_level(device)
        ranges_of(ahead)
        return isinstance(no, int) and 0 <= int(watermark) <= events.SEQ_MAX and bool(events.EPOCH.match(epoch))
    except UNREADABLE:
        return False


def _is_answer(row: tuple[Any, ...]) -> bool:
    return all(isinstance(number, int) and number >= 0 for number in row[:4]) and isinstance(row[4], str)


def _is_declared(row: tuple[Any, ...]) -> bool:
    try:
        ranges_of(row[1])
        return isinstance(row[0], int)
    except UNREADABLE:
        return False


def _is_quarantined(row: tuple[Any, ...]) -> bool:
    return isinstance(row[1], int) and isinstance(row[4], bytes)


def _is_tie(row: tuple[Any, ...]) -> bool:
    return all(isinstance(name, str) for name in row[1:5]) and all(isinstance(n, int) for n in (row[0], *row[5:]))


TABLES = (
    Table("tie", _is_tie, key=("origin", "bootid", "peer", "peer_bootid", "span")),
    Table("stream", _is_stream, number="no", width=STREAM_WIDTH),
    Table("declared", _is_declared, key=("stream",)),
    Table("answer", _is_answer, key=("stream", "seq")),
    Table("taken", taken.fits, key=("stream", "first")),
    Table("quarantine", _is_quarantined, number="no"),
)
