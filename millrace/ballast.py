"""A file that only takes up room: given back when the disk is full, so that deleting, ledgers and alarms still work.

While it is away nothing else may be taken in, or that room would be gone too.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

LARGEST_SHARE = 8
"""It takes an eighth of its file system at most."""
SPARE_FILES = 64
"""With fewer files left than that a disk is full."""
RETRY_S = 1.0
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Ballast:
    """The ballast of one database. Any thread may use it."""

    def __init__(self, path: Path, wanted_bytes: int) -> None:
        """Make it, if there is room; 0 bytes for none, and one that is there is taken away. Errors: OSError."""
        self._path, self._mutex, self._tried_s = path, threading.Lock(), float("-inf")
        disk = os.statvfs(path.parent)
        self._size_bytes = min(wanted_bytes, disk.f_blocks * disk.f_frsize // LARGEST_SHARE)
        self._is_there = self._find()
        if not self.is_at_hand():
            log.warning("no_ballast file=%s bytes=%d: the disk is too full for it", path, self._size_bytes)

    def is_at_hand(self) -> bool:
        """Whether it is there, or none is wanted. Given back, it is made again once there is twice its room."""
        if self._is_there or not self._size_bytes:
            return True
        with self._mutex:
            now_s = time.monotonic()
            if not self._is_there and now_s - self._tried_s >= RETRY_S:
                self._tried_s = now_s
                self._is_there = self._has_files() and self._take(self._path, 2 * self._size_bytes, self._size_bytes)
                if self._is_there:
                    log.info("ballast_made file=%s bytes=%d", self._path, self._size_bytes)
        return self._is_there

    def release(self) -> bool:
        """After a write that failed: give it back if the disk is full; return whether that made room."""
        with self._mutex:
            if not self._is_there:
                return False
            probe = self._path.with_name(self._path.name + ".probe")
            try:
                if self._has_files() and self._take(probe, self._size_bytes // 2, 0):
                    return False  # it failed for something else
                self._path.unlink(missing_ok=True)
            except OSError as error:
                log.error("ballast_not_released file=%s error=%s", self._path, error)
                return False
            finally:
                _unlink(probe)
            self._is_there, self._tried_s = False, time.monotonic()
        log.error(
            "ballast_released file=%s bytes=%d: the disk is full; nothing new is taken in until there is room",
            self._path,
            self._size_bytes,
        )
        return True

    def _find(self) -> bool:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return False
        is_whole = found.st_size == self._size_bytes and found.st_blocks * 512 >= found.st_size
        if not is_whole or not self._size_bytes:
            self._path.unlink()
            return False
        return True

    def _has_files(self) -> bool:
        try:
            disk = os.statvfs(self._path.parent)
        except OSError:
            return False
        return disk.f_files == 0 or disk.f_favail >= SPARE_FILES

    def _take(self, path: Path, room_bytes: int, size_bytes: int) -> bool:
        """Make a file of so many bytes if there is that much room; False, and no file, if the disk or a quota is full.

        Asked by taking it: what a quota leaves is written nowhere else.
        """
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, room_bytes)
                os.ftruncate(descriptor, size_bytes)
            finally:
                os.close(descriptor)
        except OSError as error:
            _unlink(path)
            if error.errno in _FULL:
                return False
            log.warning("ballast_not_made file=%s error=%s", path, error)
            return path != self._path  # a disk that fails is no full one
        return True


def _unlink(path: Path) -> None:
    with suppress(OSError):  # a disk that has become read-only
        path.unlink(missing_ok=True)
