"""What the sync worker has settled: the shape of `sync.db`, and the gateway's read-only view of it.

Settled means that the cloud has committed it. The account belongs to one epoch of the gateway: positions settled for
another epoch purge nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from millrace.database import Damaged, Viewer
from millrace.entries import Lane
from millrace.ranges import RangeSet
from millrace.row_sums import is_believed

log = logging.getLogger(__name__)

SHOW_LIFE_EVERY_S = 10.0
_LANES = frozenset(lane.value for lane in Lane)  # a damaged row may say another; its owner's next start heals it
SILENT_AFTER_S = 180.0  # a batch over a bad link may hold the loop for its whole deadline

SETTLED_WIDTH = 4
"""How many columns a row of `settled` has before its checksum, which version 0.1.0 did not write."""
SCHEMA = """
CREATE TABLE settled (
    epoch TEXT, lane INTEGER, first INTEGER, last INTEGER NOT NULL, PRIMARY KEY (epoch, lane, first)
) WITHOUT ROWID;
CREATE TABLE link (one INTEGER PRIMARY KEY CHECK (one = 1), state TEXT NOT NULL, since_wall_ns INTEGER NOT NULL,
    last_success_wall_ns INTEGER, rows_per_s REAL NOT NULL);
INSERT INTO link VALUES (1, 'unknown', 0, NULL, 0);
"""


def life_file(path: Path) -> Path:
    """Return the file whose time of change the sync worker's loop moves every SHOW_LIFE_EVERY_S: the lock's."""
    return path.with_name(path.name + ".lock")


class SettledReader:
    """Reads `sync.db` of a sync worker beside us; a file that is absent or damaged has settled nothing."""

    def __init__(self, path: Path) -> None:
        self._file = Viewer(path, "SELECT one FROM link")
        self._is_damaged = False
        self._life: tuple[int, float] = (-1, 0.0)

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        self._file.close()

    def read(self, epoch: str) -> dict[Lane, RangeSet]:
        """Return what is settled in each lane for this epoch of the gateway."""
        settled: dict[Lane, RangeSet] = {}
        for row in self._all("SELECT * FROM settled WHERE epoch = ?", (epoch,)):
            if is_believed(row, SETTLED_WIDTH):  # a damaged row settles nothing; its owner's next start heals it
                _, lane, first, last = row[:SETTLED_WIDTH]
                with suppress(ValueError, TypeError):
                    settled.setdefault(Lane(lane), RangeSet()).add(first, last)
        return settled

    def highest(self, epoch: str) -> int:
        """Return the highest position settled for this epoch, 0 for none."""
        return max((ranges.last() or 0 for ranges in self.read(epoch).values()), default=0)

    def link(self) -> dict[str, object] | None:
        """Return the link's state as the sync worker last wrote it, or None without one.

        `said` is what is wrong with the link, or with a lane while the link is up; empty for nothing.
        """
        for _, state, since, success, rate, *said in self._all("SELECT * FROM link"):  # an older file has no `said`
            return {
                "state": state,
                "since_wall_ns": since,
                "last_success_wall_ns": success,
                "rows_per_s": rate,
                "said": said[0] if said else "",
            }
        return None

    def silent_s(self, now_s: float) -> float:
        """Return for how long, in the reader's own time, the worker's loop has shown no sign of life to this reader."""
        try:
            shown_ns = life_file(self._file.path).stat().st_mtime_ns
        except OSError:
            return 0.0  # there is no worker to be silent
        if shown_ns != self._life[0]:  # whatever the clock says: only that it changes counts
            self._life = (shown_ns, now_s)
        return now_s - self._life[1]

    def paused(self) -> list[Lane]:
        """Return the lanes that a person holds back."""
        rows = self._all("SELECT lane FROM paused") if self._has("paused") else []
        return [Lane(lane) for (lane,) in rows if lane in _LANES]

    def rates(self) -> dict[Lane, float]:
        """Return how many rows a second went up when each lane was last sent."""
        rows = self._all("SELECT lane, rows_per_s FROM rate") if self._has("rate") else []
        return {Lane(lane): float(rate) for lane, rate in rows if lane in _LANES and isinstance(rate, int | float)}

    def _has(self, table: str) -> bool:
        """Whether the worker's program is new enough to have made this table."""
        return bool(self._all("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)))

    def _all(self, sql: str, values: Sequence[int | str] = ()) -> list[tuple[Any, ...]]:
        try:
            rows = self._file.all(sql, values)
        except Damaged as error:  # its owner makes a new one
            if not self._is_damaged:
                log.error("account_damaged error=%s: nothing counts as settled", error)
            self._is_damaged = True
            return []
        self._is_damaged = False
        return rows
