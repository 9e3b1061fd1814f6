"""The floor as a person sees it: a viewer at the broker who reads results and statuses as they come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from millrace import clock, events, jsontext, topics
from millrace.inbox import Delivery, Inbox
from millrace.mqtt import Connection
from millrace.settings import BrokerSettings

POLL_S = 0.2


class Watch:
    """A viewer's connection on threads of its own; close it in the end."""

    def __init__(self, broker: BrokerSettings, show: Callable[[str, dict[str, Any]], None]) -> None:
        """`show(device, data)` gets each new result."""
        prefix = topics.DEFAULT_PREFIX
        self._inbox = Inbox()
        kinds = (topics.Kind.RESULT, topics.Kind.DEVICE_STATUS)
        self._connection = Connection(
            broker,
            "millrace-demo",
            None,
            [topics.subscription(prefix, kind) for kind in kinds],
            persistent=False,
            max_payload_bytes=1 << 20,
            inbox=self._inbox,
        )
        self._show = show
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._connection.run, name="watch-mqtt", daemon=True),
            threading.Thread(target=self._listen, name="watch", daemon=True),
        ]
        self.latencies_ms: dict[str, float] = {}
        self.device_status: dict[str, Any] = {}
        for thread in self._threads:
            thread.start()

    @property
    def connected(self) -> bool:
        """Whether the viewer's connection stands."""
        return self._connection.connected

    def close(self) -> None:
        """End the connection."""
        self._stop.set()
        self._connection.interrupt()
        for thread in self._threads:
            thread.join(5)

    def _listen(self) -> None:
        while not self._stop.is_set():
            arrival = self._inbox.get(POLL_S)
            if not isinstance(arrival, Delivery):
                continue
            now_ns = time.time_ns()
            arrival.ack()
            topic = topics.parse(topics.DEFAULT_PREFIX, arrival.topic)
            if topic.kind is topics.Kind.DEVICE_STATUS:
                value = jsontext.parse(arrival.payload)
                self.device_status = value if isinstance(value, dict) else {}
                continue
            event = events.decode_json(arrival.payload)
            data = dict(event.data or {})
            subject = event.subject or ""
            if subject not in self.latencies_ms:  # an answer may be repeated; the first one counts
                self.latencies_ms[subject] = (now_ns - clock.parse_rfc3339(data["frame_time"])) / 1e6
                self._show(topic.owner, data)
