"""Which boots have met, as the gateway keeps it in `gateway.db` and the sync worker reads it there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from millrace.database import Connection, Viewer
from millrace.mending import Sighting, Tie, better, span_of

SCHEMA = """
CREATE TABLE tie (
    no INTEGER NOT NULL, origin TEXT, bootid TEXT, peer TEXT, peer_bootid TEXT, span INTEGER,
    low_ns INTEGER NOT NULL, peer_low_ns INTEGER NOT NULL, high_ns INTEGER NOT NULL, peer_high_ns INTEGER NOT NULL,
    PRIMARY KEY (origin, bootid, peer, peer_bootid, span)
) WITHOUT ROWID;
CREATE INDEX tie_by_no ON tie (no);
"""
KEPT_OF_AN_ORIGIN = 1000
"""At one for each span of six hours: 250 days of one boot."""

_SELECT = "SELECT low_ns, peer_low_ns, high_ns, peer_high_ns FROM tie"
_WHERE = " WHERE origin = ? AND bootid = ? AND peer = ? AND peer_bootid = ? AND span = ?"
_NEWS = (
    "SELECT no, origin, bootid, peer, peer_bootid, low_ns, peer_low_ns, high_ns, peer_high_ns FROM tie"
    " WHERE no > ? ORDER BY no LIMIT ?"
)


def note(connection: Connection, sighting: Sighting) -> None:
    """Keep what is news of a sighting, inside the present transaction; an origin's oldest make room."""
    key = (*sighting.mine, *sighting.theirs, span_of(sighting.tie))
    row = connection.execute(_SELECT + _WHERE, key).fetchone()
    tie = better(None if row is None else _tie(*row), sighting.tie)
    if tie is None:
        return
    connection.execute(
        "INSERT OR REPLACE INTO tie SELECT coalesce(max(no), 0) + 1, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM tie",
        (*key, *tie.low, *tie.high),
    )
    if row is None:
        connection.execute(
            "DELETE FROM tie WHERE origin = ?1 AND no <="
            " (SELECT no FROM tie WHERE origin = ?1 ORDER BY no DESC LIMIT 1 OFFSET ?2)",
            (sighting.mine[0], KEPT_OF_AN_ORIGIN),
        )


class TieReader:
    """The sync worker's view of them; read-only."""

    def __init__(self, path: Path) -> None:
        self._file = Viewer(path, "SELECT no FROM tie LIMIT 1")

    def after(self, no: int, max_rows: int) -> list[tuple[int, Sighting]]:
        """Return what was noted after number `no`, in order; none while the gateway keeps none."""
        return [(int(row[0]), _sighting(*row[1:])) for row in self._file.all(_NEWS, (no, max_rows))]

    def epoch(self) -> str:
        """Return the gateway's epoch, to which the numbers belong; empty while there is none."""
        rows = self._file.all("SELECT epoch FROM own_epoch ORDER BY number DESC LIMIT 1")
        return str(rows[0][0]) if rows else ""

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        self._file.close()


def _sighting(origin: Any, bootid: Any, peer: Any, peer_bootid: Any, *numbers: Any) -> Sighting:
    return Sighting((str(origin), str(bootid)), (str(peer), str(peer_bootid)), _tie(*numbers))


def _tie(low_ns: int, peer_low_ns: int, high_ns: int, peer_high_ns: int) -> Tie:
    return Tie((low_ns, peer_low_ns), (high_ns, peer_high_ns))
