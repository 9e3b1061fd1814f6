"""A commit that the disk did not sync may be there at the next start: its pictures wait for that."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from millrace.blobs import BlobStore
from millrace.database import CommitFailed
from millrace.entries import Draft, Lane
from millrace.outbox import Outbox

PICTURE = b"picture"
DIGEST = hashlib.sha256(PICTURE).hexdigest()


@contextmanager
def syncs_fail(file: Path) -> Iterator[None]:
    """Have the kernel answer EIO to what this process syncs of `file`."""
    inject = ["-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO"]
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(os.getpid()), *inject, "-P", file],
        stderr=subprocess.DEVNULL,
    )
    try:
        while "TracerPid:\t0\n" in Path("/proc/thread-self/status").read_text():
            if tracer.poll() is not None:
                pytest.skip("strace may not trace here")
            time.sleep(0.01)
        yield
    finally:
        tracer.terminate()
        tracer.wait()


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed here")
def test_a_row_that_comes_back_after_a_failed_sync_has_its_picture(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "a" / "spool.db", BlobStore(tmp_path / "a" / "frames"), "machine-1")
    with syncs_fail(tmp_path / "a" / "spool.db-wal"), pytest.raises(CommitFailed), outbox.transaction():  # noqa: PT012
        outbox.put_pictures({DIGEST: PICTURE})
        outbox.append([Draft(Lane.FRAME, outbox.epoch, outbox.mint(), b"{}", DIGEST, len(PICTURE))], 0.0)
    assert (outbox.held_rows, outbox.read(0, 10)) == (0, [])
    subprocess.run(["cp", "-r", tmp_path / "a", tmp_path / "killed"], check=True)
    outbox.close()
    again = Outbox(tmp_path / "killed" / "spool.db", BlobStore(tmp_path / "killed" / "frames"), "machine-1")
    assert [entry.blob for entry in again.read(0, 10)] == [DIGEST]
    assert again.blobs.get(DIGEST) == PICTURE
    again.close()
