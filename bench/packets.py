"""What a message costs to be read, put into the inbox and acknowledged: our reading of packets against paho's parser.

No broker and no network thread: recorded bytes come through a pair of sockets, and the client's processor time counts.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import closing, suppress
from functools import partial
from unittest.mock import patch

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties, VariableByteIntegers

from bench.measures import Measure, interleaved, ratio_at_most
from bench.profile import Profile
from millrace.inbox import Delivery, Inbox
from millrace.mqtt import dialling
from millrace.mqtt.client import Client
from millrace.mqtt.connection import Connection, _Held
from millrace.settings import BrokerSettings

MESSAGES = 20_000
PAYLOAD = bytes(300)
TOPIC = b"millrace/device/cam-1/reading/temperature"
CHUNK_BYTES = 65536
WORTH_RATIO = 0.75  # above it our own parser is not worth its keep: docs/adr/0029


class _PahoParses(Client):
    """The connection's client as it is, with paho's parser for every packet."""

    def _hear_ahead(self) -> None:
        """Leave all to paho."""


class _Dismissing(Inbox):
    """It acknowledges what it hears at once, and counts."""

    heard = 0

    def put(self, arrival: object) -> None:
        if isinstance(arrival, Delivery):
            self.heard += 1
            arrival.ack()


def measures(profile: Profile) -> list[Measure]:
    """Return microseconds of processor time for each message, with properties as CloudEvents has them and without."""
    found = []
    for label, has_properties in (("with properties", True), ("without properties", False)):
        recorded = b"".join(_packet(number, has_properties) for number in range(MESSAGES))
        ours, plain = interleaved(
            profile.rounds, partial(_read_us, Client, recorded), partial(_read_us, _PahoParses, recorded)
        )
        measure = f"processor us to read a message of {len(PAYLOAD)} bytes, MQTT 5 {label}, QoS 1"
        found.append(ratio_at_most(measure, "paho's own parser", ours, plain, WORTH_RATIO))
    return found


def _packet(number: int, has_properties: bool) -> bytes:
    properties = Properties(PacketTypes.PUBLISH)
    if has_properties:
        properties.UserProperty = [
            ("specversion", "1.0"),
            ("id", f"k3v9x0pa-{number}"),
            ("source", "/millrace/device/cam-1/temperature"),
        ]
        properties.ContentType = "application/json"
    mid = (number % 65535 + 1).to_bytes(2, "big")
    rest = len(TOPIC).to_bytes(2, "big") + TOPIC + mid + bytes(properties.pack()) + PAYLOAD
    return bytes([0x32]) + VariableByteIntegers.encode(len(rest)) + rest


def _read_us(kind: type[Client], recorded: bytes) -> float:
    inbox = _Dismissing()
    connection = Connection(BrokerSettings(), "b", None, [], persistent=True, max_payload_bytes=1 << 20, inbox=inbox)
    with patch.object(dialling, "Client", kind):
        client = connection._make_client(_Held(1, "5"))
    connection._client, connection._connected_epoch = client, 1
    client._thread = threading.current_thread()  # as in the network's thread, what is to be said waits for loop_write
    ours, brokers = socket.socketpair()
    used_s, rest = 0.0, memoryview(recorded)
    with closing(ours), closing(brokers):
        ours.setblocking(False)
        brokers.setblocking(False)
        client._sock = ours
        while inbox.heard < MESSAGES:
            with suppress(BlockingIOError):
                while rest:
                    rest = rest[brokers.send(rest[:CHUNK_BYTES]) :]
            begun_s, before = time.process_time(), -1
            while before < inbox.heard:
                before = inbox.heard
                client.loop_read()
                if client.want_write():
                    client.loop_write()
            used_s += time.process_time() - begun_s
            with suppress(BlockingIOError):
                while brokers.recv(CHUNK_BYTES):
                    pass  # the acknowledgements
        client._sock = None
    return used_s / MESSAGES * 1e6
