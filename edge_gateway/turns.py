"""What arrives is sorted by device at once: each has its turn, and who sends more than its share is turned away.

Sorting looks at the topic alone and runs in the network's thread, so that a flood is dismissed as fast as it comes,
before anything of it is decoded, and nobody waits behind it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from edge_gateway.admission import Arrived, claims_key
from edge_gateway.metrics import Metrics
from edge_gateway.settings import GatewaySettings
from edge_gateway.shares import LULL_S, Shares
from edge_gateway.sheds import Sheds
from edge_gateway.work import NoRoomNow
from millrace import clock, topics
from millrace.inbox import Delivery, Inbox
from millrace.mqtt import RECEIVE_MAXIMUM

log = logging.getLogger(__name__)

REFUSED_SHOWN = 10
SAY_EVERY_S = 10.0
OTHERS_AT_MOST = 256
HTTP_DEVICE = "http"
OVER_SHARE = "more than the device's share; it keeps nothing"


@dataclass(frozen=True, slots=True)
class Heard:
    """A delivery on a topic of ours that waits for its turn."""

    topic: topics.Topic
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Asked:
    """A picture that came by HTTP and waits for its turn."""

    arrived: Arrived
    reply: Future[list[dict[str, Any]]]


Waiting = Heard | Asked


class Turns(Inbox):
    """The gateway's inbox. It is never full: what there is no room for is dismissed, so reading need not pause."""

    def __init__(
        self,
        settings: GatewaySettings,
        admits: Callable[[str], bool],
        sheds: Sheds,
        metrics: Metrics,
        time: clock.Clock,
    ) -> None:
        limits = settings.limits
        super().__init__(limits.inbox_bytes)
        self._prefix, self._sheds, self._metrics, self._clock = settings.prefix, sheds, metrics, time
        self._admits = admits
        self.shares: Shares[Waiting] = Shares(
            limits.inbox_bytes,
            limits.window_bytes,
            limits.device_events_s,
            limits.device_bytes_s,
            RECEIVE_MAXIMUM // 2,
        )
        self._others: deque[object] = deque()
        self._said_s: dict[str, float] = {}
        self._saying = threading.RLock()
        self._changed = threading.Condition()
        self.refused: dict[str, str | None] = {}
        """Topics that were refused of late, each with the nearest good one."""

    @property
    def full(self) -> bool:
        """Whether reading from the network should pause: never, or a quiet device would wait for one that floods."""
        return False

    def put(self, arrival: object) -> None:
        """Add an arrival: a delivery or a question to its device's queue, anything else before them; never blocks."""
        if isinstance(arrival, Delivery):
            self._hear(arrival)
        elif isinstance(arrival, Asked):
            self._queue(HTTP_DEVICE, arrival, len(arrival.arrived.payload))
        else:
            with self._changed:
                self._others.append(arrival)
                self._changed.notify()

    def get(self, timeout_s: float, has_room: Callable[[str], bool] = lambda _device: True) -> object | None:
        """Return what is next: news of the connection or a gateway, else of the device whose turn it is.

        A device for which there is no room further on has no turn; `wake` says that there may be some.
        """
        with self._changed:
            now_s = self._clock.uptime_s()
            if not self._others and (found := self.shares.take(now_s, has_room)) is not None:
                return found
            if not self._others:
                self._changed.wait(min(timeout_s, LULL_S) if self.shares.restrains(now_s) else timeout_s)
            return self._others.popleft() if self._others else self.shares.take(self._clock.uptime_s(), has_room)

    def wake(self) -> None:
        """Have who waits in `get` look again."""
        with self._changed:
            self._changed.notify()

    def turned_away(self) -> dict[str, int]:
        """Return how many events of which devices were turned away, for those that still feel it."""
        return self.shares.turned_away(self._clock.uptime_s())

    def refuse(self, error: topics.BadTopic) -> None:
        """Count and show a topic that is refused; many invented ones are said now and then only."""
        self._metrics.refused_topics.inc()
        shown = error.topic[:200]
        with self._saying:
            if shown in self.refused or (len(self.refused) >= REFUSED_SHOWN and not self._may_say("refused")):
                return
            while len(self.refused) >= REFUSED_SHOWN:
                self.refused.pop(next(iter(self.refused)))
            self.refused[shown] = error.nearest
        log.warning("topic_refused topic=%r nearest=%r", shown, error.nearest)

    def _hear(self, delivery: Delivery) -> None:
        try:
            topic = topics.parse(self._prefix, delivery.topic)
        except topics.BadTopic as error:
            self.refuse(error)
            delivery.ack()
            return
        if topic.kind is topics.Kind.GATEWAY_STATUS:
            self._hear_gateway(Heard(topic, delivery))
            return
        if delivery.retain and topic.kind is not topics.Kind.DEVICE_STATUS:
            delivery.ack()  # data is never retained; a broker's leftovers are not news
            return
        if not self._admits(topic.owner) and not self._may_say("crowded"):  # now and then one goes on to make the alarm
            self._metrics.crowded.inc()
            delivery.ack()
            return
        self._queue(topic.owner, Heard(topic, delivery), delivery.size_bytes)

    def _hear_gateway(self, heard: Heard) -> None:
        with self._changed:
            if len(self._others) < OTHERS_AT_MOST:
                self._others.append(heard)
                self._changed.notify()
                return
        heard.delivery.ack()

    def _queue(self, device: str, waiting: Waiting, size_bytes: int) -> None:
        with self._changed:
            now_s = self._clock.uptime_s()
            is_first = not self.shares.waiting_bytes
            dismissed = self.shares.offer(device, waiting, size_bytes, now_s)
            if is_first or not self.shares.is_restrained(device, now_s):
                self._changed.notify()
        for over, away in dismissed:
            self._turn_away(over, away)

    def _turn_away(self, device: str, away: Waiting) -> None:
        """Leave a message with a sender that keeps it: acknowledged to the broker, not receipted. Else give it up."""
        self._metrics.turned_away.labels(device).inc()
        if self._may_say(f"over {device}"):
            log.warning("device_over_share device=%s events=%s", device, self.turned_away().get(device))
        if isinstance(away, Asked):
            away.reply.set_exception(NoRoomNow("the line is full"))
            return
        delivery = away.delivery
        if away.topic.kind is not topics.Kind.DEVICE_STATUS and not claims_key(delivery.payload, delivery.properties):
            self._metrics.shed.inc()
            self._sheds.add(device, OVER_SHARE)
        delivery.ack()

    def _may_say(self, what: str) -> bool:
        """Whether it is time to say something again that may come in floods."""
        with self._saying:
            now_s = self._clock.uptime_s()
            if now_s - self._said_s.get(what, float("-inf")) < SAY_EVERY_S:
                return False
            self._said_s = {said: at_s for said, at_s in self._said_s.items() if now_s - at_s < SAY_EVERY_S}
            self._said_s[what] = now_s
            return True
