"""What has been settled, on the sync worker's own disk: `sync.db`, written by it alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from millrace.database import Damaged, Database, set_aside
from millrace.outbox import Entry, Lane
from millrace.ranges import RangeSet
from millrace.settled import SCHEMA

log = logging.getLogger(__name__)

_STEPS = (
    SCHEMA
    + """
CREATE TABLE buried (
    epoch TEXT, position INTEGER, lane INTEGER NOT NULL, seq_epoch TEXT NOT NULL, seq INTEGER NOT NULL,
    reason TEXT NOT NULL, body BLOB NOT NULL, told INTEGER NOT NULL, PRIMARY KEY (epoch, position)
) WITHOUT ROWID;
""",
    "ALTER TABLE link ADD COLUMN said TEXT NOT NULL DEFAULT '';",
)


class Progress:
    """The account for one gateway. One thread uses it."""

    def __init__(self, path: Path) -> None:
        """Open or create it. Errors: Locked, NewerSchema, StorageFailed.

        A damaged one is set aside: everything is sent again, and the cloud knows what it has.
        """
        try:
            self._database = _open_sound(path)
        except Damaged as error:
            log.error("account_damaged error=%s kept=%s: all is sent again", error, set_aside(path))
            self._database = _open_sound(path)
        self._connection = self._database.connection
        self._settled: dict[tuple[str, Lane], RangeSet] = {}
        for epoch, lane, first, last in self._connection.execute("SELECT * FROM settled").fetchall():
            self.settled(epoch, Lane(lane)).add(first, last)

    def settled(self, epoch: str, lane: Lane) -> RangeSet:
        """Return what is settled in a lane for an epoch of the gateway."""
        return self._settled.setdefault((epoch, lane), RangeSet())

    def settle(self, epoch: str, lane: Lane, first: int, last: int, buried: Sequence[tuple[Entry, str]] = ()) -> None:
        """Note that the cloud has committed these positions, but for the buried ones, whose bytes are kept here."""
        after = RangeSet(self.settled(epoch, lane))
        after.add(first, last)
        with self._database.transaction():
            self._connection.execute("DELETE FROM settled WHERE epoch = ? AND lane = ?", (epoch, int(lane)))
            self._connection.executemany(
                "INSERT INTO settled VALUES (?, ?, ?, ?)", [(epoch, int(lane), low, high) for low, high in after]
            )
            self._connection.executemany(
                "INSERT OR REPLACE INTO buried VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
                [(epoch, e.position, int(lane), e.epoch, e.seq, reason[:500], e.body) for e, reason in buried],
            )
        self._settled[epoch, lane] = after

    def untold(self) -> list[tuple[str, int, bytes, str]]:
        """Return buried rows of which the cloud has not been told: (epoch, position, body, reason), 100 at most."""
        return self._connection.execute(
            "SELECT epoch, position, body, reason FROM buried WHERE told = 0 LIMIT 100"
        ).fetchall()

    def told(self, rows: Sequence[tuple[str, int, bytes, str]]) -> None:
        """Note that the cloud has been told of these."""
        with self._database.transaction():
            self._connection.executemany(
                "UPDATE buried SET told = 1 WHERE epoch = ? AND position = ?", [(row[0], row[1]) for row in rows]
            )

    def note_link(self, state: str, wall_ns: int, rows_per_s: float, said: str = "") -> None:
        """Write the link's state for those who read this file; `said` is what is wrong with it or with a lane."""
        with self._database.transaction():
            self._connection.execute(
                "UPDATE link SET since_wall_ns = CASE state WHEN ? THEN since_wall_ns ELSE ? END, state = ?,"
                " last_success_wall_ns = CASE ? WHEN 'up' THEN ? ELSE last_success_wall_ns END, rows_per_s = ?,"
                " said = ?",
                (state, wall_ns, state, state, wall_ns, rows_per_s, said[:500]),
            )

    def close(self) -> None:
        """Close the file and give the lock back."""
        self._database.close()


def _open_sound(path: Path) -> Database:
    database = Database(path, _STEPS)
    try:
        database.check()
    except Damaged:
        database.close()
        raise
    return database
