"""While reading is paused the connection stands, however long: the broker hears from it, and nobody misses its ping."""

from __future__ import annotations

import socket
from contextlib import closing

import paho.mqtt.client as paho
import pytest

from millrace.inbox import Delivery, Inbox
from millrace.mqtt import Will
from millrace.mqtt.connection import Connection, _Held
from millrace.settings import BrokerSettings

KEEPALIVE_S = 20
CONNACK = b"\x20\x03\x00\x00\x00"
WAITING = b"\x30\x08\x00\x03t/x\x00hi"


class Full(Inbox):
    """It is full until it is told otherwise."""

    is_full = True

    @property
    def full(self) -> bool:
        return self.is_full


def test_a_pause_of_many_keepalives_ends_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr(paho, "time_func", lambda: now_s)
    inbox = Full()
    settings = BrokerSettings(keepalive_s=KEEPALIVE_S)
    will = Will("millrace/gateway/g1/status", b"{}")
    connection = Connection(settings, "g", will, [], persistent=True, max_payload_bytes=1024, inbox=inbox)
    connection._stop.set()  # no pause takes time
    client = connection._make_client(held := _Held(1, "5"))
    client.keepalive = KEEPALIVE_S
    ours, brokers = socket.socketpair()
    with closing(ours), closing(brokers):
        ours.setblocking(False)
        client._sock = ours
        client._last_bytes_received = client._last_msg_out = now_s
        inbox.is_full = False
        brokers.sendall(CONNACK)
        client.loop_read()
        inbox.is_full = True
        brokers.sendall(WAITING)
        for _ in range(40):
            now_s += KEEPALIVE_S / 4
            client.loop_read()
            client.loop_misc()
        assert not held.ended.is_set()
        said = brokers.recv(65536)
        assert said.count(b'{"state":"busy"}') >= 40 / 4
        inbox.is_full = False
        client.loop_read()
        assert [arrival.payload for arrival in _all(inbox) if isinstance(arrival, Delivery)] == [b"hi"]
        now_s += 2 * KEEPALIVE_S
        client.loop_misc()
        client.loop_misc()
        assert brokers.recv(65536).endswith(b"\xc0\x00"), "a ping, as ever"
        client._sock = None


def _all(inbox: Inbox) -> list[object]:
    return list(iter(lambda: inbox.get(0), None))
