"""A disk that takes no writes any more costs the queue its writes, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from millrace import ballast
from millrace.ballast import Ballast
from millrace.blobs import BlobStore, StorageFailed
from millrace.outbox import Outbox
from millrace.room import Room


def test_a_probe_that_cannot_be_unlinked_leaves_the_write_a_storage_failure(tmp_path: Path) -> None:
    queue = Outbox(tmp_path / "spool.db", BlobStore(tmp_path / "frames"), "machine-1", room=Room(1 << 30, 4096))
    (tmp_path / "spool.db.ballast.probe").mkdir()
    with pytest.raises(StorageFailed, match="the disk failed"), queue.transaction():
        raise StorageFailed("the disk failed")
    assert (tmp_path / "spool.db.ballast").exists()
    queue.close()


def test_a_ballast_whose_folder_cannot_be_asked_is_not_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ballast, "RETRY_S", 0.0)
    folder = tmp_path / "state"
    folder.mkdir()
    made = Ballast(folder / "ballast", 4096)
    shutil.rmtree(folder)
    assert made.release()
    assert not made.is_at_hand()
    folder.mkdir()
    assert made.is_at_hand()
