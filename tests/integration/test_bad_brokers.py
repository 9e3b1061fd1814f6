"""Whatever a broker says, cuts off or repeats, a connection hears what is whole or is made again, never stuck."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import paho.mqtt.client as paho
import pytest
from integration.brokers import HOST, WAIT_S, wait_until
from integration.scripted_broker import Script, publish

from millrace.inbox import Connected, Delivery, Inbox
from millrace.mqtt import Connection
from millrace.settings import BrokerSettings

PINGRESP = b"\xd0\x00"


@contextmanager
def hearing(broker: Script, inbox: Inbox, **options: Any) -> Iterator[list[BaseException]]:
    """A connection to it, run as a program does; what it raised. `options` of its settings."""
    said = {"host": HOST, "port": broker.port, "protocol": "5", "reconnect_max_s": 0.05} | options
    settings = BrokerSettings.model_validate(said)
    held = Connection(settings, "g", None, [], persistent=True, max_payload_bytes=1 << 20, inbox=inbox)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            held.run()
        except MemoryError as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield failures
    finally:
        held.interrupt()
        thread.join(WAIT_S)
        assert not thread.is_alive()
        broker.close()


def arrivals(inbox: Inbox, until: Callable[[object], bool]) -> list[object]:
    """Return what arrives up to the first that fulfils `until`."""
    found: list[object] = []
    while not found or not until(found[-1]):
        arrival = inbox.get(WAIT_S)
        assert arrival is not None, f"only this came: {found}"
        found.append(arrival)
    return found


def payloads(found: Sequence[object]) -> list[bytes]:
    return [arrival.payload for arrival in found if isinstance(arrival, Delivery)]


def is_last(arrival: object) -> bool:
    return isinstance(arrival, Delivery) and arrival.payload == b"last"


def test_half_a_packet_before_a_lost_connection_is_forgotten_with_it() -> None:
    inbox = Inbox()
    whole = publish(b"cut", 7)
    with hearing(Script([publish(b"first", 1) + whole[:-2], whole + publish(b"last", 8)], hang_up=True), inbox):
        assert payloads(arrivals(inbox, is_last)) == [b"first", b"cut", b"last"]


GARBAGE = {
    "no packet of MQTT": b"HTTP/1.1 400 Bad Request\r\n".ljust(200),
    "zeros": bytes(100),
    "a text beyond its packet": bytes([0x30, 4, 0, 200, 0x41, 0x42]),
    "an unknown property": bytes([0x30, 7, 0, 1, 0x41, 2, 0x7F, 0, 0]),
    "an answer without a word": b"\x90\x00",
    "an unknown reason to disconnect": b"\xe0\x01\x77",
    "no such QoS": bytes([0x36, 6, 0, 1, 0x41, 0, 1, 0]),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=list(GARBAGE))
def test_after_garbage_the_connection_is_made_again(garbage: bytes) -> None:
    inbox = Inbox()
    with hearing(Script([publish(b"first", 1) + garbage, publish(b"last", 2)]), inbox):
        found = arrivals(inbox, is_last)
    assert payloads(found) == [b"first", b"last"]
    assert [arrival.epoch for arrival in found if isinstance(arrival, Connected)] == [1, 2]


def test_a_topic_that_is_no_text_is_heard_as_one_that_nobody_has_and_holds_nobody_up() -> None:
    inbox = Inbox()
    strange = publish(b"strange", 1, topic=b"millrace/device/c\xff/frame/top")
    with hearing(Script([strange + publish(b"last", 2)]), inbox):
        found = arrivals(inbox, is_last)
    assert payloads(found) == [b"strange", b"last"]
    assert [one.topic for one in found if isinstance(one, Delivery)] == ["millrace/device/c\ufffd/frame/top", "t/x"]


def test_a_connection_that_is_reset_is_made_again() -> None:
    inbox = Inbox()
    with hearing(Script([b"", publish(b"last", 2)], reset=True), inbox):
        assert payloads(arrivals(inbox, is_last)) == [b"last"]


def test_a_read_that_finds_no_memory_ends_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """paho's thread would end in silence, and the connection be held for standing for ever."""
    inbox = Inbox()
    broker = Script([b""])
    with hearing(broker, inbox) as failures:
        arrivals(inbox, lambda arrival: isinstance(arrival, Connected))

        def full(_client: paho.Client, _size_bytes: int) -> bytes:
            raise MemoryError

        monkeypatch.setattr(paho.Client, "_sock_recv", full)
        assert broker.present is not None
        broker.present.sendall(PINGRESP)
        wait_until(lambda: len(failures) == 1, "it has ended")


def test_a_network_loop_that_gives_up_in_silence_is_a_lost_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """paho does so where it cannot wait for the socket, as for one with too high a number."""
    inbox = Inbox()
    broker = Script([b"", publish(b"last", 1)])
    with hearing(broker, inbox):
        arrivals(inbox, lambda arrival: isinstance(arrival, Connected))
        refused: list[None] = []

        def refuse_once(*arguments: Any) -> Any:
            if refused:
                return select.select(*arguments)
            refused.append(None)
            raise ValueError("filedescriptor out of range in select()")

        monkeypatch.setattr(paho, "select", SimpleNamespace(select=refuse_once))
        assert broker.present is not None
        broker.present.sendall(PINGRESP)
        assert payloads(arrivals(inbox, is_last)) == [b"last"]


def test_what_an_earlier_connection_brought_is_not_acknowledged_to_a_later_one() -> None:
    """The broker sends it again in the session that it has kept: that one is acknowledged, and once."""
    inbox = Inbox()
    again = publish(b"kept", 7, dup=True) + publish(b"last", 8)
    broker = Script([publish(b"kept", 7), again], hang_up=True)
    with hearing(broker, inbox):
        early, late, last = (one for one in arrivals(inbox, is_last) if isinstance(one, Delivery))
        assert (early.payload, early.redelivered, late.payload, late.redelivered) == (b"kept", False, b"kept", True)
        early.ack()
        last.ack()
        late.ack()
        wait_until(lambda: len(broker.said[1]) >= 8, "two acknowledgements")
    assert broker.said[1].startswith(b"\x40\x02\x00\x08\x40\x02\x00\x07")
    assert broker.said[1].count(b"\x40\x02") == 2
