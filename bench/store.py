"""The durable queue against bare SQLite: rows a second in groups of 32, and how fast a large backlog is opened."""

from __future__ import annotations

import sqlite3
import statistics
import time
from pathlib import Path

from bench.measures import Measure, at_least, at_most
from millrace.blobs import BlobStore
from millrace.entries import Draft, Lane
from millrace.outbox import Outbox

GROUP = 32
GROUPS = 300
ROUNDS = 5
BODY = b"x" * 300
BACKLOG_ROWS = 1_000_000


def measures(home: Path) -> list[Measure]:
    """Return what was measured; medians of five rounds, ours and the limit by turns."""
    ours, bare = [], []
    for number in range(ROUNDS):
        bare.append(_bare_rows_per_s(home / f"bare-{number}.db"))
        ours.append(_our_rows_per_s(home / f"ours-{number}"))
    return [
        at_least(
            "durable rows/s, groups of 32 (bare SQLite WAL FULL)", statistics.median(ours), statistics.median(bare), 0.4
        ),
        at_most("seconds to open a backlog of 1,000,000 rows", _open_backlog_s(home / "backlog"), 1.0),
    ]


def _our_rows_per_s(folder: Path) -> float:
    outbox = Outbox(folder / "bench.db", BlobStore(folder / "frames"), "bench")
    begun_s = time.perf_counter()
    for group in range(GROUPS):
        with outbox.transaction():
            outbox.append([Draft(Lane.BULK, outbox.epoch, outbox.mint(), BODY) for _ in range(GROUP)], float(group))
    spent_s = time.perf_counter() - begun_s
    outbox.close()
    return GROUPS * GROUP / spent_s


def _bare_rows_per_s(path: Path) -> float:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE entry (position INTEGER PRIMARY KEY, body BLOB)")
    rows = [(BODY,)] * GROUP
    begun_s = time.perf_counter()
    for _ in range(GROUPS):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO entry (body) VALUES (?)", rows)
        connection.execute("COMMIT")
    spent_s = time.perf_counter() - begun_s
    connection.close()
    return GROUPS * GROUP / spent_s


def _open_backlog_s(folder: Path) -> float:
    outbox = Outbox(folder / "bench.db", BlobStore(folder / "frames"), "bench")
    chunk = 20_000
    for _ in range(BACKLOG_ROWS // chunk):
        with outbox.transaction():
            outbox.append([Draft(Lane.BULK, outbox.epoch, outbox.mint(), BODY) for _ in range(chunk)], 0.0)
    outbox.close()
    begun_s = time.perf_counter()
    outbox = Outbox(folder / "bench.db", BlobStore(folder / "frames"), "bench")
    outbox.read(0, 256)
    spent_s = time.perf_counter() - begun_s
    outbox.close()
    return spent_s
