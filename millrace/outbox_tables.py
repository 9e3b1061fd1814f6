"""The tables of an outbox's file: the SQL that makes them, what an owner adds, and what of them outlives damage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from millrace import events, notes, topics
from millrace.entries import Lane
from millrace.rebuild import Table

_STEPS = (
    """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE own_epoch (
    epoch TEXT PRIMARY KEY, number INTEGER NOT NULL, next_seq INTEGER NOT NULL, reason TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE counter (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    next_position INTEGER NOT NULL, held_rows INTEGER NOT NULL, held_bytes INTEGER NOT NULL, age_s REAL NOT NULL
);
INSERT INTO counter VALUES (1, 1, 0, 0, 0);
CREATE TABLE entry (
    position INTEGER PRIMARY KEY,
    lane INTEGER NOT NULL,
    epoch TEXT NOT NULL,
    seq INTEGER NOT NULL,
    body BLOB NOT NULL,
    blob TEXT,
    bytes INTEGER NOT NULL,
    born_s INTEGER NOT NULL,
    checksum INTEGER NOT NULL
);
CREATE INDEX entry_by_lane ON entry (lane, position);
CREATE TABLE blob (sha256 TEXT PRIMARY KEY, rows INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE minted (
    origin TEXT, epoch TEXT, seq INTEGER NOT NULL, PRIMARY KEY (origin, epoch)
) WITHOUT ROWID;
""",
    """
ALTER TABLE meta ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
UPDATE meta SET checksum = row_sum(CAST(key AS BLOB), CAST(value AS BLOB));
ALTER TABLE own_epoch ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
UPDATE own_epoch SET checksum = row_sum(
    CAST(epoch AS BLOB), CAST(number AS INTEGER), CAST(next_seq AS INTEGER), CAST(reason AS BLOB)
);
ALTER TABLE counter ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
UPDATE counter SET checksum = row_sum(
    one, CAST(next_position AS INTEGER), CAST(held_rows AS INTEGER), CAST(held_bytes AS INTEGER), CAST(age_s AS REAL)
);
""",
    """
DROP INDEX entry_by_lane;
CREATE INDEX entry_by_lane ON entry (lane);
""",  # each entry of an index ends with the row's position anyway
)


@dataclass(frozen=True, slots=True)
class Extension:
    """What an owner keeps in the same file: `steps` make his tables, schema by schema; `tables` are carried over.

    `own_lanes` are those in which a row of an own epoch is his own; None if there are no others' rows.
    """

    steps: Sequence[str] = ()
    tables: Sequence[Table] = ()
    own_lanes: Sequence[Lane] | None = None


def steps(more: Extension) -> list[str]:
    """Return the SQL that takes a file from schema n to n + 1, the owner's after ours."""
    return [ours + theirs for ours, theirs in zip_longest(_STEPS, more.steps, fillvalue="")]


def _fits_meta(row: tuple[Any, ...]) -> bool:
    return all(isinstance(value, str) for value in row) and row[0] != "birth"  # this file was made now


def _fits_minted(row: tuple[Any, ...]) -> bool:
    origin, epoch, seq = row
    kind, _, name = origin.partition("/") if isinstance(origin, str) else ("", "", "")
    return (
        kind in ("device", "gateway")
        and topics.LEVEL.match(name) is not None
        and isinstance(epoch, str)
        and events.EPOCH.match(epoch) is not None
        and isinstance(seq, int)
        and 0 <= seq <= events.SEQ_MAX
    )


CARRIED = (
    Table("meta", _fits_meta, key=("key",), width=notes.WIDTH),
    Table("minted", _fits_minted, key=("origin", "epoch")),
)
"""The tables that are carried over from a damaged file, beside its rows and counters."""
