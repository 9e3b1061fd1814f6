"""A message that the broker is too small for holds nobody up; against a Mosquitto with its limits, as others run it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paho.mqtt.client as paho
import pytest
from integration.brokers import (
    HOST,
    WAIT_S,
    Address,
    Client,
    free_port,
    open_mosquitto,
    skip_without_mosquitto,
    wait_until,
)

from device_agent.app import assemble
from device_agent.keeper import Keeper
from device_agent.packing import Admission
from device_agent.settings import AgentSettings
from edge_gateway.admission import Arrived, admit
from millrace import clock, events
from millrace.inbox import Connected, Delivery, Inbox
from millrace.mqtt import Connection
from millrace.ranges import RangeSet
from millrace.settings import BrokerSettings

pytestmark = pytest.mark.mosquitto

LIMIT_BYTES, SMALL_BYTES, LARGE_BYTES = 20_000, 2_000, 30_000
NOW = clock.Instant(1_790_000_000_000_000_000, "f00d", 5)


@contextmanager
def small_mosquitto(
    home: Path, option: str, limit_bytes: int = LIMIT_BYTES, port: int | None = None
) -> Iterator[Address]:
    """A Mosquitto that takes nothing above its limit, said with one of its two options."""
    skip_without_mosquitto()
    with open_mosquitto(home, [f"{option} {limit_bytes}"], port) as address:
        yield address


class Receiver(Client):
    """A gateway as far as a device needs one: it takes events and says what it has."""

    taken: dict[int, events.Event]
    """What came, by seq, all of one epoch."""
    statuses: list[dict[str, Any]]

    def __enter__(self) -> Receiver:
        super().__enter__()
        self.taken, self.statuses = {}, []
        self.paho.on_message = self._on_message
        self.subscribe("millrace/device/#")
        self.publish(
            "millrace/gateway/g1/status", json.dumps({"state": "online", "session": "s1"}).encode(), retain=True
        )
        return self

    def _on_message(self, _client: Any, _userdata: Any, message: paho.MQTTMessage) -> None:
        if message.topic.endswith("/receipt"):
            return
        if message.topic.endswith("/status"):
            said = json.loads(message.payload)
            self.statuses.append(said)
            if said["state"] == "online":
                self._receipt(said["epoch"])
            return
        found = admit("millrace", message.topic, bytes(message.payload), (), NOW, redelivered=False)
        assert isinstance(found, list)
        arrived = found[0]
        assert isinstance(arrived, Arrived)
        assert arrived.event is not None
        self.taken[arrived.event.key.seq] = arrived.event
        self._receipt(arrived.event.key.epoch)

    def _receipt(self, epoch: str) -> None:
        ranges = [list(pair) for pair in RangeSet((seq, seq) for seq in self.taken)]
        value = {"gateway": "g1", "epoch": epoch, "ranges": ranges, "window_bytes": 1 << 20}
        self.paho.publish("millrace/device/cam-1/receipt", json.dumps(value).encode(), 1)


def frame(size_bytes: int) -> Admission:
    noise = np.random.default_rng(size_bytes).integers(0, 255, (1, size_bytes), np.uint8)
    picture = bytes(cv2.imencode(".png", noise)[1].tobytes())
    return Admission("top", events.FRAME, NOW, picture=picture, content_type="image/png")


def reading(number: int) -> Admission:
    return Admission("top", events.READING, NOW, {"number": number})


@contextmanager
def agent(
    home: Path, broker: Address, protocol: str, held: list[Admission], limit_bytes: int | None = None
) -> Iterator[Keeper]:
    """An agent's own parts, run as it runs them, with no camera: it holds these from the start."""
    known = {"port": broker.port, "protocol": protocol, "reconnect_max_s": 0.2, "max_packet_bytes": limit_bytes}
    settings = AgentSettings.model_validate(
        {
            "device": "cam-1",
            "state_dir": home / "agent",
            "broker": known,
            "publish": {"resend_after_s": 0.3, "resend_max_s": 1.0},
            "spool": {"durability": {"frame": "power"}, "ballast_bytes": 0},
            "channels": {"top": {"source": {"kind": "conveyor"}}},
        }
    )
    spool, actors = assemble(settings, clock.SystemClock())
    spool.admit(held)
    mqtt, keeper = actors[:2]
    threads = [threading.Thread(target=actor.run) for actor in (mqtt, keeper)]
    for thread in threads:
        thread.start()
    try:
        yield keeper.run.__self__  # type: ignore[attr-defined]
    finally:
        for actor, thread in ((keeper, threads[1]), (mqtt, threads[0])):
            actor.interrupt()
            thread.join(WAIT_S)
        spool.close()


