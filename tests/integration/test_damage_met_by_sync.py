"""Damage that only the sync worker meets: the gateway ends for it, its next start heals, and the backlog drains."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from integration.brokers import EmbeddedBroker, wait_until
from integration.test_gateway import Gateway, running
from integration.test_reference_cloud import TOKENS, Cloud, reading

from edge_gateway.store import Store
from millrace import clock, jsontext
from millrace.database import PAGE_BYTES, mark_of
from millrace.entries import Draft, Lane

ROWS = 3000


def backlog(state: Path) -> Path:
    """Fill a gateway's database with rows that wait for the cloud."""
    store = Store(state, clock.machine_id(), 1 << 30)
    with store.outbox.transaction():
        drafts = [Draft(Lane.BULK, "k3v9x0pa", seq, jsontext.dump(reading(seq))) for seq in range(1, ROWS + 1)]
        store.append(drafts, 0.0)
        store.outbox.note_minted("device/cam-1", "k3v9x0pa", ROWS)
    store.close()
    return state / "gateway.db"


def spoil_a_leaf(path: Path) -> None:
    """Overwrite the second leaf of the index by which lanes are read."""
    with sqlite3.connect(f"file:{path}?immutable=1", uri=True) as reader:
        ((root,),) = reader.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'entry_by_lane'").fetchall()
    reader.close()
    page = path.read_bytes()[(root - 1) * PAGE_BYTES : root * PAGE_BYTES]
    assert page[0] == 2, "the index has leaves below its root"
    cell = int.from_bytes(page[14:16], "big")
    leaf = int.from_bytes(page[cell : cell + 4], "big")
    with path.open("r+b") as file:
        file.seek((leaf - 1) * PAGE_BYTES)
        file.write(b"\xff" * PAGE_BYTES)


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    started = EmbeddedBroker()
    yield started
    started.stop()


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    (tmp_path / "cloud").mkdir()
    started = Cloud(tmp_path / "cloud")
    yield started
    started.stop(signal.SIGTERM)


def test_a_gateway_whose_damage_only_the_sync_worker_meets_ends_once_heals_and_the_backlog_drains(
    tmp_path: Path, broker: EmbeddedBroker, cloud: Cloud
) -> None:
    path = backlog(tmp_path / "gateway" / "state")
    gateway: Gateway
    with running(tmp_path / "gateway", broker.address, models=[], uplink="cloud") as gateway:
        spoil_a_leaf(path)
        with draining(tmp_path, cloud, path.parent):
            wait_until(lambda: gateway.process.poll() is not None, "the gateway ends")
            assert gateway.process.returncode == 1
            assert "damage was met by another program" in gateway.log()
            gateway.start()
            wait_until(lambda: is_all_there(cloud), "the backlog is in the cloud")
        assert path.with_name("gateway.db.damaged-1").exists()
        assert not path.with_name("gateway.db.damaged-2").exists()
        assert not mark_of(path).exists()
        assert gateway.answers()


@contextmanager
def draining(home: Path, cloud: Cloud, state: Path) -> Iterator[None]:
    """Run a sync worker on a gateway's state."""
    token = home / "token"
    token.touch(mode=0o600)
    token.write_text(TOKENS["g1"])
    told = {"gateway": "g1", "state_dir": str(state), "cloud": {"url": cloud.url, "token_file": str(token)}}
    (home / "sync.yaml").write_text(yaml.safe_dump(told), encoding="utf-8")
    worker = subprocess.Popen([sys.executable, "-m", "millrace", "sync", "--config", str(home / "sync.yaml")])
    try:
        yield
    finally:
        worker.send_signal(signal.SIGTERM)
        status = worker.wait(60)
    assert status == 0


def is_all_there(cloud: Cloud) -> bool:
    origins = cloud.get("/v1/audit?origin=device/cam-1")["origins"]
    return [(found["held"], found["missing"]) for found in origins] == [(ROWS, [])]
