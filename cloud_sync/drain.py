"""The drain: rows go up in batches until none is left, whatever the link does; no state needs a human.

It is level-triggered: each step looks at what waits and at what is settled, and remembers nothing that matters.
"""

from __future__ import annotations

import logging
import threading

from cloud_sync.batches import Batches
from cloud_sync.buried_again import BuriedAgain
from cloud_sync.choice import Choice, Turn
from cloud_sync.damage import DamageMet
from cloud_sync.debt import Debt
from cloud_sync.lanes import WEIGHTS
from cloud_sync.link import Link
from cloud_sync.link_report import LinkReport
from cloud_sync.pace import Pace
from cloud_sync.progress import Progress
from cloud_sync.refusals import BurialCap, LaneState
from cloud_sync.sender import Sender, picture_missing
from cloud_sync.settings import SyncSettings
from cloud_sync.submit import Cloud, LinkDown, Rejected, TooSlow
from millrace import crashpoints, topics
from millrace.blobs import StorageFailed
from millrace.clock import Clock
from millrace.database import Damaged
from millrace.entries import Lane
from millrace.service import Beat
from millrace.settled import SHOW_LIFE_EVERY_S

log = logging.getLogger(__name__)

DAMAGED_PAUSE_S = 1.0


class Drain:
    """The loop that settles; an actor. `step` does one round, so that it can be driven by a test."""

    def __init__(self, settings: SyncSettings, progress: Progress, cloud: Cloud, link: Link, clock: Clock) -> None:
        self._settings, self._progress, self._cloud = settings, progress, cloud
        self._link, self._clock = link, clock
        self.beat = Beat(clock)
        self._stop = threading.Event()
        bury, batch = settings.bury, settings.batch
        target_s = settings.cloud.request_deadline_s / 4
        self._lanes = {
            lane: LaneState(
                BurialCap(bury.max_share, bury.min_rows, bury.window_rows, progress.burials(lane)), link.new_backoff()
            )
            for lane in WEIGHTS
        }
        again = LaneState(BurialCap(1.0, bury.min_rows, bury.window_rows), link.new_backoff())
        self._batches = Batches(settings.state_dir, progress)
        self._pace = Pace(batch.max_rows, batch.max_bytes, target_s)
        self._debt = Debt(progress, link.new_backoff(), clock)
        self._report = LinkReport(settings.cloud.url, link, self._lanes, self._debt, clock)
        self._sender = Sender(
            cloud,
            self._batches,
            progress,
            self._debt,
            self.beat,
            clock,
            origin=topics.origin_of(topics.gateway_source("x", settings.gateway)),
            target_s=target_s,
            uploads=settings.cloud.uploads,
        )
        self._choice = Choice(
            self._batches, progress, link, self._lanes, self._pace, self._sender, clock, live_share=batch.live_share
        )
        self._again = BuriedAgain(
            self._batches,
            progress,
            self._sender,
            self._debt,
            self._report,
            link,
            self._pace,
            again,
            clock,
            max_rows=batch.max_rows,
        )
        self._said_waiting = ""
        self._damage = DamageMet(settings.state_dir / "gateway.db")
        self._shown_s = float("-inf")
        self._settled_s = float("-inf")

    def _begin_anew(self) -> None:
        """Forget all that a new process would not know, the connection too; the account stays."""
        self._cloud.close()
        self._batches.close()
        self._choice.begin_anew()
        self._pace.begin_anew()
        self._sender.uploads.forget()

    def run(self) -> None:
        """Drain until interrupted. A sign of life is a pause that is meant, or an answer of the cloud's own."""
        self._sender.uploads.start()
        while not self._stop.is_set():
            self._show_life()
            pause_s = self.step(self._clock.uptime_s())
            if pause_s > 0:
                self.beat.beat()
                self._stop.wait(min(pause_s, 1.0))
        self._sender.uploads.close()
        self._batches.close()
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
        wait_s = max(self._link_wait_s(now_s), self._debt.wait_s(now_s))
        if wait_s > 0:
            return wait_s
        try:
            epochs = list(self._batches.reader.epochs())
            if not epochs:
                self._say_waiting("the gateway has not made it yet")
                return self._settings.poll_s
            if self._debt.is_owed:
                self._debt.pay()
                self._report.came_through()
            self._watch(epochs[-1], now_s)
            pause_s = 0.0 if self._send_one(epochs[-1], now_s) else self._settings.poll_s
            self._damage.none()
            return pause_s
        except LinkDown as error:
            self._choice.look_again()
            self._report.failed(error)
        except StorageFailed as error:
            self._choice.look_again()
            self._debt.disk_failed(error)
        except Damaged as error:
            self._choice.look_again()
            waited_for = self._damage.ask_for_healing(error)
            self._batches.close()
            self._say_waiting(f"{error}; {waited_for}")
            return DAMAGED_PAUSE_S
        return max(0.0, self._link.wait_s(self._clock.uptime_s()), self._debt.wait_s(self._clock.uptime_s()))

    def _link_wait_s(self, now_s: float) -> float:
        wait_s = self._link.wait_s(now_s)
        if wait_s > 0 and self._report.token_refused and self._cloud.refresh_token():
            log.info("token_changed file=%s", self._settings.cloud.token_file)
            self._link.try_now()
            return 0.0
        return wait_s

    def _say_waiting(self, why: str) -> None:
        if why != self._said_waiting:
            self._said_waiting = why
            log.info("waiting_for file=%s: %s", self._settings.state_dir / "gateway.db", why)

    def _send_one(self, epoch: str, now_s: float) -> bool:
        """Send the next batch; return False if nothing waited. Errors: LinkDown, StorageFailed."""
        if self._again.send(now_s):
            return True
        turn = self._next(epoch, now_s)
        if turn is None:
            if self._sender.tell_news():
                self._debt.pay()
                self._report.came_through()
            return False
        batch = turn.batch
        try:
            self._submit(epoch, turn)
        except TooSlow as error:
            self._pace.given_up(len(batch.rows), batch.size_bytes)
            if len(batch.rows) == 1:
                why = f"one row of {batch.size_bytes} bytes does not get through: {error}"
                self._lanes[batch.lane].hold(self._clock.uptime_s(), why)
            raise
        except LinkDown as error:
            self._choice.failed(batch.lane, str(error))
            raise
        return True

    def _next(self, epoch: str, now_s: float) -> Turn | None:
        """Return what goes next, or None if nothing waits; wait for pictures while nothing else does."""
        while (turn := self._choice.next(epoch, now_s)) is None and (loading := self._choice.loading) is not None:
            if self._stop.is_set():
                return None
            self._sender.wait(loading)
            now_s = self._clock.uptime_s()
        return turn

    def _submit(self, epoch: str, turn: Turn) -> None:
        """Have a batch committed and settle it, or note what stands against that. Errors: LinkDown, StorageFailed."""
        batch, state = turn.batch, self._lanes[turn.batch.lane]
        crashpoints.reached("sync.picked")
        parcel = self._sender.pack(turn.load)
        try:
            refused = self._sender.commit(parcel)
        except Rejected:
            state.refused(len(parcel.sent))
            return
        crashpoints.reached("sync.answered")
        if missing := picture_missing(refused):
            self._sender.uploads.forget()
            self._hold(batch.lane, f"the cloud asks again for a picture: {missing}")
            return
        if not state.cap.allows(len(parcel.rows), len(refused)):
            self._hold(
                batch.lane,
                f"{len(refused)} of {len(parcel.rows)} rows refused, too many to bury: {refused[0][1][:200]}",
            )
            return
        self._debt.settle(epoch, batch, parcel, refused, state.cap.after(len(parcel.rows), len(refused)))
        crashpoints.reached("sync.settled")
        state.settled(len(parcel.rows), len(refused), self._settings.batch.max_rows)
        if not parcel.sent and not parcel.refused:
            return  # all of it is lost here: the cloud was not asked, so this says nothing of the link
        self._choice.came_through(batch.lane)
        self._note_settled(turn, len(parcel.rows))
        self._report.came_through()
        log.debug("batch_settled lane=%s rows=%d", batch.lane.name, len(parcel.rows))

    def _note_settled(self, turn: Turn, rows: int) -> None:
        """Take note of how long a batch took; what lanes did side by side counts once in the drain's rate."""
        batch, begun_s, now_s = turn.batch, turn.load.begun_s, self._clock.uptime_s()
        self._report.settled(batch.lane, rows, max(1e-3, now_s - max(begun_s, self._settled_s)))
        self._pace.done(rows, batch.size_bytes * rows // len(batch.rows), max(1e-3, now_s - begun_s))
        self._settled_s = now_s

    def _hold(self, lane: Lane, why: str) -> None:
        """Leave a lane alone for a while, say so, and let the others go on."""
        self._lanes[lane].hold(self._debt.moved(), why)
        log.error("lane_held lane=%s error=%s; nothing is lost, it is tried again", lane.name, why)
        self._report.came_through()

    def _watch(self, epoch: str, now_s: float) -> None:
        """Begin anew if there is a backlog, the link claims to be up and nothing was settled for too long."""
        if self._link.state != "up" or now_s - self._debt.moved_s < self._settings.retry.stuck_after_s:
            return
        self._debt.moved_s = now_s
        stuck = self._choice.overslept(epoch)
        if stuck:
            log.error(
                "drain_stuck lanes=%s after_s=%g: begun anew", ",".join(stuck), self._settings.retry.stuck_after_s
            )
            self._begin_anew()
