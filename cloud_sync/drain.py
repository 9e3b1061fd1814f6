"""The drain: rows go up in batches until none is left, whatever the link does; no state needs a human.

It is level-triggered: each step looks at what waits and at what is settled, and remembers nothing that matters.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from cloud_sync.batches import Batch, Batches
from cloud_sync.drain_rate import DrainRate
from cloud_sync.lanes import WEIGHTS, Schedule
from cloud_sync.link import Link
from cloud_sync.news import Minted, MintedNews, Untold, burials
from cloud_sync.orders import PICTURE_GONE, lacks_picture
from cloud_sync.pace import Pace
from cloud_sync.parcel import Parcel, pack
from cloud_sync.progress import Buried, Progress
from cloud_sync.refusals import BurialCap, LaneState
from cloud_sync.settings import SyncSettings
from cloud_sync.submit import Answer, Cloud, LinkDown, Rejected, TooSlow, Unauthorized
from millrace import crashpoints, topics
from millrace.blobs import StorageFailed
from millrace.clock import Clock
from millrace.database import Damaged
from millrace.entries import Entry, Lane
from millrace.service import Beat
from millrace.settled import SHOW_LIFE_EVERY_S

log = logging.getLogger(__name__)

SAY_DOWN_EVERY_S = 60.0
UPLOADED_AT_MOST = 10_000
BLOB_MISSING = "blob missing"
DAMAGED_PAUSE_S = 1.0
SUSPECT_AFTER = 5
_Seen = tuple[int, frozenset[Lane]]
_NOT_LOOKED: _Seen = (-2, frozenset())


class Drain:
    """The loop that settles; an actor. `step` does one round, so that it can be driven by a test."""

    def __init__(self, settings: SyncSettings, progress: Progress, cloud: Cloud, link: Link, clock: Clock) -> None:
        self._settings, self._progress, self._cloud = settings, progress, cloud
        self._link, self._clock = link, clock
        self._batches = Batches(settings.state_dir, progress)
        self._disk = link.new_backoff()
        bury = settings.bury
        self._lanes = {
            lane: LaneState(BurialCap(bury.max_share, bury.min_rows, bury.window_rows), link.new_backoff())
            for lane in WEIGHTS
        }
        self._again = LaneState(BurialCap(1.0, bury.min_rows, bury.window_rows), link.new_backoff())
        self._rate = DrainRate()
        self._stop = threading.Event()
        self._origin = topics.origin_of(topics.gateway_source("x", settings.gateway))
        self._news = MintedNews()
        self._owed: _Settlement | None = None
        self._suspect: _Suspect | None = None
        self._lanes_first = False
        self._told: Untold = ()
        self._target_s = settings.cloud.request_deadline_s / 4
        self._moved_s = clock.uptime_s()
        self._said_down, self._said_down_s = "", float("-inf")
        self._refused_token, self._said_waiting = False, ""
        self._rows_per_s = 0.0
        self._shown_s = float("-inf")
        self.beat = Beat(clock)
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Forget all that a new process would not know, the connection too; the account stays."""
        self._cloud.close()
        self._batches.reader.close()
        self._schedule = Schedule(self._settings.batch.live_share)
        self._pace = Pace(self._settings.batch.max_rows, self._settings.batch.max_bytes, self._target_s)
        self._seen: _Seen = _NOT_LOOKED
        self._uploaded: set[str] = set()

    def run(self) -> None:
        """Drain until interrupted. A sign of life is a pause that is meant, or an answer of the cloud's own."""
        while not self._stop.is_set():
            self._show_life()
            pause_s = self.step(self._clock.uptime_s())
            if pause_s > 0:
                self.beat.beat()
                self._stop.wait(min(pause_s, 1.0))
        self._batches.reader.close()
        self._cloud.close()

    def interrupt(self) -> None:
        """End `run`."""
        self._stop.set()

    def _show_life(self) -> None:
        now_s = self._clock.uptime_s()
        if now_s - self._shown_s >= SHOW_LIFE_EVERY_S:
            self._shown_s = now_s
            self._progress.show_life()

    def step(self, now_s: float) -> float:
        """Send one batch if there is one and the link may be tried; return for how long to pause."""
        wait_s = max(self._link_wait_s(now_s), self._disk.wait_s(now_s))
        if wait_s > 0:
            return wait_s
        try:
            epochs = list(self._batches.reader.epochs())
            if not epochs:
                self._say_waiting("the gateway has not made it yet")
                return self._settings.poll_s
            if self._owed is not None:
                self._pay()
                self._came_through()
            self._watch(epochs[-1], now_s)
            return 0.0 if self._send_one(epochs[-1], now_s) else self._settings.poll_s
        except LinkDown as error:
            self._link_failed(error)
        except StorageFailed as error:
            self._disk_failed(error)
        except Damaged as error:
            if error.path != self._settings.state_dir / "gateway.db":
                raise
            self._say_waiting(f"{error}; the gateway's next start salvages it")
            self._batches.reader.close()
            return DAMAGED_PAUSE_S
        return max(0.0, self._link.wait_s(self._clock.uptime_s()), self._disk.wait_s(self._clock.uptime_s()))

    def _link_wait_s(self, now_s: float) -> float:
        wait_s = self._link.wait_s(now_s)
        if wait_s > 0 and self._refused_token and self._cloud.refresh_token():
            log.info("token_changed file=%s", self._settings.cloud.token_file)
            self._link.try_now()
            return 0.0
        return wait_s

    def _say_waiting(self, why: str) -> None:
        if why != self._said_waiting:
            self._said_waiting = why
            log.info("waiting_for file=%s: %s", self._settings.state_dir / "gateway.db", why)

    # --- one batch

    def _send_one(self, epoch: str, now_s: float) -> bool:
        """Send the next batch; return False if nothing waited."""
        if self._send_buried_again(now_s):
            return True
        seen = self._look()
        waiting = self._waiting(epoch, now_s) if seen != self._seen else {}
        lane = self._schedule.next_lane(waiting)
        if lane is None:
            is_held = any(state.held_because for state in self._lanes.values())
            self._seen = _NOT_LOOKED if is_held else seen
            self._tell_news()
            return False
        batch, state = waiting[lane], self._lanes[lane]
        if batch.more and not state.is_searched and not self._link.half_open and self._schedule.live_turn():
            live = self._batches.newest(epoch, lane, self._pace.rows, self._pace.bytes)
            batch = live if live.rows else batch
        try:
            self._submit(epoch, batch)
        except TooSlow as error:
            self._pace.given_up(len(batch.rows), batch.size_bytes)
            if len(batch.rows) == 1:
                state.hold(now_s, f"one row of {batch.size_bytes} bytes does not get through: {error}")
            raise
        except LinkDown as error:
            times = self._suspect.times + 1 if self._suspect is not None and self._suspect.lane is lane else 1
            self._suspect = _Suspect(lane, str(error), times)
            raise
        return True

    def _look(self) -> _Seen:
        """Return what differs when there may be news: what the gateway committed, and what is paused."""
        return self._batches.reader.changed(), self._progress.paused

    def _waiting(self, epoch: str, now_s: float) -> dict[Lane, Batch]:
        """Return the oldest rows of each lane that may go; while the link is only tried, one row, and no picture."""
        most = 1 if self._link.half_open else self._pace.rows
        found = {}
        for lane, state in self._lanes.items():
            if state.wait_s(now_s) > 0 or lane in self._progress.paused:
                continue
            batch = self._batches.oldest(epoch, lane, state.most_rows(most), self._pace.bytes)
            if batch.rows:
                found[lane] = batch
        suspect = self._suspect
        if self._link.half_open and len(found) > 1 and suspect is not None and suspect.times >= SUSPECT_AFTER:
            found.pop(suspect.lane, None)  # it may be to blame, and not the link: another may get through
        if self._link.half_open and len(found) > 1:
            found.pop(Lane.FRAME, None)
        return found

    def _submit(self, epoch: str, batch: Batch) -> None:
        """Have a batch committed and settle it, or note what stands against that. Errors: LinkDown, StorageFailed."""
        begun_s, state = self._clock.uptime_s(), self._lanes[batch.lane]
        crashpoints.reached("sync.picked")
        parcel = pack(
            batch.rows, self._batches, self._upload, lambda: self._clock.uptime_s() - begun_s > self._target_s
        )
        try:
            refused = parcel.refused + self._commit_rows(parcel)
        except Rejected:
            state.refused(len(parcel.sent))
            return
        crashpoints.reached("sync.answered")
        if missing := [reason for _, reason in refused if reason.startswith(BLOB_MISSING)]:
            self._uploaded.clear()
            self._hold(batch.lane, f"the cloud asks again for a picture: {missing[0]}")
            return
        if not state.cap.allows(len(parcel.rows), len(refused)):
            self._hold(
                batch.lane,
                f"{len(refused)} of {len(parcel.rows)} rows refused, too many to bury: {refused[0][1][:200]}",
            )
            return
        self._settle(batch, parcel, epoch, refused)
        self._clear_suspicion(batch.lane)
        crashpoints.reached("sync.settled")
        state.settled(len(parcel.rows), len(refused), self._settings.batch.max_rows)
        spent_s = max(1e-3, self._clock.uptime_s() - begun_s)
        self._rate.note(batch.lane, len(parcel.rows), spent_s)
        self._pace.done(len(parcel.rows), batch.size_bytes * len(parcel.rows) // len(batch.rows), spent_s)
        self._rows_per_s += 0.3 * (len(parcel.rows) / spent_s - self._rows_per_s)
        self._came_through()
        log.debug("batch_settled lane=%s rows=%d", batch.lane.name, len(parcel.rows))

    def _clear_suspicion(self, lane: Lane) -> None:
        """Leave alone the lane that failed before, now that another got through: it is to blame, not the link."""
        if self._suspect is not None and self._suspect.lane is not lane:
            self._lanes[self._suspect.lane].hold(self._clock.uptime_s(), f"others get through: {self._suspect.why}")
        self._suspect = None

    def _send_buried_again(self, now_s: float) -> bool:
        """Send buried rows that somebody asked for once more; return False if there are none.

        Errors: LinkDown, StorageFailed.
        """
        if self._again.wait_s(now_s) > 0 or self._lanes_first:
            self._lanes_first = False
            return False
        rows = self._progress.waiting_again(self._again.most_rows(1 if self._link.half_open else self._pace.rows))
        going = [row for row in rows if not lacks_picture(row, self._batches.blobs)]
        self._progress.sent_again({row: PICTURE_GONE for row in rows if row not in going}, self._clock.now().wall_ns)
        if going:
            try:
                self._submit_again(going)
            except LinkDown as error:
                if isinstance(error, TooSlow):
                    self._pace.given_up(len(going), sum(len(row.body) for row in going))
                self._again.hold(now_s, str(error))
                self._lanes_first = True
                raise
        return bool(rows)

    def _submit_again(self, rows: list[Buried]) -> None:
        begun_s = self._clock.uptime_s()
        entries = [row.entry() for row in rows]
        parcel = pack(entries, self._batches, self._upload, lambda: self._clock.uptime_s() - begun_s > self._target_s)
        try:
            refused = parcel.refused + self._commit_rows(parcel)
        except Rejected:
            self._again.refused(len(parcel.sent))
            return
        if missing := [reason for _, reason in refused if reason.startswith(BLOB_MISSING)]:
            self._again.hold(begun_s, missing[0])
            return
        reasons = {entries.index(entry): reason for entry, reason in parcel.lost + refused}
        outcome = {row: reasons.get(index) for index, row in enumerate(rows[: len(parcel.rows)])}
        self._progress.sent_again(outcome, self._clock.now().wall_ns)
        self._again.settled(len(outcome), 0, self._settings.batch.max_rows)
        self._moved_s = self._clock.uptime_s()
        log.info("buried_sent_again rows=%d refused=%d", len(outcome), len(reasons))
        self._came_through()

    def _upload(self, sha256: str, picture: bytes) -> None:
        """Upload a picture, once for all tries of its batch: a link that fails often gets on by one at a time."""
        if sha256 in self._uploaded:
            return
        self._cloud.upload(sha256, picture)
        if len(self._uploaded) > UPLOADED_AT_MOST:
            self._uploaded.clear()
        self._uploaded.add(sha256)
        crashpoints.reached("sync.uploaded")
        self.beat.beat()

    def _commit_rows(self, parcel: Parcel) -> list[tuple[Entry, str]]:
        """Have the parcel's rows committed; return the refused ones.

        A single row whose request is refused as such is one of them. Errors: Rejected for several rows, LinkDown.
        """
        if not parcel.sent:
            if parcel.refused:
                self._make_sure_it_is_the_row()
            return []
        try:
            answer = self._commit(parcel.bodies)
        except Rejected as error:
            if len(parcel.sent) > 1:
                raise
            self._make_sure_it_is_the_row()
            return [(parcel.sent[0], str(error))]
        return [(parcel.sent[index], reason) for index, reason in answer.rejected.items()]

    def _commit(self, bodies: list[bytes]) -> Answer:
        """Have rows committed, with what else is to be told. Errors: Rejected, LinkDown."""
        untold = self._progress.untold()
        minted = self._minted_news()
        answer = self._cloud.submit(bodies, minted, burials(untold, self._origin, self._known_minted()))
        self.beat.beat()
        self._news.told(minted)
        self._told = untold
        return answer

    def _make_sure_it_is_the_row(self) -> None:
        """Raise LinkDown unless the cloud commits the same request without the row: only then is the row to blame."""
        try:
            self._commit([])
        except Rejected as error:
            raise LinkDown(f"every request is refused, whatever is in it: {error}; check gateway and url") from None

    def _tell_news(self) -> None:
        """With nothing else to send, tell how far everyone has minted and what was buried, if that is news."""
        if not self._minted_news() and not self._progress.untold() and not self._cloud.has_news():
            return
        try:
            self._commit([])
        except Rejected as error:
            raise LinkDown(f"the cloud does not take the account of what was minted: {error}") from None
        self._pay()
        self._came_through()

    def _minted_news(self) -> dict[str, dict[str, int]]:
        return self._news.among(self._known_minted())

    def _known_minted(self) -> Minted:
        reader = self._batches.reader
        return {**reader.minted(), self._origin: reader.epochs()}

    # --- the account

    def _settle(self, batch: Batch, parcel: Parcel, epoch: str, refused: list[tuple[Entry, str]]) -> None:
        """Settle what the cloud has committed; while the disk refuses, it is owed and nothing else is sent."""
        buried = parcel.lost + refused
        for row, reason in buried:
            log.error("row_buried position=%d seq=%s-%d reason=%r", row.position, row.epoch, row.seq, reason)
        self._owed = _Settlement(epoch, batch.lane, batch.first, parcel.rows[-1].position, buried)
        self._pay()

    def _pay(self) -> None:
        """Write what the cloud has committed and the account does not hold yet. Errors: StorageFailed."""
        if self._owed is not None:
            owed = self._owed
            self._progress.settle(owed.epoch, owed.lane, owed.first, owed.last, owed.buried, self._clock.now().wall_ns)
            self._owed = None
            self._moved_s = self._clock.uptime_s()
        if self._told:
            self._progress.told(self._told)
            self._told = ()

    def _disk_failed(self, error: StorageFailed) -> None:
        self._disk.failed(self._clock.uptime_s())
        log.error("account_not_written tries=%d error=%s: nothing is sent until it can be", self._disk.failures, error)

    def _note_link(self, state: str, said: str) -> None:
        try:
            self._progress.note_link(state, self._clock.now().wall_ns, self._rows_per_s, said, self._rate.rates())
        except StorageFailed as error:
            self._disk_failed(error)
        else:
            if self._disk.failures:
                log.info("account_written tries=%d", self._disk.failures)
                self._disk.succeeded()

    # --- the link

    def _hold(self, lane: Lane, why: str) -> None:
        """Leave a lane alone for a while, say so, and let the others go on."""
        self._moved_s = self._clock.uptime_s()
        self._lanes[lane].hold(self._moved_s, why)
        log.error("lane_held lane=%s error=%s; nothing is lost, it is tried again", lane.name, why)
        self._came_through()

    def _came_through(self) -> None:
        if self._link.committed():
            log.info("link_up url=%s", self._settings.cloud.url)
        self._said_down, self._refused_token = "", False
        held = [f"{lane.name.lower()} held: {s.held_because}" for lane, s in self._lanes.items() if s.held_because]
        self._note_link("up", "; ".join(held))

    def _link_failed(self, error: LinkDown) -> None:
        now_s = self._clock.uptime_s()
        went_down = self._link.failed(now_s, error.retry_after_s)
        self._refused_token = isinstance(error, Unauthorized)
        if went_down or str(error) != self._said_down or now_s - self._said_down_s > SAY_DOWN_EVERY_S:
            self._said_down, self._said_down_s = str(error), now_s
            level = logging.ERROR if self._refused_token else logging.WARNING
            log.log(level, "link_down url=%s tries=%d error=%s", self._settings.cloud.url, self._link.failures, error)
        self._seen = _NOT_LOOKED
        self._note_link("down", str(error))

    def _watch(self, epoch: str, now_s: float) -> None:
        """Begin anew if there is a backlog, the link claims to be up and nothing was settled for too long."""
        if self._link.state != "up" or now_s - self._moved_s < self._settings.retry.stuck_after_s:
            return
        self._moved_s = now_s
        stuck = [
            lane.name
            for lane, state in self._lanes.items()
            if not state.held_because
            and lane not in self._progress.paused
            and self._batches.oldest(epoch, lane, 1, 1).rows
        ]
        if stuck and self._look() in (self._seen, _NOT_LOOKED):
            log.error(
                "drain_stuck lanes=%s after_s=%g: begun anew", ",".join(stuck), self._settings.retry.stuck_after_s
            )
            self._begin_anew()


@dataclass(frozen=True, slots=True)
class _Settlement:
    """What the cloud has committed and the account must hold."""

    epoch: str
    lane: Lane
    first: int
    last: int
    buried: list[tuple[Entry, str]]


@dataclass(frozen=True, slots=True)
class _Suspect:
    """The lane whose request was the last to fail, why, and how many of its requests in a row."""

    lane: Lane
    why: str
    times: int
