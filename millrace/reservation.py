"""How far an outbox may have minted, on stable storage beside it: what a lost database can still be declared by.

The reservation names each epoch and a seq that none of it is above. It is written once for many seqs, before they are
used. What is last seen was surely committed: written after each commit and not synced, it is one commit old at most
after a kill, and may be older, never newer, after a power cut. A database that says less was set back.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from millrace import clock, crashpoints, events, jsontext
from millrace.blobs import sync_folder

log = logging.getLogger(__name__)

BLOCK_SEQS = 1000
EPOCHS_KEPT = 64
_MAX_BYTES = 64 << 10


class Reservation:
    """The file beside one outbox, written by its owner alone."""

    def __init__(self, path: Path) -> None:
        """Read it; one that is missing or unreadable says nothing, and is written anew at the next use."""
        self.path = path
        self._reserved = _read(path)

    @property
    def reserved(self) -> Mapping[str, int]:
        """For each epoch, oldest first, a seq that it has not minted beyond."""
        return self._reserved

    def cover(self, epoch: str, seq: int) -> None:
        """See to it that `seq` of `epoch` is reserved before it is used; mostly it is. Errors: OSError."""
        if seq <= self._reserved.get(epoch, 0):
            return
        reserved = {**self._reserved, epoch: seq + BLOCK_SEQS}
        kept = dict(list(reserved.items())[-EPOCHS_KEPT:])
        _write(self.path, jsontext.dump({"reserved": kept}))
        self._reserved = kept


class Seen(NamedTuple):
    """How far a commit had come; `boot_id` names the boot in which it was noted, if that was said."""

    epoch: str
    next_seq: int
    next_position: int
    boot_id: str = ""


class LastSeen:
    """The file beside one outbox that says how far it was seen to get; one small write in place for each commit."""

    def __init__(self, path: Path) -> None:
        """Name it; the first note makes it."""
        self._path, self._descriptor = path, -1
        self._boot_id = clock.boot_id()

    def close(self) -> None:
        """Close the file; a second time is no error."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def read(self) -> Seen | None:
        """Return what was seen last, or None where nothing was or it cannot be read: then it proves nothing."""
        try:
            line, _, check = self._path.read_bytes()[:128].decode("ascii").strip().rpartition(" ")
            epoch, seq, position, *boot_id = line.split(" ")
            if int(check) == zlib.crc32(line.encode()) and events.EPOCH.match(epoch):
                return Seen(epoch, int(seq), int(position), *boot_id)
        except (OSError, ValueError, TypeError):
            return None
        return None

    def note(self, seen: Seen) -> None:
        """Write what was committed. A disk that refuses is no error: an older word is still true."""
        line = f"{seen.epoch} {seen.next_seq} {seen.next_position} {self._boot_id}"
        try:
            if self._descriptor < 0:
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.pwrite(self._descriptor, f"{line} {zlib.crc32(line.encode())}".ljust(127).encode() + b"\n", 0)
        except OSError as error:
            log.warning("last_seen_not_written file=%s error=%s", self._path, error)


def _read(path: Path) -> dict[str, int]:
    try:
        value = jsontext.parse(path.read_bytes(), _MAX_BYTES)
    except FileNotFoundError:
        return {}
    except (OSError, jsontext.BadJson) as error:
        log.warning("reservation_unreadable file=%s error=%s", path, error)
        return {}
    reserved = value.get("reserved") if isinstance(value, dict) else None
    if not isinstance(reserved, dict):
        log.warning("reservation_unreadable file=%s error=%s", path, "it does not say what is reserved")
        return {}
    return {
        epoch: seq
        for epoch, seq in reserved.items()
        if events.EPOCH.match(epoch) and isinstance(seq, int) and 0 <= seq <= events.SEQ_MAX
    }


def _write(path: Path, content: bytes) -> None:
    half = path.with_name(path.name + ".part")
    with half.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    crashpoints.reached("reservation.written")
    half.rename(path)
    crashpoints.reached("reservation.renamed")
    sync_folder(path.parent)
