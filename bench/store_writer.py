"""Commits of 32 readings: by the gateway's store, or by sqlite3 with the same rows in the same tables.

store_writer ours FOLDER GROUPS, or store_writer raw FOLDER GROUPS where ours has run: prints commits a second and the
bytes that each wrote to the disk, as JSON. A process of its own, so that its disk can be made slow.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

from edge_gateway.bench.processor import written_bytes
from edge_gateway.store import Store
from millrace import events, topics
from millrace.clock import SystemClock
from millrace.database import CHECKPOINT_PAGES, PAGE_BYTES, WAL_LIMIT_BYTES
from millrace.entries import Draft, Lane

GROUP = 32
BODY_BYTES = 300
WARM_UP = 3
EACH_COMMIT = {"entry": GROUP, "taken": 1}
"""How many rows of a table a commit adds; beside them it changes the one row of `stream`."""


def ours(folder: Path, groups: int) -> dict[str, float]:
    """Commit as the gateway's writer does: entry and mark for each reading, how far its stream came."""
    store = Store(folder, "bench", 1 << 40)
    uptime_s = SystemClock().uptime_s()
    bodies = [_body(seq) for seq in range((groups + WARM_UP) * GROUP + 1)]
    with store.outbox.transaction():
        stream = store.open_stream("bench", "benchrow")

    def commit(first: int) -> None:
        with store.outbox.transaction():
            for seq in range(first, first + GROUP):
                stream.account(seq, seq)
                store.accept(Draft(Lane.BULK, "benchrow", seq, bodies[seq]), stream, f"{seq:064x}", uptime_s)
            store.write_accepted()
            store.save_stream(stream)
            store.save_published()

    found = _timed(commit, groups)
    store.close()
    return found


def raw(folder: Path, groups: int) -> dict[str, float]:
    """Commit the rows that ours has written, into tables made by the same statements, with the same settings."""
    there = sqlite3.connect(f"file:{folder / 'gateway.db'}?mode=ro", uri=True)
    schema = [sql for (sql,) in there.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")]
    rows = {
        name: there.execute(f"SELECT * FROM {name} LIMIT {(groups + WARM_UP) * count}").fetchall()
        for name, count in EACH_COMMIT.items()
    }
    (stream,) = there.execute("SELECT * FROM stream").fetchall()
    there.close()
    here = sqlite3.connect(folder / "raw.db", isolation_level=None)
    for pragma in (
        f"page_size = {PAGE_BYTES}",
        "journal_mode = WAL",
        "synchronous = FULL",
        f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
        f"journal_size_limit = {WAL_LIMIT_BYTES}",
        "secure_delete = off",
    ):
        here.execute(f"PRAGMA {pragma}")
    for statement in schema:
        if "sqlite_" not in statement:
            here.execute(statement)
    insert = {name: f"INSERT INTO {name} VALUES ({', '.join('?' * len(found[0]))})" for name, found in rows.items()}
    change = f"INSERT OR REPLACE INTO stream VALUES ({', '.join('?' * len(stream))})"

    def commit(first: int) -> None:
        here.execute("BEGIN IMMEDIATE")
        for name, statement in insert.items():
            count, done = EACH_COMMIT[name], (first - 1) // GROUP
            here.executemany(statement, rows[name][done * count : (done + 1) * count])
        here.execute(change, stream)
        here.execute("COMMIT")

    found = _timed(commit, groups)
    here.close()
    return found


def _timed(commit: Callable[[int], None], groups: int) -> dict[str, float]:
    for group in range(WARM_UP):
        commit(1 + group * GROUP)
    begun_s, begun_bytes = time.perf_counter(), written_bytes(os.getpid())
    for group in range(WARM_UP, WARM_UP + groups):
        commit(1 + group * GROUP)
    spent_s = time.perf_counter() - begun_s
    return {"per_s": groups / spent_s, "row_bytes": (written_bytes(os.getpid()) - begun_bytes) / (groups * GROUP)}


def _body(seq: int) -> bytes:
    """Return a reading of about BODY_BYTES in all, as an agent sends it."""
    key = events.Key(topics.device_source(topics.DEFAULT_PREFIX, "bench", "c0"), "benchrow", seq)
    event = events.new_event(events.READING, key, SystemClock().now(), data={"temperature_c": 21.5}).with_base(1)
    return events.encode_json(event)


if __name__ == "__main__":
    side = {"ours": ours, "raw": raw}[sys.argv[1]]
    print(json.dumps(side(Path(sys.argv[2]), int(sys.argv[3]))))
