"""What a failing disk answers is a storage failure or a picture that is gone, and no end of the program."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.failing_calls import calls_fail

from cloud_sync.reference_cloud.blobs import SiteBlobs
from millrace.blobs import BlobStore, StorageFailed
from millrace.database import CommitFailed
from millrace.entries import Draft, Lane
from millrace.outbox import Outbox

PICTURE = b"picture"
DIGEST = hashlib.sha256(PICTURE).hexdigest()


def opened(folder: Path) -> Outbox:
    return Outbox(folder / "spool.db", BlobStore(folder / "frames"), "machine-1")


def keep(outbox: Outbox, picture: bytes = PICTURE) -> None:
    digest = hashlib.sha256(picture).hexdigest()
    with outbox.transaction():
        outbox.put_pictures({digest: picture})
        outbox.append([Draft(Lane.FRAME, outbox.epoch, outbox.mint(), b"{}", digest, len(picture))], 0.0)


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    outbox = opened(tmp_path / "state")
    yield outbox
    outbox.close()


def test_a_row_that_comes_back_after_a_failed_sync_has_its_picture(outbox: Outbox, tmp_path: Path) -> None:
    with calls_fail("fsync,fdatasync", "EIO", tmp_path / "state" / "spool.db-wal"), pytest.raises(CommitFailed):
        keep(outbox)
    assert (outbox.held_rows, outbox.read(0, 10)) == (0, [])
    subprocess.run(["cp", "-r", tmp_path / "state", tmp_path / "killed"], check=True)
    again = opened(tmp_path / "killed")
    assert [entry.blob for entry in again.read(0, 10)] == [DIGEST]
    assert again.blobs.get(DIGEST) == PICTURE
    again.close()


def test_a_search_for_pictures_without_a_row_spares_that_of_a_row_that_may_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millrace.pictures.ORPHANS_AT_START_S", -1)  # one at a time
    monkeypatch.setattr("millrace.pictures.ORPHANS_BETWEEN_S", -1)
    state = tmp_path / "state"
    pictures = {hashlib.sha256(picture).hexdigest()[:2]: picture for picture in (b"0", b"1", b"2", b"3")}
    for name in pictures:
        (state / "frames" / name).mkdir(parents=True)
        (state / "frames" / name / "left.part").touch()
    picture = pictures[[folder.name for folder in (state / "frames").iterdir()][-1]]  # it comes last
    outbox = opened(state)
    with calls_fail("fsync,fdatasync", "EIO", state / "spool.db-wal"), pytest.raises(CommitFailed):
        keep(outbox, picture)
    for _ in range(10):
        with outbox.transaction():
            outbox.set_note("key", None)
    assert outbox.blobs.get(hashlib.sha256(picture).hexdigest()) == picture
    outbox.close()


def test_a_disk_that_cannot_read_its_rows_is_a_storage_failure(outbox: Outbox, tmp_path: Path) -> None:
    keep(outbox)
    outbox.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    outbox.connection.execute("PRAGMA shrink_memory").fetchall()
    with calls_fail("pread64", "EBADMSG", tmp_path / "state" / "spool.db"):
        with pytest.raises(StorageFailed):
            outbox.read(0, 10)
        with pytest.raises(StorageFailed):
            outbox.first_position()
        with pytest.raises(StorageFailed):
            outbox.minted()
    assert len(outbox.read(0, 10)) == 1


@pytest.mark.parametrize("error", ["EIO", "EUCLEAN", "EBADMSG"])
def test_a_picture_that_the_disk_has_lost_is_gone(outbox: Outbox, error: str) -> None:
    keep(outbox)
    with calls_fail("read", error, outbox.blobs.path(DIGEST)):
        assert outbox.blobs.get(DIGEST) is None


def test_a_picture_that_cannot_be_asked_for_is_a_storage_failure(outbox: Outbox) -> None:
    outbox.blobs.path(DIGEST).mkdir(parents=True)
    with pytest.raises(StorageFailed, match=DIGEST[2:]):
        outbox.blobs.get(DIGEST)


def test_the_name_of_a_picture_that_another_process_left_is_synced_too(outbox: Outbox, tmp_path: Path) -> None:
    keep(outbox)
    folder = outbox.blobs.path(DIGEST).parent
    with calls_fail("fsync", "EIO", folder), pytest.raises(StorageFailed):
        outbox.blobs.put({DIGEST: PICTURE})
    later = BlobStore(tmp_path / "state" / "frames")
    with calls_fail("fsync", "EIO", folder.parent), pytest.raises(StorageFailed):
        later.put({DIGEST: PICTURE})
    assert later.put({DIGEST: PICTURE}) == set()
    with calls_fail("fsync", "EIO", folder.parent):
        assert later.put({DIGEST: PICTURE}) == set()  # once is enough
    assert later.get(DIGEST) == PICTURE


def test_the_cloud_syncs_the_names_of_a_sites_folders_once(tmp_path: Path) -> None:
    pictures = SiteBlobs(tmp_path)
    assert pictures.put("plant", DIGEST, PICTURE)
    with calls_fail("fsync", "EIO", tmp_path / "plant"):
        assert not pictures.put("plant", DIGEST, PICTURE)
    assert pictures.put("other", DIGEST, PICTURE)
