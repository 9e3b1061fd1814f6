"""Buried rows that somebody asked for once more: they go up beside the lanes, and starve none when they fail."""

from __future__ import annotations

import logging

from cloud_sync.batches import Batches
from cloud_sync.debt import Debt
from cloud_sync.link import Link
from cloud_sync.link_report import LinkReport
from cloud_sync.orders import PICTURE_GONE, lacks_picture
from cloud_sync.pace import Pace
from cloud_sync.progress import Buried, Progress
from cloud_sync.refusals import LaneState
from cloud_sync.sender import Sender, picture_missing
from cloud_sync.submit import LinkDown, Rejected, TooSlow
from millrace.clock import Clock

log = logging.getLogger(__name__)


class BuriedAgain:
    """Sends them, a batch at a call."""

    def __init__(
        self,
        batches: Batches,
        progress: Progress,
        sender: Sender,
        debt: Debt,
        report: LinkReport,
        link: Link,
        pace: Pace,
        state: LaneState,
        clock: Clock,
        *,
        max_rows: int,
    ) -> None:
        """`max_rows` is the size of a full batch."""
        self._batches, self._progress, self._sender, self._debt = batches, progress, sender, debt
        self._report, self._link, self._pace, self._state = report, link, pace, state
        self._clock, self._max_rows = clock, max_rows
        self._lanes_first = False

    def send(self, now_s: float) -> bool:
        """Send some; return False if there are none, or if it is the lanes' turn.

        Errors: LinkDown, StorageFailed.
        """
        if self._state.wait_s(now_s) > 0 or self._lanes_first:
            self._lanes_first = False
            return False
        rows = self._progress.waiting_again(self._state.most_rows(1 if self._link.half_open else self._pace.rows))
        going = [row for row in rows if not lacks_picture(row, self._batches.blobs)]
        self._progress.sent_again({row: PICTURE_GONE for row in rows if row not in going}, self._clock.now().wall_ns)
        if going:
            try:
                self._submit(going)
            except LinkDown as error:
                if isinstance(error, TooSlow):
                    self._pace.given_up(len(going), sum(len(row.body) for row in going))
                self._state.hold(self._clock.uptime_s(), str(error))
                self._lanes_first = True
                raise
        return bool(rows)

    def _submit(self, rows: list[Buried]) -> None:
        entries = [row.entry() for row in rows]
        parcel = self._sender.pack(self._sender.load(entries))
        try:
            refused = self._sender.commit(parcel)
        except Rejected:
            self._state.refused(len(parcel.sent))
            return
        if missing := picture_missing(refused):
            self._sender.uploads.forget()
            self._state.hold(self._clock.uptime_s(), missing)
            return
        reasons = {entries.index(entry): reason for entry, reason in parcel.lost + refused}
        outcome = {row: reasons.get(index) for index, row in enumerate(rows[: len(parcel.rows)])}
        self._progress.sent_again(outcome, self._clock.now().wall_ns)
        self._state.settled(len(outcome), 0, self._max_rows)
        self._debt.moved()
        log.info("buried_sent_again rows=%d refused=%d", len(outcome), len(reasons))
        self._report.came_through()
