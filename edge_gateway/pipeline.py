"""One frame's way through the gateway: workers, commit, then result, receipt and acknowledgement, in order.

The workers decode and infer side by side what `edge_gateway.intake` puts into the line; `Writer`, an actor, takes it in
order, gathers what is ready, commits once and speaks only then.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from functools import partial

from edge_gateway.admission import Arrived, Outcome
from edge_gateway.commit import Committer, Finished
from edge_gateway.crew import Crew
from edge_gateway.engines.engine import Tensor
from edge_gateway.metrics import Metrics
from edge_gateway.models import Models
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
_SMALL_IN_PLACE, _SMALL_BYTES = 8, 8192


@dataclass(frozen=True, slots=True)
class Item:
    """One place in the line: what arrived, and how to acknowledge it once it is committed."""

    finished: Finished
    ack: Callable[[], None]


class Line:
    """What is between intake and commit, in order of arrival; bounded, and its bound is the back-pressure.

    Where a frame takes one place, eight small messages have room: so many more share a commit.
    """

    def __init__(self, max_frames: int) -> None:
        self._free = _SMALL_IN_PLACE * max_frames
        self._items: deque[tuple[Item, int]] = deque()
        self._changed = threading.Condition()
        self.closed = threading.Event()

    def offer(self, item: Item, patience_s: float) -> bool:
        """Add an item; return False if the line was full for so long. One that is larger than all of it goes alone."""
        size = _size(item)
        with self._changed:
            if not self._changed.wait_for(lambda: size <= self._free or not self._items, patience_s):
                return False
            self._items.append((item, size))
            self._free -= size
            self._changed.notify_all()
        return True

    def get(self, timeout_s: float) -> Item | None:
        """Return the next item, or None if none came in time."""
        with self._changed:
            if not self._items and (timeout_s <= 0 or not self._changed.wait_for(lambda: self._items, timeout_s)):
                return None
            item, size = self._items.popleft()
            self._free += size
            self._changed.notify_all()
        return item


def _size(item: Item) -> int:
    """Return what of the line an item takes up, in small messages."""
    if isinstance(item.finished, Arrived) and item.finished.type == events.FRAME:
        return _SMALL_IN_PLACE
    return max(1, len(getattr(item.finished, "payload", b"")) // _SMALL_BYTES)


class Workers:
    """The inference threads, and what waits for them; no model holds more of them than its share."""

    def __init__(self, models: Models, count: int) -> None:
        """Start `count` threads (0: one for each core)."""
        self.count = worker_count(count)
        self._models = models
        self._crew = Crew(self.count, models.engines)

    def start(self, arrived: Arrived) -> None:
        """Begin the inference of a frame; its outcome is a future on the arrival itself."""
        places = self._models.serving(arrived.device, str(arrived.topic.channel))
        if places:
            infer = partial(self._models.infer, arrived.payload, places, arrived.digest)
            arrived.outcome = self._crew.submit(places, infer)

    def ask_window(self, place: int, window: Tensor) -> Future[Outcome]:
        """Begin the inference of a window of readings; the future gives what Models.infer gives."""
        return self._crew.submit([place], partial(self._models.infer, window, [place]))

    def ask(self, place: int, name: str, given: Tensor | bytes) -> Future[tuple[Tensor, ...]]:
        """Begin a bare inference for somebody who is no frame; the future gives what Models.infer_raw gives."""
        return self._crew.submit([place], partial(self._models.infer_raw, place, name, given))

    def close(self) -> None:
        """End the threads."""
        self._crew.close()


def worker_count(wanted: int) -> int:
    """Return how many inference threads there are where the settings say so many: 0 is one for each core."""
    return wanted or len(os.sched_getaffinity(0))


class Writer:
    """Commits in order of arrival and speaks afterwards: results, receipts, acknowledgements; also keeps house."""

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
        self.beat = Beat(time)
        self.refused = ""
        """Why the disk takes nothing now; empty while it does."""

    def run(self) -> None:
        """Work until interrupted; what was committed is spoken of before it returns."""
        while not self._stop.is_set():
            self.beat.beat()
            batch = self._gather()
            if batch or self._committer.has_sheds:
                crashpoints.reached("gateway.inferred")
                self._settle(batch)
            self._keep_house()

    def interrupt(self) -> None:
        """End `run`."""
        self._stop.set()

    def _gather(self) -> list[Item]:
        """Return what may be committed together: at once when nothing follows, else after a short wait at most.

        `commit_rows` counts results; the rest is cheap, and a flood of it costs fewer commits.
        """
        first = self._line.get(POLL_S)
        if first is None:
            return []
        batch, results = [first], self._results_of(first)
        self._wait_for(first, None)
        deadline_s = self._clock.uptime_s() + self._settings.store.commit_delay_ms / 1000
        while results < self._settings.store.commit_rows and len(batch) < GATHERED_MAX:
            item = self._line.get(0)
            if item is None:
                break
            batch.append(item)
            results += self._results_of(item)
            if not self._wait_for(item, deadline_s):
                self._wait_for(item, None)
                break
        return batch

    def _results_of(self, item: Item) -> float:
        """Return how many results an item has: all else costs a commit next to nothing."""
        if getattr(item.finished, "outcome", None) is not None:
            return 1.0
        return self._weigh(item.finished) if self._weigh is not None else 0.0

    def _wait_for(self, item: Item, deadline_s: float | None) -> bool:
        """Wait for an item's inference; False if the deadline came first. An engine's failure ends the process."""
        outcome: Future[Outcome] | None = getattr(item.finished, "outcome", None)
        while outcome is not None and not outcome.done():
            left_s = POLL_S if deadline_s is None else deadline_s - self._clock.uptime_s()
            if left_s <= 0:
                return False
            try:
                outcome.exception(min(left_s, POLL_S))
            except FutureTimeoutError:
                if self._stop.is_set():
                    return False
        return True

    def _settle(self, batch: list[Item]) -> None:
        """Commit a batch and speak of it; what the disk refuses together is offered to it one by one."""
        if self._refusal(batch, partial(self._committer.commit, [item.finished for item in batch])) is None:
            return
        for item in batch:
            self._settle_alone(item)
        if not batch:
            self._stop.wait(RETRY_STORAGE_S)

    def _settle_alone(self, item: Item) -> None:
        """Commit an item, again and again while the disk takes nothing; withhold it if that is all the disk takes."""
        commit = partial(self._committer.commit, [item.finished])
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
