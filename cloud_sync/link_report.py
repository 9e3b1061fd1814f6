"""The link up or down, the lanes held and the rate, as the log and sync.db tell of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from cloud_sync.debt import Debt
from cloud_sync.drain_rate import DrainRate
from cloud_sync.link import Link
from cloud_sync.refusals import LaneState
from cloud_sync.submit import LinkDown, Unauthorized
from millrace.clock import Clock
from millrace.entries import Lane

log = logging.getLogger(__name__)

SAY_DOWN_EVERY_S = 60.0


class LinkReport:
    """Hears how each try ended."""

    def __init__(self, url: str, link: Link, lanes: Mapping[Lane, LaneState], debt: Debt, clock: Clock) -> None:
        self._url, self._link, self._lanes, self._debt, self._clock = url, link, lanes, debt, clock
        self._rate = DrainRate()
        self._rows_per_s = 0.0
        self._said_down, self._said_down_s = "", float("-inf")
        self.token_refused = False
        """Whether the last try failed because of our token."""

    def settled(self, lane: Lane, rows: int, spent_s: float) -> None:
        """Take note of a batch that was committed and settled."""
        self._rate.note(lane, rows, spent_s)
        self._rows_per_s += 0.3 * (rows / spent_s - self._rows_per_s)

    def came_through(self) -> None:
        """Take note of an answer of the cloud's own: the link is up, but lanes may be held."""
        if self._link.committed():
            log.info("link_up url=%s", self._url)
        self._said_down, self.token_refused = "", False
        held = [f"{lane.name.lower()} held: {s.held_because}" for lane, s in self._lanes.items() if s.held_because]
        self._note("up", "; ".join(held))

    def failed(self, error: LinkDown) -> None:
        """Take note that no answer of the cloud's own came; the same is said now and then only."""
        now_s = self._clock.uptime_s()
        went_down = self._link.failed(now_s, error.retry_after_s)
        self.token_refused = isinstance(error, Unauthorized)
        if went_down or str(error) != self._said_down or now_s - self._said_down_s > SAY_DOWN_EVERY_S:
            self._said_down, self._said_down_s = str(error), now_s
            level = logging.ERROR if self.token_refused else logging.WARNING
            log.log(level, "link_down url=%s tries=%d error=%s", self._url, self._link.failures, error)
        self._note("down", str(error))

    def _note(self, state: str, said: str) -> None:
        self._debt.note_link(state, self._rows_per_s, said, self._rate.rates())
