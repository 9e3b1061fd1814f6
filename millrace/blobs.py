"""Pictures as files named by their SHA-256: on stable storage, name and all, before anyone may speak of them."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from millrace import crashpoints

log = logging.getLogger(__name__)

FULL = (errno.ENOSPC, errno.EDQUOT)
_DAMAGED = (errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENOTDIR, errno.EEXIST)
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.EIO, errno.EUCLEAN, errno.EBADMSG)
"""Not there, or the disk has lost what it says: a bad sector, a damaged folder, a checksum that is wrong."""


class StorageFailed(Exception):
    """The disk is full or refuses to write; nothing of this write counts. Try again when there is room."""


class NoRoom(StorageFailed):
    """The disk, a quota or the file's own limit is used up."""


class BadFolder(StorageFailed):
    """A folder is damaged, or something else is in its place: pictures that belong into another may be taken."""

    def __init__(self, folder: Path, why: str | None) -> None:
        super().__init__(f"{folder}: {why}")
        self.folder = folder


class BlobStore:
    """A folder of content-addressed files, `ab/cdef…`; one process writes it, others read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._named: set[str] = set()

    def path(self, sha256: str) -> Path:
        """Return where the blob of this digest lies, whether it is there or not."""
        return self._folder / sha256[:2] / sha256[2:]

    def put(self, blobs: Mapping[str, bytes]) -> set[str]:
        """Write and sync each blob that is not there yet, and then the folders that name them; return the new ones.

        The folders of all: one that is there may be of a process that was killed before it had synced its name.
        Errors: StorageFailed; then none of the new ones is left behind.
        """
        new: set[str] = set()
        folder = self._folder
        try:
            for sha256, content in blobs.items():
                target = self.path(sha256)
                folder = target.parent
                if not target.exists():
                    make_folder(folder)
                    _write_synced(target, content)
                    new.add(sha256)
            for name in {sha256[:2] for sha256 in blobs}:
                folder = self._folder / name
                sync_folder(folder)
                if name not in self._named:
                    sync_folder(self._folder)
                    self._named.add(name)
        except OSError as error:
            self.discard(new)
            if error.errno in _DAMAGED:
                raise BadFolder(folder, error.strerror) from error
            failure = NoRoom if error.errno in FULL else StorageFailed
            raise failure(f"{self._folder}: {error.strerror}") from error
        return new

    def get(self, sha256: str) -> bytes | None:
        """Return the blob, or None if it is not (or no longer) there, or the disk cannot read it any more.

        Errors: StorageFailed.
        """
        try:
            return self.path(sha256).read_bytes()
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise StorageFailed(f"{self.path(sha256)}: {error.strerror}") from error

    def is_gone(self, sha256: str) -> bool:
        """Whether the blob is not (or no longer) there, or the disk cannot find it any more. Errors: StorageFailed."""
        try:
            self.path(sha256).stat()
        except OSError as error:
            if error.errno in _GONE:
                return True
            raise StorageFailed(f"{self.path(sha256)}: {error.strerror}") from error
        return False

    def discard(self, digests: Iterable[str]) -> None:
        """Unlink blobs whose last row is gone; one that is already missing is no error.

        One that the disk does not let go is an orphan until the next start: what was committed stands.
        """
        for sha256 in digests:
            crashpoints.reached("picture.unlinking")
            try:
                self.path(sha256).unlink(missing_ok=True)
            except OSError as error:
                log.error("picture_not_unlinked sha256=%s error=%s", sha256, error.strerror)

    def digests(self) -> Iterator[str]:
        """Yield the digest of each file, half-written leftovers of a crash included (their names fit no row)."""
        for file in self._folder.glob("??/*"):
            yield file.parent.name + file.name


def make_folder(folder: Path, mode: int = 0o700) -> None:
    """Make a folder and those above it, where they are missing, their names on stable storage too. Errors: OSError."""
    if folder.is_dir():
        return
    make_folder(folder.parent, 0o777)
    folder.mkdir(mode, exist_ok=True)
    sync_folder(folder.parent)


def _write_synced(target: Path, content: bytes) -> None:
    half = target.with_name(target.name + ".part")
    try:
        with half.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        crashpoints.reached("picture.half_written")
        half.rename(target)
        crashpoints.reached("picture.written")
    except OSError:
        half.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on stable storage. Errors: OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