def holding(*large: int) -> list[Admission]:
    """Ten events, those with these seqs too large for the broker, and every second one of the others a frame."""
    return [
        frame(LARGE_BYTES) if seq in large else frame(SMALL_BYTES) if seq % 2 else reading(seq) for seq in range(1, 11)
    ]


@pytest.mark.parametrize("option", ["max_packet_size", "message_size_limit"])
def test_what_a_broker_says_is_too_large_is_declared_with_the_reason_and_the_rest_arrives(
    tmp_path: Path, option: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        small_mosquitto(tmp_path, option) as broker,
        Receiver(broker, "g1") as gateway,
        agent(tmp_path, broker, "5", holding(1, 4, 5)) as keeper,
    ):
        wait_until(lambda: set(range(1, 14)) - {1, 4, 5} <= set(gateway.taken), "all that fits is there")
        wait_until(lambda: keeper._spool.held_rows == 0, "nothing waits")
        keeper.interrupt()
        wait_until(lambda: gateway.statuses[-1]["state"] == "offline", "the agent has said its last word")
    records = [event.data for event in gateway.taken.values() if event.type == events.LEDGER]
    assert sorted((record["from"], record["to"]) for record in records) == [(1, 1), (4, 4), (5, 5)]
    for record in records:
        assert record["disposition"] == "lost"
        assert "too large for the broker" in record["reason"]
        assert option in record["reason"]
    assert "broker_disconnected" not in caplog.text
    assert option in gateway.statuses[-1]["too_large"]


def told(gateway: Receiver) -> list[tuple[int, int]]:
    """Return the ranges of the ledger records that came."""
    records = [event.data for event in gateway.taken.values() if event.type == events.LEDGER]
    return sorted((int(record["from"]), int(record["to"])) for record in records)


@pytest.mark.parametrize("option", ["max_packet_size", "message_size_limit"])
def test_where_a_broker_says_nothing_the_setting_says_its_limit(
    tmp_path: Path, option: str, caplog: pytest.LogCaptureFixture
) -> None:
    """On MQTT 3.1.1 one option ends the connection, the other takes the event and drops it."""
    held = [frame(2000), reading(2), frame(300), frame(2000), reading(5)]
    with (
        small_mosquitto(tmp_path, option, 2000) as broker,
        Receiver(broker, "g1") as gateway,
        agent(tmp_path, broker, "3.1.1", held, 2000) as keeper,
    ):
        wait_until(lambda: keeper._spool.held_rows == 0, "nothing waits")
        assert set(gateway.taken) == {2, 3, 5, 6, 7}
        assert told(gateway) == [(1, 1), (4, 4)]
    assert "broker_disconnected" not in caplog.text
    assert "takes 2000; raise its limit (max_packet_size or message_size_limit in mosquitto.conf" in caplog.text


def test_without_the_setting_nothing_is_given_up_and_what_ends_each_connection_is_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held = [reading(1), frame(LARGE_BYTES), reading(3)]
    with (
        small_mosquitto(tmp_path, "max_packet_size") as broker,
        Receiver(broker, "g1") as gateway,
        agent(tmp_path, broker, "3.1.1", held) as keeper,
    ):
        wait_until(lambda: caplog.text.count("broker_disconnected") >= 5, "the large event has ended 5 connections")
        wait_until(lambda: set(gateway.taken) == {1}, "what is before it is there")
        wait_until(lambda: keeper._spool.held_rows == 2, "it waits, and what is behind it")
    assert "set broker.max_packet_bytes to its limit" in caplog.text


