"""How fast messages are heard and acknowledged at once, beside nobody and a busy thread, against paho by itself.

At Mosquitto only: the embedded broker is slower than either.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from bench import packets
from bench.measures import Measure, interleaved, ratio_at_least
from bench.profile import Profile
from edge_gateway.app import SWITCH_INTERVAL_S
from millrace.demo.stage import wait_until
from millrace.inbox import Delivery, Inbox
from millrace.mqtt import Connection, dialling
from millrace.mqtt.client import Client
from millrace.settings import BrokerSettings

MESSAGES = 4000
PAYLOAD = bytes(200)
TOPIC = "bench/hearing"
TIMEOUT_S = 120.0
PAUSE_S = 0.001


class _Plain(Client):
    """The connection's client as paho reads and acknowledges by itself."""

    loop_read = paho.Client.loop_read
    _sock_recv = paho.Client._sock_recv
    ack = paho.Client.ack


class _Dismissing(Inbox):
    """It acknowledges what it hears at once, and counts."""

    heard = 0

    def put(self, arrival: object) -> None:
        if isinstance(arrival, Delivery):
            self.heard += 1
            arrival.ack()


def measures(port: int, profile: Profile) -> list[Measure]:
    """Return messages heard a second, in turn with paho's own way, at the gateway's switch interval."""
    kept_s = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    found = []
    try:
        for busy, bar in ((False, 1.0), (True, 1.5)):
            ours, plain = interleaved(
                profile.rounds,
                partial(_heard_per_s, port, Client, busy),
                partial(_heard_per_s, port, _Plain, busy),
            )
            beside = "beside a busy thread" if busy else "beside nobody"
            label = f"messages of 200 bytes heard and acknowledged a second, {beside}"
            found.append(ratio_at_least(label, "paho's own way", ours, plain, bar))
    finally:
        sys.setswitchinterval(kept_s)
    return found + packets.measures(profile)


def _heard_per_s(port: int, client: type[Client], busy: bool) -> float:
    """Let the broker keep MESSAGES for a session that is away, then hear them all."""
    inbox = _Dismissing()
    with patch.object(dialling, "Client", client):
        with _held(port, inbox) as connection:
            assert wait_until(lambda: connection.connected, TIMEOUT_S, PAUSE_S), "no connection"
        _fill(port)
        with _busy(busy):
            begun_s = time.perf_counter()
            with _held(port, inbox):
                assert wait_until(lambda: inbox.heard >= MESSAGES, TIMEOUT_S, PAUSE_S), "the broker brings nothing"
                return inbox.heard / (time.perf_counter() - begun_s)


@contextmanager
def _held(port: int, inbox: Inbox) -> Iterator[Connection]:
    settings = BrokerSettings(host="127.0.0.1", port=port)
    held = Connection(settings, "bench-hearing", None, [TOPIC], persistent=True, max_payload_bytes=1 << 20, inbox=inbox)
    thread = threading.Thread(target=held.run)
    thread.start()
    try:
        yield held
    finally:
        held.interrupt()
        thread.join()


def _fill(port: int) -> None:
    publisher = paho.Client(CallbackAPIVersion.VERSION2)
    publisher.max_inflight_messages_set(0)
    publisher.connect("127.0.0.1", port)
    publisher.loop_start()
    for info in [publisher.publish(TOPIC, PAYLOAD, qos=1) for _ in range(MESSAGES)]:
        info.wait_for_publish(TIMEOUT_S)
    publisher.disconnect()
    publisher.loop_stop()


@contextmanager
def _busy(wanted: bool) -> Iterator[None]:
    over = threading.Event()

    def compute() -> None:
        while not over.is_set():
            sum(range(1000))

    thread = threading.Thread(target=compute)
    if wanted:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if wanted:
            thread.join()
