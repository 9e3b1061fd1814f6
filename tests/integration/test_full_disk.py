"""Disks that others fill to the last byte or file: what makes room works, so do alarms, and it ends by itself."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.small_disk import SmallDisk, mounted

from edge_gateway.admission import Arrived, admit
from edge_gateway.commit import Committer
from edge_gateway.metrics import Metrics
from edge_gateway.settings import GatewaySettings
from edge_gateway.store import Store
from millrace import ballast, clock, events, room, topics
from millrace.blobs import BlobStore, StorageFailed
from millrace.entries import Draft, Lane
from millrace.outbox import Outbox
from millrace.room import Room

DISK_BYTES, FILES = 16 << 20, 400
ROOM = Room(1 << 30, 1 << 20)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallDisk]:
    monkeypatch.setattr(ballast, "RETRY_S", 0.0)
    with mounted(tmp_path / "disk", DISK_BYTES, FILES) as made:
        if made is None:
            pytest.skip("cannot mount a small disk here: it needs root")
        yield made


def open_outbox(folder: Path, room: Room = ROOM) -> Outbox:
    return Outbox(folder / "spool.db", BlobStore(folder / "frames"), "machine-1", room=room)


def keep(queue: Outbox, count: int, body_bytes: int = 1000) -> None:
    with queue.transaction():
        queue.append([Draft(Lane.BULK, queue.epoch, queue.mint(), bytes(body_bytes)) for _ in range(count)], 0.0)


def forget(queue: Outbox, position: int) -> int:
    with queue.transaction():
        return queue.forget([position])


def fill_to_the_last_byte(folder: Path) -> None:
    with (folder / "hog" / "bytes").open("ab", buffering=0) as file:
        for block_bytes in (1 << 16, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(block_bytes)) == block_bytes:
                    pass


def fill_the_log(queue: Outbox) -> None:
    """Write until the disk refuses: what room the log had is used up too."""
    with contextlib.suppress(StorageFailed):
        while True:
            keep(queue, 20)


def checkpoint(queue: Outbox) -> tuple[int, ...]:
    (row,) = queue.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return tuple(row)


@pytest.mark.usefixtures("disk")
def test_the_ballast_is_real_private_and_an_eighth_of_the_disk_at_most(tmp_path: Path) -> None:
    queue = open_outbox(tmp_path / "disk", Room(1 << 30, 64 << 20))
    made = (tmp_path / "disk" / "spool.db.ballast").stat()
    assert (made.st_size, made.st_blocks * 512, made.st_mode & 0o777) == (2 << 20, 2 << 20, 0o600)
    assert not queue.is_short
    queue.close()
    open_outbox(tmp_path / "disk", Room(1 << 30)).close()
    assert not (tmp_path / "disk" / "spool.db.ballast").exists()


def test_on_a_disk_full_to_the_last_byte_rows_can_be_forgotten_and_appends_resume_by_themselves(
    tmp_path: Path, disk: SmallDisk
) -> None:
    folder = tmp_path / "disk"
    queue = open_outbox(folder)
    keep(queue, 500)
    fill_to_the_last_byte(folder)
    fill_the_log(queue)
    assert queue.is_short
    assert not (folder / "spool.db.ballast").exists()
    held = queue.held_rows
    assert forget(queue, 1) == 1
    keep(queue, 1, 300)  # a ledger record
    assert checkpoint(queue)[0] == 0
    assert queue.held_rows == held
    disk.free()
    assert not queue.is_short
    assert (folder / "spool.db.ballast").stat().st_size == 1 << 20
    keep(queue, 500)
    queue.close()


def test_without_files_left_rows_are_forgotten_and_pictures_resume_by_themselves(
    tmp_path: Path, disk: SmallDisk
) -> None:
    folder = tmp_path / "disk"
    queue = open_outbox(folder)
    keep(queue, 5)
    disk.fill_with_files()
    with pytest.raises(StorageFailed), queue.transaction():
        queue.put_pictures({"ab" * 32: b"picture"})
    assert queue.is_short
    assert forget(queue, 1) == 1
    keep(queue, 1)
    disk.free()
    assert not queue.is_short
    with queue.transaction():
        queue.put_pictures({"ab" * 32: b"picture"})
    assert queue.blobs.get("ab" * 32) == b"picture"
    queue.close()


def test_a_disk_that_fails_for_something_else_costs_no_ballast(tmp_path: Path, disk: SmallDisk) -> None:
    queue = open_outbox(tmp_path / "disk")
    with pytest.raises(StorageFailed), queue.transaction():
        raise StorageFailed("the disk failed")
    assert (tmp_path / "disk" / "spool.db.ballast").exists()
    assert not (tmp_path / "disk" / "spool.db.ballast.probe").exists()
    queue.close()
    disk.free()


def test_a_queue_starts_on_a_full_disk_in_the_room_of_its_ballast_and_stays_short_over_a_restart(
    tmp_path: Path, disk: SmallDisk
) -> None:
    folder = tmp_path / "disk"
    queue = open_outbox(folder)
    keep(queue, 50)
    queue.close()
    fill_to_the_last_byte(folder)
    for _ in range(2):
        queue = open_outbox(folder)
        assert queue.held_rows == 50
        assert queue.is_short
        queue.close()
    disk.free()
    queue = open_outbox(folder)
    assert not queue.is_short
    queue.close()


@pytest.mark.usefixtures("disk")
def test_a_salvage_on_a_full_disk_uses_the_ballast(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    queue = open_outbox(folder)
    keep(queue, 100)
    queue.close()
    with (folder / "spool.db").open("r+b") as file:
        file.write(bytes(4096))
    fill_to_the_last_byte(folder)
    queue = open_outbox(folder)
    assert queue.doubt() is not None
    assert queue.held_rows == 100
    assert not (folder / "spool.db.ballast").exists()
    queue.close()


def test_the_files_own_limit_comes_before_the_disk_and_leaves_room_for_ledger_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "RESERVE_BYTES", 256 << 10)
    queue = open_outbox(tmp_path, Room(1 << 20, 64 << 10))
    while not queue.is_short:
        keep(queue, 10)
    held = queue.held_rows
    keep(queue, 10)  # ledger records
    fill_the_log(queue)
    assert (tmp_path / "spool.db").stat().st_size <= 1 << 20
    assert (tmp_path / "spool.db.ballast").exists()
    assert queue.held_rows >= held + 10
    with queue.transaction():
        assert queue.forget_range(1, 200) == 200
    assert checkpoint(queue)[0] == 0
    assert not queue.is_short
    queue.close()


def test_an_agent_on_a_disk_with_no_room_at_all_says_so_and_is_to_be_tried_again(
    tmp_path: Path, disk: SmallDisk
) -> None:
    settings = tmp_path / "agent.yaml"
    settings.write_text(
        f"device: cam-1\nstate_dir: {tmp_path}/disk/state\n"
        "channels: {belt: {source: {kind: conveyor}}}\nspool: {durability: {frame: power}}\n"
    )
    fill_to_the_last_byte(tmp_path / "disk")
    done = subprocess.run(
        [sys.executable, "-m", "millrace", "agent", "--config", str(settings)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 75, done.stderr
    assert f"error: {tmp_path}/disk/state" in done.stderr
    assert "full" in done.stderr or "No space" in done.stderr
    disk.free()


def reading(seq: int, text: str) -> Arrived:
    key = events.Key(topics.device_source("millrace", "cam-1", "belt"), "k3v9x0ab", seq)
    instant = clock.SystemClock().now()
    made = events.new_event(events.READING, key, instant, data={"state": text})
    payload = events.encode_json(made)
    (found,) = admit("millrace", "millrace/device/cam-1/reading/belt", payload, (), instant, redelivered=False)
    assert isinstance(found, Arrived)
    return found


def commit(committer: Committer, item: Arrived) -> None:
    """Commit as the writer does: what the disk refuses is tried again."""
    try:
        committer.commit([item])
    except StorageFailed:
        committer.commit([item])


def test_a_gateway_on_a_full_disk_takes_no_reading_but_commits_an_alarm_and_goes_on_when_there_is_room(
    tmp_path: Path, disk: SmallDisk
) -> None:
    folder = tmp_path / "disk"
    settings = GatewaySettings.model_validate({"gateway": "g1", "state_dir": folder})
    store = Store(folder, "machine-1", 1 << 30, ballast_bytes=1 << 20)
    committer = Committer(settings, store, Metrics(), clock.SystemClock())
    commit(committer, reading(1, "first"))
    fill_to_the_last_byte(folder)
    fill_the_log(store.outbox)
    assert store.full
    commit(committer, reading(2, "new"))
    commit(committer, reading(1, "not what was kept"))
    assert [b"key_conflict" in row.body for row in store.outbox.read(0, 10_000, Lane.ALARM)] == [True]
    stream = store.stream("cam-1", "k3v9x0ab")
    assert stream is not None
    assert stream.watermark == 1
    while store.purge(uplink=False, retention_s=0, retention_bytes=0, uptime_s=1e6):
        pass
    assert store.outbox.held_rows < 100
    disk.free()
    commit(committer, reading(2, "new"))
    assert store.stream("cam-1", "k3v9x0ab").watermark == 2
    store.close()
