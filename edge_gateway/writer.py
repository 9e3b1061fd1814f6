"""The commit and what follows it, in this order: results, receipts, acknowledgements.

`Writer`, an actor, takes what is ready out of the line, gathers some of it, commits once and speaks only then.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial

from edge_gateway.commit import Committer
from edge_gateway.line import Item, Line
from edge_gateway.metrics import Metrics
from edge_gateway.own_events import alarm_message, result_message
from edge_gateway.settings import GatewaySettings
from edge_gateway.store import Store
from edge_gateway.work import Committed, Message, NotAnswered
from millrace import clock, crashpoints, events
from millrace.blobs import NoRoom, StorageFailed
from millrace.mqtt import Connection
from millrace.service import Beat

log = logging.getLogger(__name__)

POLL_S = 0.1
PURGE_EVERY_S = 1.0
RETRY_STORAGE_S = 1.0
REPUBLISH_ROWS = 1000
GATHERED_MAX = 256
HANGS_S = 300.0
"""An inference that holds up its device for so long will never end: the watchdog is to see it."""


class Writer:
    """Commits in each device's order of arrival and speaks afterwards; also keeps house."""

    def __init__(
        self,
        settings: GatewaySettings,
        line: Line,
        store: Store,
        committer: Committer,
        connection: Connection,
        metrics: Metrics,
        time: clock.Clock,
    ) -> None:
        self._settings, self._line, self._store, self._committer = settings, line, store, committer
        self._connection, self._metrics, self._clock = connection, metrics, time
        self._weigh = committer.weigh
        self._stop = threading.Event()
        self._purged_s = float("-inf")
        self._tail = list(store.unpublished(REPUBLISH_ROWS))
        self._awaited: tuple[int | None, float] = None, 0.0
        """Which inference has been waited for longest, and since when."""
        self.beat = Beat(time)
        self.refused = ""
        """Why the disk takes nothing now; empty while it does."""

    def run(self) -> None:
        """Work until interrupted; what was committed is spoken of before it returns."""
        while not self._stop.is_set():
            self._show_life()
            batch = self._gather()
            if batch or self._committer.has_sheds:
                crashpoints.reached("gateway.inferred")
                self._settle(batch)
            self._keep_house()

    def interrupt(self) -> None:
        """End `run`."""
        self._stop.set()

    def _show_life(self) -> None:
        """Beat, also while inferences are waited for; not any more once one of them has hung for HANGS_S."""
        now_s, awaited = self._clock.uptime_s(), self._line.awaited
        if awaited != self._awaited[0]:
            self._awaited = awaited, now_s
        if awaited is None or now_s - self._awaited[1] < HANGS_S:
            self.beat.beat()

    def _gather(self) -> list[Item]:
        """Return what may be committed together: at once when nothing follows, else after a short wait at most.

        `commit_rows` counts results; the rest is cheap, and a flood of it costs fewer commits.
        """
        item = self._line.get(POLL_S)
        batch, results = list[Item](), 0.0
        deadline_s = self._clock.uptime_s() + self._settings.store.commit_delay_ms / 1000
        while item is not None:
            batch.append(item)
            results += self._results_of(item)
            if results >= self._settings.store.commit_rows or len(batch) >= GATHERED_MAX:
                break
            item = self._line.get_more(deadline_s - self._clock.uptime_s())
        return batch

    def _results_of(self, item: Item) -> float:
        """Return how many results an item has: all else costs a commit next to nothing."""
        if item.outcome is not None:
            return 1.0
        return self._weigh(item.finished) if self._weigh is not None else 0.0

    def _settle(self, batch: list[Item]) -> None:
        """Commit a batch and speak of it; what the disk refuses together is offered to it one by one."""
        commit = partial(self._committer.commit, [item.finished for item in batch], self.beat.beat)
        if self._refusal(batch, commit) is None:
            return
        for item in batch:
            self._settle_alone(item)
        if not batch:
            self._stop.wait(RETRY_STORAGE_S)

    def _settle_alone(self, item: Item) -> None:
        """Commit an item, again and again while the disk takes nothing; withhold it if that is all the disk takes."""
        commit = partial(self._committer.commit, [item.finished], self.beat.beat)
        self.beat.beat()
        while (refusal := self._refusal([item], commit)) is not None:
            withhold = partial(self._committer.withhold, item.finished, str(refusal))
            if not self._makes_room(refusal) and self._refusal([item], withhold) is None:
                return
            if self._stop.wait(RETRY_STORAGE_S):
                raise refusal
            self.beat.beat()

    def _refusal(self, batch: list[Item], commit: Callable[[], Committed]) -> StorageFailed | None:
        """Commit and speak; or return what the disk said."""
        try:
            done = commit()
        except StorageFailed as error:
            self.refused = str(error)
            log.error("commit_failed rows=%d error=%s", len(batch), error)
            return error
        self.refused = ""
        self._speak(batch, done)
        return None

    def _makes_room(self, refusal: StorageFailed) -> bool:
        """If it is room that the disk lacks, let what is settled go, whatever the retention says; whether any went."""
        if not isinstance(refusal, NoRoom) and not self._store.outbox.is_short:
            return False
        held_rows = self._store.outbox.held_rows
        self._purge(0.0, 0)
        return self._store.outbox.held_rows < held_rows

    def _speak(self, batch: list[Item], done: Committed) -> None:
        connected = self._connection.connected
        for message in done.results:
            self._publish(message)
        crashpoints.reached("gateway.results_said")
        if connected and done.last_position:
            self._store.mark_published(done.last_position)
        for receipt in done.receipts.values():
            self._publish(receipt)
        crashpoints.reached("gateway.receipts_said")
        for item in batch:
            item.ack()
        crashpoints.reached("gateway.acknowledged")
        for arrived, reply in done.replies:
            if arrived.reply is None:
                continue
            if isinstance(reply, NotAnswered):
                arrived.reply.set_exception(reply)
            else:
                arrived.reply.set_result(reply)

    def _publish(self, message: Message) -> None:
        self._connection.publish(
            message.topic,
            message.payload,
            retain=message.retain,
            content_type=events.JSON_CONTENT_TYPE if message.structured else None,
        )

    def _keep_house(self) -> None:
        if self._tail and self._connection.connected:
            self._republish()
        now_s = self._clock.uptime_s()
        if now_s - self._purged_s < PURGE_EVERY_S:
            return
        self._purged_s = now_s
        self._store.heed_readers()
        kept = self._settings.store
        if self._purge(kept.retention_s, kept.retention_bytes):
            self._purged_s = float("-inf")  # go on after the next batch
        self._metrics.held_rows.set(self._store.outbox.held_rows)
        self._metrics.held_bytes.set(self._store.outbox.held_bytes)
        self._metrics.full.set(self._store.full)
        if self._connection.connected:
            for receipt in self._committer.reopened():
                self._publish(receipt)

    def _purge(self, retention_s: float, retention_bytes: int) -> bool:
        try:
            uplink = self._settings.uplink == "cloud"
            purged = self._store.purge(uplink, retention_s, retention_bytes, self._clock.uptime_s())
            return purged or self._committer.make_room() > 0
        except StorageFailed as error:
            log.error("purge_failed error=%s", error)
            return False

    def _republish(self) -> None:
        """Publish what a former life committed and perhaps never said."""
        prefix = self._settings.prefix
        for entry in self._tail:
            event = events.decode_json(entry.body)
            if event.type == events.ALARM:
                self._publish(alarm_message(prefix, self._settings.gateway, entry.body))
            elif event.type == events.RESULT and event.subject:
                device, channel, _ = event.subject.split("/")
                self._publish(result_message(prefix, device, channel, entry.body))
            self._store.mark_published(entry.position)
        log.info("results_republished rows=%d", len(self._tail))
        self._tail = []
