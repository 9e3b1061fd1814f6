"""How far an outbox may have minted, on stable storage beside it: what a lost database can still be declared by.

The file names each epoch and a seq that none of it is above. It is written once for many seqs, before they are used.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from millrace import events, jsontext
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
    half.rename(path)
    sync_folder(path.parent)
