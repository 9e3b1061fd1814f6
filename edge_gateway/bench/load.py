"""A device of the bench: it publishes frames in a closed loop or at an even pace, and waits for each one's result."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from millrace import clock, events, topics
from millrace.demo.stage import wait_until
from millrace.inbox import Delivery, Inbox
from millrace.mqtt import Connection
from millrace.settings import BrokerSettings

DEVICE, CHANNEL = "bench", "top"
CONNECT_TIMEOUT_S = 15.0
RESULT_TIMEOUT_S = 30.0
INBOX_BYTES = 1 << 28


class NoResult(Exception):
    """No result came in time; the message says for what was waited."""


@dataclass(frozen=True, slots=True)
class Flow:
    """What a run of frames took: seconds in all, and of each frame the milliseconds from publishing to its result."""

    spent_s: float
    latencies_ms: list[float] = field(repr=False)

    @property
    def per_s(self) -> float:
        """Frames a second."""
        return len(self.latencies_ms) / self.spent_s


class Load:
    """One device at the broker; used by one thread, as a context manager."""

    def __init__(self, port: int, pictures: Sequence[bytes]) -> None:
        """Prepare frames of these JPEGs, in turn; nothing is sent before a run."""
        self.port = port
        self._pictures = list(pictures)
        self._epoch, self._seq = secrets.token_hex(4), 0
        self._inbox = Inbox(INBOX_BYTES)
        results = topics.topic(topics.DEFAULT_PREFIX, topics.Kind.RESULT, DEVICE, CHANNEL)
        self._connection = Connection(
            BrokerSettings(port=port),
            f"millrace-{DEVICE}-{self._epoch}",
            None,
            [results],
            persistent=False,
            max_payload_bytes=8 << 20,
            inbox=self._inbox,
        )
        self._thread = threading.Thread(target=self._connection.run, name="bench-load", daemon=True)
        self._due_s: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        if not wait_until(lambda: self._connection.connected, CONNECT_TIMEOUT_S):
            raise NoResult(f"the broker let nobody in within {CONNECT_TIMEOUT_S:g} s")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.interrupt()
        self._thread.join(5)

    def closed(self, count: int, in_flight: int) -> Flow:
        """Publish so many frames, never more than `in_flight` without a result. Errors: NoResult."""
        latencies_ms: list[float] = []
        begun_s, sent = time.perf_counter(), 0
        while len(latencies_ms) < count:
            while sent < count and sent - len(latencies_ms) < in_flight:
                payload = self._next()
                self._publish(payload, time.perf_counter())
                sent += 1
            latency_ms = self._result(RESULT_TIMEOUT_S)
            if latency_ms is None:
                raise NoResult(f"no result within {RESULT_TIMEOUT_S:g} s of frame {sent} of {count}")
            latencies_ms.append(latency_ms)
        return Flow(time.perf_counter() - begun_s, latencies_ms)

    def paced(self, count: int, per_s: float) -> Flow:
        """Publish at an even pace, whatever comes back; a frame that goes late is late from when it was due."""
        latencies_ms: list[float] = []
        begun_s, sent, payload = time.perf_counter(), 0, self._next()
        while len(latencies_ms) < count:
            due_s = begun_s + sent / per_s
            wait_s = due_s - time.perf_counter()
            if sent < count and wait_s <= 0:
                self._publish(payload, due_s)
                sent += 1
                payload = self._next()
                continue
            patience_s = wait_s if sent < count else RESULT_TIMEOUT_S
            latency_ms = self._result(patience_s)
            if latency_ms is not None:
                latencies_ms.append(latency_ms)
            elif sent == count:
                raise NoResult(f"{count - len(latencies_ms)} of {count} frames have no result")
        return Flow(time.perf_counter() - begun_s, latencies_ms)

    def until(self, over: Callable[[], bool], in_flight: int) -> tuple[int, list[tuple[float, str]]]:
        """Publish in a closed loop until `over`; return how many, and when each result came and of which model.

        Times are those of perf_counter. It waits for the last results, but not for ever: some may not come.
        """
        came: list[tuple[float, str]] = []
        sent = 0
        while not over() or len(came) < sent:
            while not over() and sent - len(came) < in_flight:
                self._publish(self._next(), time.perf_counter())
                sent += 1
            event = self._event(RESULT_TIMEOUT_S)
            if event is None:
                break
            came.append((time.perf_counter(), str(event[1])))
        return sent, came

    def _next(self) -> tuple[str, bytes]:
        self._seq += 1
        key = events.Key(topics.device_source(topics.DEFAULT_PREFIX, DEVICE, CHANNEL), self._epoch, self._seq)
        now = clock.rfc3339(time.time_ns())
        event = events.Event(events.FRAME, key, now, base=1, datacontenttype="image/jpeg")
        picture = self._pictures[self._seq % len(self._pictures)]
        return events.subject_of(DEVICE, CHANNEL, key.id), events.encode_frame(event, picture)

    def _publish(self, frame: tuple[str, bytes], due_s: float) -> None:
        subject, payload = frame
        self._due_s[subject] = due_s
        topic = topics.topic(topics.DEFAULT_PREFIX, topics.Kind.FRAME, DEVICE, CHANNEL)
        if not self._connection.publish(topic, payload):
            raise NoResult("the broker ended the connection")

    def _result(self, timeout_s: float) -> float | None:
        event = self._event(timeout_s)
        return None if event is None else event[0]

    def _event(self, timeout_s: float) -> tuple[float, object] | None:
        """Return the next result's latency in milliseconds and its model, or None if none came in time."""
        deadline_s = time.perf_counter() + timeout_s
        while (left_s := deadline_s - time.perf_counter()) > 0:
            arrival = self._inbox.get(left_s)
            if not isinstance(arrival, Delivery):
                continue
            arrival.ack()
            event = events.decode_json(arrival.payload)
            due_s = self._due_s.pop(event.subject or "", None)
            if due_s is not None and event.data is not None:
                return (time.perf_counter() - due_s) * 1000, event.data.get("model")
        return None
