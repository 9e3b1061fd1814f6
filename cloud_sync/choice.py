"""Which batch goes next: the oldest rows of the lane whose turn it is, at times the newest; a lane to blame waits.

While the link is up the pictures of a batch of frames go up beside the other lanes' batches; it has its turn once they
are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cloud_sync.batches import Batch, Batches
from cloud_sync.lanes import Schedule
from cloud_sync.link import Link
from cloud_sync.pace import Pace
from cloud_sync.progress import Progress
from cloud_sync.refusals import LaneState
from cloud_sync.sender import Load, Sender
from millrace.clock import Clock
from millrace.entries import Lane

SUSPECT_AFTER = 5
_Seen = tuple[int, frozenset[Lane]]
_NOT_LOOKED: _Seen = (-2, frozenset())


@dataclass(frozen=True, slots=True)
class Turn:
    """A batch that goes next, and its rows as they are loaded."""

    batch: Batch
    load: Load


@dataclass(frozen=True, slots=True)
class _Suspect:
    """The lane whose request was the last to fail, why, and how many of its requests in a row."""

    lane: Lane
    why: str
    times: int


class Choice:
    """Looks at what waits, again only when there may be news, and hears how each batch fared."""

    def __init__(
        self,
        batches: Batches,
        progress: Progress,
        link: Link,
        lanes: Mapping[Lane, LaneState],
        pace: Pace,
        sender: Sender,
        clock: Clock,
        *,
        live_share: float,
    ) -> None:
        self._batches, self._progress, self._link, self._sender = batches, progress, link, sender
        self._lanes, self._pace, self._clock, self._live_share = lanes, pace, clock, live_share
        self._suspect: _Suspect | None = None
        self._frames: Turn | None = None
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget whose turn it is and what was seen; whom the last failure points at stays known."""
        self._schedule = Schedule(self._live_share)
        self.look_again()

    def look_again(self) -> None:
        """Have the next call look at what waits, news or not; begin to upload no more pictures before it."""
        self._seen = _NOT_LOOKED
        self._drop_frames()

    @property
    def loading(self) -> Load | None:
        """The frames whose pictures go up beside the other lanes."""
        return None if self._frames is None else self._frames.load

    def next(self, epoch: str, now_s: float) -> Turn | None:
        """Return what goes next, or None if nothing waits but for its pictures. Errors: StorageFailed."""
        if self._frames is not None and self._frames.load.shipment.failed is not None:
            return self._take_frames()  # out of turn: how the link is concerns all
        seen = self._look()
        waiting = self._waiting(epoch, now_s) if seen != self._seen or self._has_frames() else {}
        lane = self._schedule.next_lane(waiting)
        if lane is None:
            is_held = any(state.held_because for state in self._lanes.values())
            self._seen = _NOT_LOOKED if is_held else seen
            return None
        if lane is Lane.FRAME and self._frames is not None:
            return self._take_frames()
        batch = self._or_newest(epoch, waiting[lane])
        return Turn(batch, self._sender.load(batch.rows))

    def _has_frames(self) -> bool:
        """Whether frames are loaded."""
        return self._frames is not None and self._sender.is_loaded(self._frames.load)

    def _take_frames(self) -> Turn:
        """Give the loaded frames out; those behind them are looked for again."""
        assert self._frames is not None
        turn, self._frames, self._seen = self._frames, None, _NOT_LOOKED
        return turn

    def _or_newest(self, epoch: str, batch: Batch) -> Batch:
        """Return the batch, or at times the lane's newest rows where it has more."""
        is_searched = self._lanes[batch.lane].is_searched
        if batch.more and not is_searched and not self._link.half_open and self._schedule.live_turn():
            live = self._batches.newest(epoch, batch.lane, self._pace.rows, self._pace.bytes)
            return live if live.rows else batch
        return batch

    def failed(self, lane: Lane, why: str) -> None:
        """Take note that a lane's request got no answer."""
        times = self._suspect.times + 1 if self._suspect is not None and self._suspect.lane is lane else 1
        self._suspect = _Suspect(lane, why, times)

    def came_through(self, lane: Lane) -> None:
        """Leave alone the lane that failed before, now that another got through: it is to blame, not the link."""
        if self._suspect is not None and self._suspect.lane is not lane:
            self._lanes[self._suspect.lane].hold(self._clock.uptime_s(), f"others get through: {self._suspect.why}")
        self._suspect = None

    def overslept(self, epoch: str) -> list[str]:
        """Return the names of lanes that may go and have rows although all was looked at. Errors: StorageFailed."""
        stuck = [
            lane.name
            for lane, state in self._lanes.items()
            if not state.held_because
            and lane not in self._progress.paused
            and self._batches.oldest(epoch, lane, 1, 1).rows
        ]
        return stuck if stuck and self._look() == self._seen else []

    def _look(self) -> _Seen:
        """Return what differs when there may be news: what the gateway committed, and what is paused."""
        return self._batches.reader.changed(), self._progress.paused

    def _waiting(self, epoch: str, now_s: float) -> dict[Lane, Batch]:
        """Return the oldest rows of each lane that may go; while the link is only tried, one row, and no picture."""
        most = 1 if self._link.half_open else self._pace.rows
        found: dict[Lane, Batch] = {}
        for lane, state in self._lanes.items():
            if state.wait_s(now_s) > 0 or lane in self._progress.paused:
                continue
            if lane is Lane.FRAME and self._frames is not None:
                found[lane] = self._frames.batch
                continue
            batch = self._batches.oldest(epoch, lane, state.most_rows(most), self._pace.bytes)
            if batch.rows:
                found[lane] = batch
        suspect = self._suspect
        if self._link.half_open and len(found) > 1 and suspect is not None and suspect.times >= SUSPECT_AFTER:
            found.pop(suspect.lane, None)  # it may be to blame, and not the link: another may get through
        if self._link.half_open and len(found) > 1:
            found.pop(Lane.FRAME, None)
        self._load_frames(epoch, found)
        return found

    def _load_frames(self, epoch: str, found: dict[Lane, Batch]) -> None:
        """While the link is up, take frames out of what may go until their pictures are there."""
        if Lane.FRAME not in found:
            self._drop_frames()
        elif self._link.state == "up":
            if self._frames is None:
                batch = self._or_newest(epoch, found[Lane.FRAME])
                self._frames = Turn(batch, self._sender.load(batch.rows))
            if not self._has_frames():
                del found[Lane.FRAME]

    def _drop_frames(self) -> None:
        if self._frames is not None:
            self._sender.unload(self._frames.load)
            self._frames = None
