"""What waits for the cloud, as another program of the same user sees it; reads are short and change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cloud_sync.drain_rate import eta_s
from cloud_sync.lanes import WEIGHTS, oldest_unsettled
from cloud_sync.progress import SELECT_BURIED, Buried, read_buried
from millrace import clock, jsontext
from millrace.database import Viewer
from millrace.entries import Entry, Lane
from millrace.outbox_reader import Reader
from millrace.ranges import RangeSet
from millrace.settled import SettledReader

AT_ONCE_SIZES = 10_000
AT_ONCE_ROWS = 500


@dataclass(frozen=True, slots=True)
class LaneState:
    """A lane's backlog: `oldest_wall_ns` is when its first event was captured; what nobody knows is None."""

    rows: int
    bytes: int
    oldest_wall_ns: int | None
    rows_per_s: float | None
    done_in_s: float | None
    paused: bool


@dataclass(frozen=True, slots=True)
class LinkState:
    """What the sync worker wrote last: `state` (up, down, unknown) since when, and what is wrong, with it or a lane."""

    state: str
    since_wall_ns: int
    last_success_wall_ns: int | None
    reason: str


class Waiting:
    """A view of one gateway's backlog and its sync worker's account."""

    def __init__(self, state_dir: Path) -> None:
        self.reader = Reader(state_dir / "gateway.db")
        self._settled = SettledReader(state_dir / "sync.db")
        self._account = Viewer(state_dir / "sync.db", "SELECT one FROM link")
        epochs = list(self.reader.epochs())
        self._done = self._settled.read(epochs[-1]) if epochs else {}
        self.is_there = bool(epochs)

    def close(self) -> None:
        """Close what is read."""
        self.reader.close()
        self._account.close()
        self._settled.close()

    def link(self) -> LinkState:
        """Return the link's state as it was last written."""
        found = self._settled.link()
        if found is None:
            return LinkState("unknown", 0, None, "")
        success = found["last_success_wall_ns"]
        return LinkState(
            str(found["state"]),
            int(str(found["since_wall_ns"])),
            None if success is None else int(str(success)),
            str(found["said"]),
        )

    def lanes(self, *, is_running: bool) -> dict[Lane, LaneState]:
        """Return each lane's backlog; when it is done is said only while a worker runs and its link is up."""
        paused, rates = self._settled.paused(), self._settled.rates()
        moves = is_running and self.link().state == "up"
        found = {}
        for lane in WEIGHTS:
            rows, size_bytes = self._count(lane)
            oldest = next(self.entries(lane), None) if rows else None
            done_in_s = eta_s(rows, rates.get(lane), moves=moves and lane not in paused)
            found[lane] = LaneState(
                rows, size_bytes, _captured_ns(oldest), rates.get(lane), done_in_s, paused=lane in paused
            )
        return found

    def entries(self, lane: Lane) -> Iterator[Entry]:
        """Yield the rows of a lane that wait, oldest first, read a bounded part at a time."""
        settled = self._done.get(lane, RangeSet())
        after = oldest_unsettled(settled)
        while rows := self.reader.read(lane, after, AT_ONCE_ROWS):
            yield from (row for row in rows if row.position not in settled)
            after = rows[-1].position

    def buried(self, epoch: str, position: int, max_rows: int) -> list[Buried]:
        """Return buried rows behind one of them, in order; what an older program wrote lacks `blob` and when."""
        columns = {row[1] for row in self._account.all("PRAGMA table_info(buried)")}
        sql = (
            SELECT_BURIED
            if "again" in columns
            else SELECT_BURIED.replace("blob, buried_wall_ns, again", "NULL, NULL, 0")
        )
        return read_buried(self._account.all(f"{sql} ORDER BY epoch, position LIMIT ?", (epoch, position, max_rows)))

    def buried_rows(self) -> int:
        """Return how many rows are buried."""
        rows = self._account.all("SELECT count(*) FROM buried")
        return int(rows[0][0]) if rows else 0

    def _count(self, lane: Lane) -> tuple[int, int]:
        settled = self._done.get(lane, RangeSet())
        after, rows, size_bytes = oldest_unsettled(settled), 0, 0
        while part := self.reader.sizes(lane, after, AT_ONCE_SIZES):
            sizes = [size for position, size in part if position not in settled]
            rows, size_bytes, after = rows + len(sizes), size_bytes + sum(sizes), part[-1][0]
        return rows, size_bytes


def _captured_ns(row: Entry | None) -> int | None:
    """Return when an event was captured, by its device's clock; None if that cannot be read."""
    if row is None or not row.intact:
        return None
    try:
        event = jsontext.parse(row.body, len(row.body))
        return clock.parse_rfc3339(str(event["time"])) if isinstance(event, dict) else None
    except (ValueError, KeyError):
        return None
