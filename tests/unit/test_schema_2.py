"""Files of schema 2 are carried over with their backlog: rows in full, answers one by one."""

from __future__ import annotations

import sqlite3
import zlib
from pathlib import Path

import pytest

from edge_gateway.store import Store
from edge_gateway.tables import STEPS
from millrace import database, events
from millrace.blobs import BlobStore
from millrace.clock import Instant
from millrace.database import SCHEMA_VERSION, Database, NewerSchema, mark_damaged
from millrace.entries import Draft, Lane
from millrace.outbox import Outbox
from millrace.outbox_tables import Extension, steps
from millrace.row_sums import summed

OWN, EPOCH = "q8w2mm1c", "k3v9x0pa"
ROWS = 300


def body(seq: int) -> bytes:
    key = events.Key("/millrace/device/cam-1/c0", EPOCH, seq)
    event = events.new_event(events.READING, key, Instant(0, "boot", seq), data={"temperature_c": 21.5})
    return events.encode_json(event)


def digest(seq: int) -> str:
    return f"{seq:064x}"


def write_as_schema_2(path: Path, more: Extension, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a file as the program of schema 2 left it: 300 readings taken, none settled."""
    with monkeypatch.context() as past:
        past.setattr(database, "SCHEMA_VERSION", 2)
        file = Database(path, steps(more)[:2])
    bodies = {seq: body(seq) for seq in range(1, ROWS + 1)}
    with file.transaction():
        file.connection.executemany(
            "INSERT INTO entry VALUES (?, 5, ?, ?, ?, NULL, ?, 7, ?)",
            [
                (s, EPOCH, s, b, len(b), zlib.crc32(b, zlib.crc32(f"5 {EPOCH} {s} None".encode())))
                for s, b in bodies.items()
            ],
        )
        counter = summed(1, ROWS + 1, ROWS, sum(map(len, bodies.values())), 9.0)
        file.connection.execute("INSERT OR REPLACE INTO counter VALUES (?, ?, ?, ?, ?, ?)", counter)
        file.connection.execute("INSERT INTO own_epoch VALUES (?, ?, ?, ?, ?)", summed(OWN, 1, 1, "created"))
        file.connection.execute("INSERT INTO meta VALUES (?, ?, ?)", summed("machine_id", "machine-1"))
        if more.steps:
            file.connection.execute(
                "INSERT INTO stream VALUES (?, ?, ?, ?, ?, ?)", summed(1, "cam-1", EPOCH, ROWS, "[]")
            )
            file.connection.execute("INSERT INTO minted VALUES ('device/cam-1', ?, ?)", (EPOCH, ROWS))
            answers = [(1, seq, seq, 0, digest(seq)) for seq in bodies]
            file.connection.executemany("INSERT INTO answer VALUES (?, ?, ?, ?, ?)", answers)
    file.close()


@pytest.mark.parametrize("damaged", [False, True])
def test_a_gateways_backlog_of_schema_2_is_carried_over_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    write_as_schema_2(tmp_path / "gateway.db", Extension(STEPS), monkeypatch)
    if damaged:
        mark_damaged(tmp_path / "gateway.db")
    for _ in range(2):
        store = Store(tmp_path, "machine-1", 1 << 30)
        assert [row.body for row in store.outbox.read(0, 1000, Lane.BULK)] == [body(seq) for seq in range(1, ROWS + 1)]
        assert all(row.intact for row in store.outbox.read(0, 1000))
        stream = store.stream("cam-1", EPOCH)
        assert stream is not None
        assert (stream.watermark, store.minted_of(stream)) == (ROWS, ROWS)
        answer = store.recall(stream, 7)
        assert answer is not None
        assert (answer.position, answer.rows, answer.digest) == (7, 0, digest(7))
        assert (store.outbox.epoch == OWN) is not damaged
        store.close()
    store = Store(tmp_path, "machine-1", 1 << 30)
    stream = store.stream("cam-1", EPOCH)
    assert stream is not None
    with store.outbox.transaction():
        stream.account(ROWS + 1, ROWS + 1)
        store.accept(Draft(Lane.BULK, EPOCH, ROWS + 1, body(ROWS + 1)), stream, digest(ROWS + 1), 0.0)
        store.write_accepted()
        store.save_stream(stream)
    assert [seq for seq, *_ in store.latest(stream, 3)] == [ROWS + 1, ROWS, ROWS - 1]
    assert len(store.recent_digests(stream, 5)) == 5
    store.close()


def test_a_spools_backlog_of_schema_2_is_carried_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_as_schema_2(tmp_path / "spool.db", Extension(), monkeypatch)
    for _ in range(2):
        spool = Outbox(tmp_path / "spool.db", BlobStore(tmp_path / "frames"), "machine-1")
        assert [row.seq for row in spool.read(0, 1000) if row.intact] == list(range(1, ROWS + 1))
        assert (spool.epoch, spool.held_rows, spool.next_position) == (OWN, ROWS, ROWS + 1)
        spool.close()


def test_the_program_of_schema_2_refuses_what_this_one_has_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(tmp_path, "machine-1", 1 << 30).close()
    before = (tmp_path / "gateway.db").read_bytes()
    monkeypatch.setattr(database, "SCHEMA_VERSION", 2)
    with pytest.raises(NewerSchema, match=f"schema {SCHEMA_VERSION}, this program knows 2"):
        Database(tmp_path / "gateway.db", steps(Extension(STEPS))[:2])
    assert (tmp_path / "gateway.db").read_bytes() == before
    with sqlite3.connect(tmp_path / "gateway.db") as look:
        assert look.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    look.close()
