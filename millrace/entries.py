"""A row of the queue: its lane, its event's key and body, and a checksum that tells when the disk has spoilt it."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import pairwise
from typing import Any

from millrace.short_bodies import in_full

SELECT_LANE = "SELECT * FROM entry WHERE lane = ? AND position > ? ORDER BY position LIMIT ?"


class Lane(IntEnum):
    """What overtakes what on the way up; LOCAL does not go up at all."""

    LOCAL = 0
    ALARM = 1
    VERDICT = 2
    RESULT = 3
    FRAME = 4
    BULK = 5


@dataclass(frozen=True, slots=True)
class Draft:
    """What is to be appended. `body` is the event as JSON; `blob` the digest of a picture that is already stored.

    `epoch` and `seq` are those of the event's own key, whoever minted it; see `Outbox.mint` for one's own.
    """

    lane: Lane
    epoch: str
    seq: int
    body: bytes
    blob: str | None = None
    blob_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One row. `intact` is False where its checksum does not fit: it must not be sent, only declared lost.

    Of a damaged row nothing but its position can be believed; what cannot be a key is "" and 0.
    """

    position: int
    lane: Lane
    epoch: str
    seq: int
    body: bytes
    blob: str | None
    bytes: int
    born_s: int
    intact: bool


def entry_of(
    position: int, lane: Any, epoch: Any, seq: Any, body: Any, blob: Any, size: Any, born_s: Any, checksum: Any
) -> Entry:
    """Return the row of table `entry` as an Entry, `intact` or not."""
    try:
        body = in_full(body, epoch, seq)
        intact = checksum == checksum_of(lane, epoch, seq, body, blob)
        entry = Entry(position, Lane(lane), epoch, seq, body, blob, int(size), int(born_s), intact)
    except (TypeError, ValueError):  # the damage changed what kind of thing stands there
        entry = Entry(position, Lane.BULK, epoch, seq, b"", None, 0, 0, intact=False)
    return entry if isinstance(epoch, str) and isinstance(seq, int) else replace(entry, epoch="", seq=0)


def ascend(positions: Sequence[int], after: int) -> bool:
    """Say whether positions read above `after` are in order; if not, the table is damaged and gives some for ever."""
    return all(low < high for low, high in pairwise((after, *positions)))


def is_sound(row: tuple[Any, ...]) -> bool:
    """Say whether a row that was salvaged is as it was written."""
    _, lane, epoch, seq, body, blob, _, born_s, checksum = row
    try:
        return checksum == checksum_of(lane, epoch, seq, in_full(body, epoch, seq), blob) and isinstance(born_s, int)
    except (TypeError, ValueError):
        return False


def checksum_of(lane: int, epoch: str, seq: int, body: bytes, blob: str | None) -> int:
    """Return the checksum under which a row is written: of its body in full."""
    return zlib.crc32(body, zlib.crc32(f"{int(lane)} {epoch} {seq} {blob}".encode()))