def test_what_a_broker_drops_without_a_word_is_kept_and_the_rest_arrives(tmp_path: Path) -> None:
    """Without the setting: the connection stands, since the broker takes the event and drops it."""
    with (
        small_mosquitto(tmp_path, "message_size_limit") as broker,
        Receiver(broker, "g1") as gateway,
        agent(tmp_path, broker, "3.1.1", holding(1, 4, 5)) as keeper,
    ):
        wait_until(lambda: keeper._spool.held_rows == 3, "nothing waits but what is dropped")
        wait_until(lambda: None in [sent_s for _, sent_s in keeper._sender.in_flight.values()], "it is sent again")
        assert set(gateway.taken) == set(range(1, 11)) - {1, 4, 5}


def test_a_ledger_record_that_is_too_large_itself_waits_for_a_larger_broker_and_the_rest_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port, held = free_port(), [frame(300), *(reading(seq) for seq in range(2, 10))]
    with agent(tmp_path, Address(HOST, port), "5", held) as keeper:
        with small_mosquitto(tmp_path, "max_packet_size", 520, port) as broker, Receiver(broker, "g1") as gateway:
            wait_until(lambda: keeper._spool.held_rows == 1, "all else is there")
            wait_until(lambda: keeper._sender.cursor == 10, "the record was tried")
            passes = beats(keeper)
            wait_until(lambda: next(passes) >= 5, "the loop goes on")
            assert not keeper._sender.in_flight
            assert keeper._sender.cursor == 10
            assert set(gateway.taken) == set(range(2, 10))
            assert caplog.text.count("publish_too_large") == 1
        with small_mosquitto(tmp_path, "max_packet_size", port=port) as broker, Receiver(broker, "g1") as gateway:
            wait_until(lambda: keeper._spool.held_rows == 0, "the record is there too")
            assert told(gateway) == [(1, 1)]


def test_a_status_that_is_too_large_is_tried_now_and_then_not_at_each_pass(tmp_path: Path) -> None:
    with (
        small_mosquitto(tmp_path, "max_packet_size", 300) as broker,
        agent(tmp_path, broker, "5", []) as keeper,
    ):
        wait_until(lambda: keeper._sender._connected, "the agent is connected")
        passes = beats(keeper)
        wait_until(lambda: next(passes) >= 2, "it was tried")
        tried_s = keeper._said_s
        wait_until(lambda: next(passes) >= 7, "the loop goes on")
        assert keeper._said_s == tried_s > 0


def beats(keeper: Keeper) -> Iterator[int]:
    """Count the passes of the agent's loop that are seen."""
    seen, last_s = 0, keeper.beat._last_s
    while True:
        seen, last_s = seen + (keeper.beat._last_s != last_s), keeper.beat._last_s
        yield seen


def test_what_just_fits_into_the_brokers_limit_is_sent_and_a_byte_more_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_mosquitto(tmp_path, "max_packet_size") as broker:
        inbox = Inbox()
        settings = BrokerSettings(port=broker.port, protocol="5")
        held = Connection(settings, "d1", None, ["d1/#"], persistent=False, max_payload_bytes=1 << 20, inbox=inbox)
        thread = threading.Thread(target=held.run)
        thread.start()
        wait_until(lambda: held.connected, "it is connected")
        how: dict[str, Any] = {"user_properties": [("a", "b")], "content_type": "image/png"}
        most = max(
            size for size in range(LIMIT_BYTES - 200, LIMIT_BYTES) if held.too_large("d1/x", bytes(size), **how) is None
        )
        assert not any(held.publish("d1/x", bytes(most + 1), **how) for _ in range(3))
        assert caplog.text.count("publish_too_large") == 1
        assert held.publish("d1/x", bytes(most), **how)
        arrivals = (inbox.get(WAIT_S) for _ in range(2))
        assert [type(arrival) for arrival in arrivals] == [Connected, Delivery]
        assert held.connected
        held.interrupt()
        thread.join(WAIT_S)
