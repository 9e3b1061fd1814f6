"""The durable queue among real processes: killed at any moment, shut out by a lock, on a disk that is really full."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from integration import outbox_writer

from millrace.blobs import BlobStore, StorageFailed
from millrace.entries import Draft, Entry, Lane
from millrace.outbox import Outbox
from millrace.outbox_reader import Reader

KILLS = 60
PICTURE = os.urandom(100_000)


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, outbox_writer.__file__, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as nursery:
        yield nursery
        assert nursery.stdin is not None
        nursery.stdin.close()
        assert nursery.wait(60) == 0


def write_and_kill(nursery: subprocess.Popen[str], after_commits: int, then_s: float) -> tuple[int, int]:
    """Let a writer do its work and kill it; return the last seq kept and the last one forgotten that it told of."""
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    nursery.stdin.write("write\n")
    pid = int(nursery.stdout.readline().split()[1])
    told = [nursery.stdout.readline() for _ in range(after_commits)]
    time.sleep(then_s)  # a random moment is what this is about
    os.kill(pid, signal.SIGKILL)
    while (line := nursery.stdout.readline()) != "ended\n":
        told.append(line)
    kept, forgotten = told[-1].split()[1:] if told else ("0", "0")
    return int(kept), int(forgotten)


def check_whole(entries: list[Entry], kept: int, forgotten: int, blobs: BlobStore) -> None:
    """Check that all that was promised is there in order, and of what was under way all or nothing."""
    seqs = [entry.seq for entry in entries]
    assert seqs == list(range(seqs[0], seqs[-1] + 1))
    assert seqs == [entry.position for entry in entries]
    assert all(entry.intact for entry in entries)
    batch_first, batch_last = map(int, entries[-1].body.split())
    assert seqs[-1] == batch_last
    assert kept in (batch_last, batch_first - 1)
    assert seqs[0] == forgotten + 1 if kept == batch_last else seqs[0] > forgotten
    for entry in entries:
        picture = blobs.get(entry.blob) if entry.blob else b""
        assert picture is not None
        assert entry.blob is None or hashlib.sha256(picture).hexdigest() == entry.blob


def test_whatever_moment_a_writer_is_killed_at_its_word_holds(writers: subprocess.Popen[str], tmp_path: Path) -> None:
    chance = random.Random(1)
    blobs = BlobStore(tmp_path / "frames")
    told = (0, 0)
    for kill in range(KILLS):
        now_told = write_and_kill(writers, chance.choice([0, 1, 2, 3, 10]), chance.uniform(0, 0.006))
        told = max(told, now_told)
        reader = Reader(tmp_path / "spool.db")  # on the log that the dead one left
        entries = reader.read(Lane.FRAME, 0, 1 << 20)
        reader.close()
        if not entries and told == (0, 0):
            continue
        check_whole(entries, *told, blobs)
        told = entries[-1].seq, entries[0].seq - 1
        if kill % 10 == 9:
            outbox = Outbox(tmp_path / "spool.db", blobs, "machine-1")
            assert outbox.read(0, 1 << 20) == entries
            assert outbox.held_rows == len(entries)
            digests = {entry.blob for entry in entries if entry.blob}
            assert set(blobs.digests()) == digests
            assert outbox.held_bytes == sum(len(entry.body) for entry in entries) + sum(
                len(blobs.get(digest) or b"") for digest in digests
            )
            outbox.close()
    assert told[0] > KILLS


def test_a_second_agent_is_told_to_try_later_and_who_is_in_its_way(tmp_path: Path) -> None:
    state = tmp_path / "state"
    settings = {
        "device": "cam-1",
        "state_dir": str(state),
        "channels": {"belt": {"source": {"kind": "readings", "path": str(tmp_path / "none.csv")}}},
    }
    (tmp_path / "agent.yaml").write_text(yaml.safe_dump(settings))
    holder = Outbox(state / "spool.db", BlobStore(state / "frames"), "machine-1")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "millrace", "agent", "--config", str(tmp_path / "agent.yaml")],
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        holder.close()
    assert done.returncode == 75
    assert f"written by process {os.getpid()};" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder]).returncode:
        pytest.skip("cannot mount a small disk here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_takes_nothing_or_all_and_goes_on_when_there_is_room(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(400_000))
    outbox = Outbox(small_disk / "spool.db", BlobStore(small_disk / "frames"), "machine-1")
    kept = []
    try:
        for number in range(20):  # it fills up, and once full it gets no fuller
            with contextlib.suppress(StorageFailed):
                kept.append(keep_a_frame(outbox, PICTURE + b"%d" % number))
        entries = outbox.read(0, 100)
        assert 0 < len(kept) < 15
        assert [entry.seq for entry in entries] == kept == list(range(1, outbox.next_seq))
        assert set(outbox.blobs.digests()) == {entry.blob for entry in entries}
        ballast.unlink()
        kept.append(keep_a_frame(outbox, PICTURE + b"at last"))
        assert [entry.seq for entry in outbox.read(0, 100)] == kept == list(range(1, outbox.next_seq))
    finally:
        outbox.close()


def keep_a_frame(outbox: Outbox, picture: bytes) -> int:
    digest = hashlib.sha256(picture).hexdigest()
    with outbox.transaction():
        outbox.put_pictures({digest: picture})
        seq = outbox.mint()
        outbox.append([Draft(Lane.FRAME, outbox.epoch, seq, bytes(9000), digest, len(picture))], 0.0)
    return seq
