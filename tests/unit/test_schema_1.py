"""Files of version 0.1.0 are carried over with their rows; a file of a newer version is refused and left as it is."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unit import schema_1

from cloud_sync.progress import Progress
from cloud_sync.reference_cloud.ledger import APPLICATION_ID as CLOUD_ID
from cloud_sync.reference_cloud.ledger import Ledger
from edge_gateway.store import Store
from millrace.blobs import BlobStore
from millrace.database import APPLICATION_ID, PAGE_BYTES, SCHEMA_VERSION, NewerSchema, mark_damaged
from millrace.entries import Lane
from millrace.outbox import Outbox

EPOCH = "k3v9x0pa"
BODY = b'{"id":"k3v9x0pa-1"}'
CHECKSUM = zlib.crc32(BODY, zlib.crc32(f"5 {EPOCH} 1 None".encode()))
ROWS = f"""
INSERT INTO meta VALUES ('machine_id', 'machine-1');
INSERT INTO own_epoch VALUES ('{EPOCH}', 1, 2, 'created');
INSERT INTO entry VALUES (1, 5, '{EPOCH}', 1, CAST('{BODY.decode()}' AS BLOB), NULL, {len(BODY)}, 0, {CHECKSUM});
UPDATE counter SET next_position = 2, held_rows = 1, held_bytes = {len(BODY)};
"""
STREAM = "INSERT INTO stream VALUES (1, 'cam-1', 'n7kl47p6', 41, '[[43, 44]]');"
ACCOUNT = f"""
INSERT INTO settled VALUES ('{EPOCH}', 5, 1, 7);
INSERT INTO buried VALUES ('{EPOCH}', 3, 5, 'n7kl47p6', 9, 'refused', CAST('{BODY.decode()}' AS BLOB), 1);
"""
HELD = """
INSERT INTO stream VALUES (1, 'plant-1', 'device/cam-1', 'n7kl47p6', 4, 4);
INSERT INTO span VALUES (1, 'held', 1, 3);
"""
Opened = Callable[[Path], Any]


def _old(path: Path, sql: str, application_id: int = APPLICATION_ID, version: int = 1) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(
        f"PRAGMA journal_mode = WAL; BEGIN; {sql} PRAGMA application_id = {application_id};"
        f" PRAGMA user_version = {version}; COMMIT;"
    )
    connection.close()


def _spool(folder: Path) -> Outbox:
    return Outbox(folder / "spool.db", BlobStore(folder / "frames"), "machine-1")


def test_a_spool_of_version_0_1_0_keeps_its_rows_and_its_epoch(tmp_path: Path) -> None:
    _old(tmp_path / "spool.db", schema_1.SPOOL_DB + ROWS)
    for _ in range(2):
        spool = _spool(tmp_path)
        (row,) = spool.read(0, 10)
        assert (row.body, row.intact, spool.epoch, spool.next_seq, spool.held_rows) == (BODY, True, EPOCH, 2, 1)
        spool.close()


def test_a_gateways_database_of_version_0_1_0_keeps_rows_and_watermarks(tmp_path: Path) -> None:
    _old(tmp_path / "gateway.db", schema_1.GATEWAY_DB + ROWS + STREAM)
    store = Store(tmp_path, "machine-1", 1 << 30)
    stream = store.stream("cam-1", "n7kl47p6")
    assert stream is not None
    assert (stream.watermark, stream.ahead.ranges()) == (41, [(43, 44)])
    assert ([row.body for row in store.outbox.read(0, 10)], store.outbox.epoch) == ([BODY], EPOCH)
    store.close()


def test_a_damaged_database_of_version_0_1_0_is_salvaged_with_its_watermarks_and_positions(tmp_path: Path) -> None:
    counter = "UPDATE counter SET next_position = 9;"
    _old(tmp_path / "gateway.db", schema_1.GATEWAY_DB + ROWS + STREAM + counter)
    mark_damaged(tmp_path / "gateway.db")
    store = Store(tmp_path, "machine-1", 1 << 30)
    stream = store.stream("cam-1", "n7kl47p6")
    assert stream is not None
    assert (stream.watermark, stream.ahead.ranges()) == (41, [(43, 44)])
    assert (store.outbox.next_position, store.outbox.held_rows) == (9, 1)
    store.close()


def _zero_the_first_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(PAGE_BYTES))


def test_a_spool_of_version_0_1_0_whose_first_page_is_gone_keeps_its_rows_and_declares_what_it_minted(
    tmp_path: Path,
) -> None:
    minted = "UPDATE own_epoch SET next_seq = 6; UPDATE counter SET next_position = 9;"
    _old(tmp_path / "spool.db", schema_1.SPOOL_DB + ROWS + minted)
    _zero_the_first_page(tmp_path / "spool.db")
    spool = _spool(tmp_path)
    doubt = spool.doubt()
    assert doubt is not None
    assert [(row.body, row.intact) for row in spool.read(0, 10)] == [(BODY, True)]
    assert (spool.next_position, spool.minted()[EPOCH], doubt.ranges) == (9, 5, {EPOCH: (1, 5)})
    spool.close()


@pytest.mark.parametrize("quarantined", [0, 100])
def test_a_gateways_database_of_version_0_1_0_whose_first_page_is_gone_keeps_rows_and_watermarks(
    tmp_path: Path, quarantined: int
) -> None:
    refused = "INSERT INTO quarantine VALUES (NULL, 1, 'a/b', 'malformed', zeroblob(3000));" * quarantined
    _old(tmp_path / "gateway.db", schema_1.GATEWAY_DB + ROWS + STREAM + refused)
    _zero_the_first_page(tmp_path / "gateway.db")
    store = Store(tmp_path, "machine-1", 1 << 30)
    stream = store.stream("cam-1", "n7kl47p6")
    assert stream is not None
    assert (stream.watermark, stream.ahead.ranges()) == (41, [(43, 44)])
    assert [row.body for row in store.outbox.read(0, 10)] == [BODY]
    assert store.outbox.connection.execute("SELECT count(*) FROM quarantine").fetchone() == (quarantined,)
    assert store.outbox.connection.execute("SELECT count(*) FROM tie").fetchone() == (0,)
    store.close()


@pytest.mark.parametrize("damaged", ["device = CAST(X'C3' AS TEXT)", "watermark = CAST(X'C3' AS TEXT)"])
def test_text_that_damage_made_unreadable_does_not_keep_version_0_1_0_from_its_successor(
    tmp_path: Path, damaged: str
) -> None:
    _old(tmp_path / "gateway.db", schema_1.GATEWAY_DB + ROWS + STREAM + f"UPDATE stream SET {damaged};")
    store = Store(tmp_path, "machine-1", 1 << 30)
    assert [row.body for row in store.outbox.read(0, 10)] == [BODY]
    store.close()


def test_an_account_of_version_0_1_0_keeps_what_is_settled_and_buried(tmp_path: Path) -> None:
    _old(tmp_path / "sync.db", schema_1.SYNC_DB + ACCOUNT)
    progress = Progress(tmp_path / "sync.db")
    assert progress.settled(EPOCH, Lane.BULK).ranges() == [(1, 7)]
    (row,) = progress.buried()
    assert (row.seq_epoch, row.seq, row.reason, row.body, row.blob, row.buried_wall_ns) == (
        "n7kl47p6", 9, "refused", BODY, None, None,
    )  # fmt: skip
    progress.close()


def test_a_clouds_ledger_of_version_0_1_0_keeps_what_it_holds(tmp_path: Path) -> None:
    _old(tmp_path / "ledger.db", schema_1.LEDGER_DB + HELD, CLOUD_ID)
    ledger = Ledger(tmp_path / "ledger.db")
    (stream,) = ledger.streams("plant-1")
    assert (stream.origin, stream.minted, stream.held.ranges()) == ("device/cam-1", 4, [(1, 3)])
    ledger.close()


OPENED: dict[str, Opened] = {
    "spool.db": _spool,
    "gateway.db": lambda folder: Store(folder, "machine-1", 1 << 30),
    "sync.db": lambda folder: Progress(folder / "sync.db"),
    "ledger.db": lambda folder: Ledger(folder / "ledger.db"),
}


@pytest.mark.parametrize("name", OPENED)
def test_a_file_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    _old(file, "CREATE TABLE future (x);", version=SCHEMA_VERSION + 1)
    before = file.read_bytes()
    with pytest.raises(NewerSchema) as refused:
        OPENED[name](tmp_path)
    assert str(refused.value).startswith(
        f"{file} was written by a newer Millrace (schema {SCHEMA_VERSION + 1}, this program knows {SCHEMA_VERSION});"
        " run that one"
    )
    assert file.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} <= {name, f"{name}.lock", f"{name}-wal", f"{name}-shm", "frames"}
