"""Another program's view of an outbox: what waits in it, and how far its owner and others have minted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from millrace import notes
from millrace.counters import EPOCH_WIDTH
from millrace.database import Damaged, Viewer
from millrace.entries import SELECT_LANE, Entry, Lane, ascend, entry_of
from millrace.row_sums import is_believed

_NEWEST_LANE = "SELECT position FROM entry WHERE lane = ? ORDER BY position DESC LIMIT ?"
_SIZES_LANE = (
    "SELECT position, CAST(entry.bytes AS INTEGER) + coalesce(blob.bytes, 0) FROM entry"
    " LEFT JOIN blob ON sha256 = blob WHERE lane = ? AND position > ? ORDER BY position LIMIT ?"
)
_COUNT_LANE = "SELECT count(*) FROM (SELECT 1 FROM entry WHERE lane = ? AND position > ? LIMIT 100000)"


class Reader:
    """Reads only: never a cursor held open, never a checkpoint."""

    def __init__(self, path: Path) -> None:
        self._file = Viewer(path, "SELECT one FROM counter")

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        self._file.close()

    def read(self, lane: Lane, after: int, max_rows: int) -> list[Entry]:
        """Return up to `max_rows` entries of `lane` above `after`; nothing if the file is not there yet.

        Errors: Damaged.
        """
        found = [entry_of(*row) for row in self._file.all(SELECT_LANE, (int(lane), after, max_rows))]
        self._expect_order([entry.position for entry in found], after)
        return found

    def sizes(self, lane: Lane, after: int, max_rows: int) -> list[tuple[int, int]]:
        """Return position and bytes, the picture's included, of up to `max_rows` entries of `lane` above `after`."""
        found = self._file.all(_SIZES_LANE, (int(lane), after, max_rows))
        self._expect_order([position for position, _ in found], after)
        return found

    def newest(self, lane: Lane, max_rows: int) -> list[Entry]:
        """Return the last `max_rows` entries of `lane`, in order."""
        rows = self._file.all(_NEWEST_LANE, (int(lane), max_rows))
        return self.read(lane, int(rows[-1][0]) - 1, max_rows) if rows else []

    def epochs(self) -> dict[str, int]:
        """Return the owner's epochs, oldest first, with the highest seq of each. Errors: Damaged."""
        rows = self._file.all("SELECT * FROM own_epoch ORDER BY number")
        for row in rows:
            if not is_believed(row, EPOCH_WIDTH):
                raise Damaged(f"{self._file.path}: its epochs make no sense: {row}", self._file.path)
        return {str(epoch): int(next_seq) - 1 for epoch, _, next_seq, *_ in rows}

    def minted(self) -> dict[str, dict[str, int]]:
        """Return for each origin and epoch how far it has minted, as far as the owner knows."""
        found: dict[str, dict[str, int]] = {}
        for origin, epoch, seq in self._file.all("SELECT origin, epoch, seq FROM minted"):
            found.setdefault(str(origin), {})[str(epoch)] = int(seq)
        return found

    def note(self, key: str) -> str | None:
        """Return what the owner has noted under a key, or None. Errors: Damaged."""
        rows = self._file.all(notes.SELECT_ONE, (key,))
        if not notes.are_believed(rows):
            raise Damaged(f"{self._file.path}: what is noted under {key!r} is not as it was written", self._file.path)
        return str(rows[0][1]) if rows else None

    def backlog(self, settled: Mapping[Lane, int]) -> dict[Lane, int]:
        """Return for each lane that goes up how many rows lie above the settled position, counted up to 100,000."""
        found: dict[Lane, int] = {}
        for lane in Lane:
            if lane is not Lane.LOCAL:
                rows = self._file.all(_COUNT_LANE, (int(lane), settled.get(lane, 0)))
                found[lane] = int(rows[0][0]) if rows else 0
        return found

    def changed(self) -> int:
        """Return a number that differs when another process has committed since the last call; cheap."""
        rows = self._file.all("PRAGMA data_version")
        return int(rows[0][0]) if rows else -1

    def _expect_order(self, positions: Sequence[int], after: int) -> None:
        if not ascend(positions, after):
            raise Damaged(f"{self._file.path}: rows above {after} are out of their order", self._file.path)
