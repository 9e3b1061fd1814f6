"""How far a file may grow: what is new is refused in time, so that ledger records and alarms always find room."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from millrace.ballast import Ballast

RESERVE_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Room:
    """How far a file may grow, and how large its ballast is; 0 for none.

    The last RESERVE_BYTES are for what must always be written: ledger records and alarms.
    """

    max_bytes: int
    ballast_bytes: int = 0

    @classmethod
    def for_quota(cls, quota_bytes: int, ballast_bytes: int, more_bytes: int = 0) -> Room:
        """Return the room for rows of so many bytes, each of which takes up to twice that with its indexes.

        `more_bytes` are for the owner's own tables.
        """
        return cls(2 * quota_bytes + more_bytes + 2 * RESERVE_BYTES, ballast_bytes)


class RoomLeft:
    """What one file has left of its room: its owner tells `used_bytes` after each commit, any thread may ask."""

    def __init__(self, path: Path, room: Room | None) -> None:
        """Make the file's ballast; without a room there is no limit, and no ballast. Errors: OSError."""
        self.max_bytes: int | None = None
        self.used_bytes = 0
        self._ballast: Ballast | None = None
        if room is not None:
            self.max_bytes = room.max_bytes
            self._ballast = Ballast(path.with_name(path.name + ".ballast"), room.ballast_bytes)

    @property
    def is_short(self) -> bool:
        """Whether the file or its disk is nearly full; it ends by itself when there is room."""
        if self.max_bytes is not None and self.used_bytes > self.max_bytes - RESERVE_BYTES:
            return True
        return self._ballast is not None and not self._ballast.is_at_hand()

    def release(self) -> bool:
        """After a write that failed: give the ballast back if the disk is full; return whether that made room."""
        return self._ballast is not None and self._ballast.release()
