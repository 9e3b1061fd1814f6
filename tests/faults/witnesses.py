"""Who looks on from outside: a viewer on the floor's broker, and one who asks the gateway how it is."""

from __future__ import annotations

import http.client
import json
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import paho.mqtt.client as paho
from faults.watch import Watch
from paho.mqtt.enums import CallbackAPIVersion

from millrace import clock, topics
from millrace.chaos.line import Line
from millrace.chaos.plan import VIEWER
from millrace.database import Viewer
from millrace.ranges import RangeSet

PREFIX = topics.DEFAULT_PREFIX


def guest(line: Line, account: str) -> paho.Client:
    """Return a client that connects with an account of its own, again and again where it must."""
    login = line.papers.login(account)
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=account, protocol=paho.MQTTv311)
    if "password_file" in login:
        client.username_pw_set(account, (line.home / login["password_file"]).read_text().strip())
    client.reconnect_delay_set(1, 1)
    client.max_inflight_messages_set(20_000)
    client.connect_async(login["host"], login["port"], 60)
    return client


@dataclass
class Floor:
    """Hears every receipt and result: is what a receipt says committed, and how old is an answer when it is heard."""

    line: Line
    promised_too_early: list[str] = field(default_factory=list)
    receipts: int = 0
    ages_s: list[tuple[float, str, float]] = field(default_factory=list)
    """(heard at, device, seconds from the capture to the hearing of its answer)"""

    def __post_init__(self) -> None:
        self._heard: queue.SimpleQueue[paho.MQTTMessage | None] = queue.SimpleQueue()
        self._store = Viewer(self.line.home / "gateway" / "gateway.db", "SELECT one FROM counter")
        self._client = guest(self.line, VIEWER)
        kinds = (topics.Kind.RECEIPT, topics.Kind.RESULT)
        wanted = [(topics.subscription(PREFIX, kind), 1) for kind in kinds]
        self._client.on_connect = lambda *_: self._client.subscribe(wanted)
        self._client.on_message = lambda _client, _data, message: self._heard.put(message)
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Self:
        self._client.loop_start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.loop_stop()
        self._heard.put(None)
        self._thread.join()
        self._store.close()

    def _listen(self) -> None:
        while (message := self._heard.get()) is not None:
            topic = topics.parse(PREFIX, message.topic)
            value = json.loads(message.payload)
            if topic.kind is topics.Kind.RECEIPT:
                self._judge(topic.owner, value)
            else:
                captured_s = clock.parse_rfc3339(value["data"]["frame_time"]) / 1e9
                self.ages_s.append((time.time(), topic.owner, time.time() - captured_s))

    def _judge(self, device: str, receipt: dict[str, Any]) -> None:
        """Compare a receipt with what the gateway's file has at this moment, which is after it was sent."""
        self.receipts += 1
        sql = "SELECT watermark, ahead FROM stream WHERE device = ? AND epoch = ?"
        rows = self._store.all(sql, (device, receipt["epoch"]))
        committed = RangeSet((first, last) for _, ahead in rows for first, last in json.loads(ahead))
        if rows and rows[0][0]:
            committed.add(1, rows[0][0])
        for first, last in receipt["ranges"]:
            if gaps := committed.gaps(first, last):
                self.promised_too_early.append(f"{device} {receipt['epoch']}: receipt for {gaps}, not committed")


@dataclass
class Health(Watch):
    """Asks the gateway's /health twice a second and remembers what it said, and when."""

    every_s = 0.5
    port: int
    said: list[tuple[float, float, dict[str, Any]]] = field(default_factory=list)
    """(asked at, answered at, the answer)"""

    def look(self) -> None:
        """Ask once; no answer is no false one."""
        asked_s = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", "/health")
            value = json.loads(connection.getresponse().read())
            self.said.append((asked_s, time.monotonic(), value))
        except (OSError, http.client.HTTPException, ValueError):  # without descriptors it is a bare 500
            pass
        finally:
            connection.close()

    def between(self, first_s: float, last_s: float) -> list[dict[str, Any]]:
        """Return what was asked and answered within these times."""
        return [value for asked_s, answered_s, value in self.said if first_s <= asked_s and answered_s <= last_s]


@contextmanager
def looking_on(line: Line) -> Iterator[tuple[Floor, Health]]:
    """Have both look on."""
    with Floor(line) as floor, Health(line.papers.http_port) as health:
        yield floor, health
