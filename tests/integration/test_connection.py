"""A connection that does not last says why, and tries less and less often; against a real Mosquitto with accounts."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import paho.mqtt.client as paho
import pytest
from integration.brokers import WAIT_S, GuardedBroker, denying_mosquitto, wait_until
from paho.mqtt.enums import CallbackAPIVersion

from broker_config.mosquitto import Mosquitto
from millrace.inbox import Connected, Delivery, Inbox
from millrace.mqtt import Connection
from millrace.mqtt.client import Client
from millrace.settings import BrokerSettings

pytestmark = pytest.mark.mosquitto


@contextmanager
def connection(broker: GuardedBroker, account: str, folder: Path) -> Iterator[Connection]:
    """A connection of an account, run as a program does."""
    secret = folder / f"{account}-{threading.active_count()}"
    secret.touch(mode=0o600)
    secret.write_text(broker.secret(account))
    settings = BrokerSettings(port=broker.process.port, username=account, password_file=secret)
    with running(settings, account) as held:
        yield held


@contextmanager
def running(
    settings: BrokerSettings, name: str, *topics: str, inbox: Inbox | None = None, persistent: bool = False
) -> Iterator[Connection]:
    """A connection that subscribes to these topics, run as a program does."""
    here = inbox or Inbox()
    held = Connection(settings, name, None, topics, persistent=persistent, max_payload_bytes=1 << 20, inbox=here)
    thread = threading.Thread(target=held.run)
    thread.start()
    try:
        yield held
    finally:
        held.interrupt()
        thread.join(WAIT_S)
        assert not thread.is_alive()


@contextmanager
def publishing(broker: Mosquitto) -> Iterator[paho.Client]:
    """A plain client with nothing held back."""
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.max_inflight_messages_set(0)
    client.connect(broker.host, broker.port)
    client.loop_start()
    try:
        yield client
    finally:
        client.disconnect()
        client.loop_stop()


def test_many_packets_are_read_and_acknowledged_at_once(mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch) -> None:
    """paho by itself asks the system four times for each packet, and each time waits for whoever else computes."""
    calls: Counter[str] = Counter()

    def counted(name: str) -> None:
        plain = getattr(paho.Client, name)

        def call(client: paho.Client, argument: Any) -> Any:
            calls[name] += isinstance(client, Client)
            return plain(client, argument)

        monkeypatch.setattr(paho.Client, name, call)

    counted("_sock_recv")
    counted("_sock_send")
    heard: list[bytes] = []

    class Dismissing(Inbox):
        """It acknowledges what it hears at once."""

        def put(self, arrival: object) -> None:
            if isinstance(arrival, Delivery):
                heard.append(arrival.payload)
                arrival.ack()

    settings = BrokerSettings(host=mosquitto.host, port=mosquitto.port)
    held = partial(running, settings, "g", "t/#", inbox=Dismissing(), persistent=True)
    with held() as here:
        wait_until(lambda: here.connected, "a session that is kept")
    sent = [b"%d " % number * 50 for number in range(2000)]
    with publishing(mosquitto) as publisher:
        for payload in sent:
            publisher.publish("t/x", payload, qos=1)
        wait_until(lambda: not publisher._out_messages, "the broker has them")
    calls.clear()
    with held() as here:
        wait_until(lambda: len(heard) == len(sent), "all are heard")
        here.publish("t/x", b"last")  # heard in a later read: all before it has been acknowledged
        wait_until(lambda: heard[-1] == b"last", "one more")
    assert heard == [*sent, b"last"]
    assert 0 < calls["_sock_recv"] < len(sent) / 4
    assert 0 < calls["_sock_send"] < len(sent) / 4
    heard.clear()
    with held() as here:
        wait_until(lambda: here.connected, "the session again")
        here.publish("t/x", b"new")
        wait_until(lambda: b"new" in heard, "what is new")
    assert set(heard) <= {b"last", b"new"}, "what was acknowledged does not come again"


def lines(caplog: pytest.LogCaptureFixture, word: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith(word)]


def test_a_device_under_another_name_than_its_account_is_told_what_to_look_at(
    guarded_mosquitto: GuardedBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "millrace.mqtt")
    with connection(guarded_mosquitto, "d1", tmp_path) as held:
        wait_until(lambda: held.connected, "a connection")
        held.publish("millrace/device/d2/status", b"{}")
        wait_until(lambda: lines(caplog, "broker_disconnected") != [], "a word on why it ended")
    assert (
        "does another program use the account 'd1', or is a topic denied to it?"
        in lines(caplog, "broker_disconnected")[0]
    )
    assert lines(caplog, "publish_refused") == ["publish_refused reason='Not authorized' account=d1"]


def test_two_programs_on_one_account_do_not_fight_at_full_speed(
    guarded_mosquitto: GuardedBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "millrace.mqtt")
    bounds: list[float] = []
    monkeypatch.setattr("random.uniform", lambda low, high: bounds.append(high) or low)  # no pause
    with connection(guarded_mosquitto, "d1", tmp_path), connection(guarded_mosquitto, "d1", tmp_path):
        wait_until(lambda: max(bounds, default=0) >= 4, "a longer and longer pause")
    assert any("another program use the account 'd1'" in line for line in lines(caplog, "broker_disconnected"))
    assert bounds.count(0.25) == 0, "an attempt that did not last counted as a success"


def test_a_connection_ended_by_ourselves_is_no_news(
    guarded_mosquitto: GuardedBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "millrace.mqtt")
    with connection(guarded_mosquitto, "d1", tmp_path) as held:
        wait_until(lambda: held.connected, "a connection")
        assert isinstance(held.inbox.get(WAIT_S), Connected)
    assert lines(caplog, "broker_disconnected") == []


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_a_subscription_that_the_broker_denies_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, protocol: Literal["3.1.1", "5"]
) -> None:
    with denying_mosquitto(tmp_path / "broker", "shop/secret/#") as broker:
        settings = BrokerSettings(port=broker.port, protocol=protocol, reconnect_max_s=0.2)
        with running(settings, "wall", "shop/open/#", "shop/secret/#") as held:
            wait_until(lambda: held.denied == ("shop/secret/#",), "the broker's answer")
            held.denied = ("shop/secret/#", "")
            with running(settings, "wall", "shop/open/#") as other:  # throws it off, and it comes again
                wait_until(lambda: other.connected, "another connection")
            wait_until(lambda: held.denied == ("shop/secret/#",), "the broker's answer once more")
            assert held.connected
    (said,) = lines(caplog, "subscription_denied")
    assert said.startswith("subscription_denied topic=shop/secret/# reason=")
    assert "access rules" in said


def test_messages_acknowledged_by_another_thread_are_acknowledged_together(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = Inbox()
    held = partial(running, BrokerSettings(host=mosquitto.host, port=mosquitto.port), "g", "t/#", persistent=True)
    with held(inbox=inbox) as here:
        wait_until(lambda: here.connected, "a session that is kept")
        with publishing(mosquitto) as publisher:
            for number in range(500):
                publisher.publish("t/x", b"%d" % number, qos=1)
            found = deliveries(inbox, 500)
        sends: list[int] = []
        plain = paho.Client._sock_send

        def counted(client: paho.Client, packet: bytes) -> int:
            if isinstance(client, Client):
                sends.append(len(packet))
            return plain(client, packet)

        monkeypatch.setattr(paho.Client, "_sock_send", counted)
        for delivery in found:
            delivery.ack()
        wait_until(lambda: sum(sends) >= 4 * len(found), "all are acknowledged")
        assert len(sends) < len(found) / 4
    assert [int(delivery.payload) for delivery in found] == list(range(500))
    with held(inbox=inbox) as here:
        wait_until(lambda: here.connected, "the session")
        here.publish("t/x", b"last")
        assert [delivery.payload for delivery in deliveries(inbox, 1)] == [b"last"]


def test_all_that_a_message_says_of_itself_is_heard_however_many_are_read_at_once(mosquitto: Mosquitto) -> None:
    inbox = Inbox()
    settings = BrokerSettings(host=mosquitto.host, port=mosquitto.port, protocol="5")
    sent = [(bytes([number % 256]) * (number * 97 % 3000), number % 3, number % 2) for number in range(300)]
    with running(settings, "g", "t/#", inbox=inbox) as here:
        wait_until(lambda: here.connected, "a connection")
        for number, (payload, kind, qos) in enumerate(sent):
            properties = [("number", str(number)), ("of", "many")] if kind else []
            here.publish(
                "t/ü/x", payload, qos=qos, user_properties=properties, content_type="a/b" if kind > 1 else None
            )
        found = deliveries(inbox, len(sent))
    assert [(d.topic, d.payload, d.retain, d.redelivered) for d in found] == [
        ("t/ü/x", payload, False, False) for payload, _, _ in sent
    ]
    assert [d.properties for d in found] == [
        (("number", str(number)), ("of", "many")) if kind else () for number, (_, kind, _) in enumerate(sent)
    ]


def deliveries(inbox: Inbox, count: int) -> list[Delivery]:
    found: list[Delivery] = []
    while len(found) < count:
        arrival = inbox.get(WAIT_S)
        assert arrival is not None, f"only {len(found)} of {count} came"
        if isinstance(arrival, Delivery):
            found.append(arrival)
    return found


class Window(bytearray):
    """A payload that can be watched, as bytes cannot."""


class Pausing(Inbox):
    """It is full when it is told to be."""

    is_full = False

    def heard(self) -> bool:
        return any(isinstance(arrival, Delivery) for arrival in self._arrivals)

    @property
    def full(self) -> bool:
        return self.is_full


def test_with_its_connection_a_client_goes_and_all_that_it_held(mosquitto: Mosquitto) -> None:
    """At once, and not when Python next looks for rings: a window may be megabytes, and connections flap."""
    inbox = Pausing()
    settings = BrokerSettings(host=mosquitto.host, port=mosquitto.port)
    gc.collect()
    gc.disable()
    try:
        with running(settings, "g", "t/#", inbox=inbox) as held:
            wait_until(lambda: held.connected, "a connection")
            held.publish("t/x", b"heard")
            wait_until(inbox.heard, "a delivery waits to be acknowledged")
            inbox.is_full = True  # no acknowledgement is read from now on
            left = [weakref.ref(held._client)]
            for payload in (Window(1000) for _ in range(10)):
                held.publish("t/x", payload)
                left.append(weakref.ref(payload))
            del payload
            assert None not in [found() for found in left]
        assert [found() for found in left] == [None] * 11
    finally:
        gc.enable()
