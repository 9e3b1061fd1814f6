"""What we hear of a broker's bytes is what paho by itself hears of them, whatever they are and wherever a read ends."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import pairwise
from typing import Any, Literal, NoReturn
from unittest.mock import patch

import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties, VariableByteIntegers

from millrace.inbox import Delivery, Inbox
from millrace.mqtt import dialling
from millrace.mqtt.client import Client
from millrace.mqtt.connection import Connection, _Held
from millrace.settings import BrokerSettings

Protocol = Literal["5", "3.1.1"]
PINGRESP, LENGTH_OF_FIVE_BYTES = b"\xd0\x00", b"\x30\xff\xff\xff\xff\x01"
DISCONNECT = b"\xe0\x00"


class Plain(Client):
    """The connection's client as paho reads by itself, but for a packet that begins with a zero: it ends all at once.

    What paho makes of that hangs on where a read ends.
    """

    loop_read = paho.Client.loop_read

    def _sock_recv(self, size_bytes: int) -> bytes:
        found = paho.Client._sock_recv(self, size_bytes)
        if found == b"\0" and not self._in_packet["command"]:
            raise ConnectionError("no packet begins so")
        return found


def heard(kind: type[Client], chunks: Iterable[bytes], protocol: Protocol) -> tuple[list[object], bool]:
    """Return what arrives of these bytes, with the packet that each delivery acknowledges; whether it has ended."""
    inbox = Inbox()
    connection = Connection(BrokerSettings(), "g", None, [], persistent=True, max_payload_bytes=1 << 20, inbox=inbox)
    held = _Held(1, protocol)
    with patch.object(dialling, "Client", kind):
        client = connection._make_client(held)
    ours, brokers = socket.socketpair()
    with closing(ours), closing(brokers):
        ours.setblocking(False)
        client._sock = ours
        for chunk in chunks:
            if client._sock is None:
                break
            brokers.sendall(chunk)
            while client._sock is not None and select.select([ours], [], [], 0)[0]:
                client.loop_read()
        assert connection._failure is None
        client._sock = None
    found: list[object] = []
    while (arrival := inbox.get(0)) is not None:
        acknowledges = getattr(arrival.ack, "args", None) if isinstance(arrival, Delivery) else None
        found.append((arrival, acknowledges))
    return found, held.ended.is_set()


def text(value: str) -> bytes:
    encoded = value.encode()
    return len(encoded).to_bytes(2, "big") + encoded


def packet(first: int, rest: bytes) -> bytes:
    return bytes([first]) + VariableByteIntegers.encode(len(rest)) + rest


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff"), max_size=12)
PROPERTIES = st.one_of(
    st.builds(lambda name, value: b"\x26" + text(name) + text(value), TEXTS, TEXTS),
    st.builds(lambda value: b"\x03" + text(value), TEXTS),  # content type, perhaps twice
    st.builds(lambda value: b"\x08" + text(value), TEXTS),  # response topic
    st.builds(lambda value: b"\x09" + len(value).to_bytes(2, "big") + value, st.binary(max_size=5)),
    st.sampled_from([b"\x01\x00", b"\x01\x01", b"\x01\x02", b"\x02\x00\x00\x00\x3c", b"\x23\x00\x01", b"\x23\x00\x00"]),
    st.sampled_from(
        [b"\x0b\x01", b"\x0b\x80\x01", b"\x11\x00\x00\x00\x01", b"\x7f\x00", b"\xa6\x00\x00\x01a\x00\x01b"]
    ),
)


@st.composite
def publishes(draw: st.DrawFn, protocol: Protocol) -> bytes:
    qos = draw(st.sampled_from([0, 0, 1, 1, 1, 1, 2, 3]))
    topic = draw(st.one_of(TEXTS.map(text), st.just(text("t/x")), st.binary(max_size=4).map(lambda b: b"\x00\x04" + b)))
    mid = draw(st.integers(0, 65535)).to_bytes(2, "big") if qos else b""
    properties = b"".join(draw(st.lists(PROPERTIES, max_size=3))) if protocol == "5" else b""
    size = VariableByteIntegers.encode(max(0, len(properties) + draw(st.sampled_from([0] * 8 + [-1, 1, 200]))))
    said = size + properties if protocol == "5" else b""
    flags = draw(st.sampled_from([0, 1, 8, 9]))
    rest = topic + mid + said + draw(st.binary(max_size=200))
    cut_off = draw(st.sampled_from([False] * 4 + [True]))  # its length says so too
    return packet(0x30 | qos << 1 | flags, rest[: draw(st.integers(0, 9))] if cut_off else rest)


@st.composite
def streams(draw: st.DrawFn, protocol: Protocol) -> bytes:
    others = st.sampled_from([PINGRESP, b"\x40\x02\x00\x07", b"\x62\x02\x00\x01", DISCONNECT, LENGTH_OF_FIVE_BYTES])
    whole = b"".join(draw(st.lists(st.one_of(publishes(protocol), publishes(protocol), others), max_size=6)))
    for at in draw(st.lists(st.integers(0, max(0, len(whole) - 1)), max_size=2)):  # garbled
        whole = whole[:at] + draw(st.binary(max_size=2)) + whole[at + 1 :]
    return whole[: draw(st.integers(0, len(whole)))] if draw(st.booleans()) else whole


def cut(whole: bytes, cuts: Sequence[int]) -> list[bytes]:
    return [whole[begin:end] for begin, end in pairwise([0, *sorted(cuts), len(whole)]) if end > begin]


@given(st.data())
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_any_bytes_are_heard_as_paho_hears_them(protocol: Protocol, data: st.DataObject) -> None:
    whole = data.draw(streams(protocol))
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=4))
    assert heard(Client, cut(whole, cuts), protocol) == heard(Plain, [whole], protocol)


def properties() -> bytes:
    made = Properties(PacketTypes.PUBLISH)
    made.UserProperty = [("id", "k3v9x0pa-1"), ("ü", "")]
    made.ContentType = "application/json"
    return bytes(made.pack())


WHOLE = b"".join(
    [
        packet(0x32, text("t/x") + b"\x00\x01" + properties() + b"first"),
        packet(0x3A, text("t/x") + b"\x00\x01" + properties() + b"first"),  # the same again, as a duplicate
        PINGRESP,
        packet(0x34, text("t/x") + b"\x00\x02" + b"\x00" + b"of QoS 2"),
        packet(0x31, text("t/ü") + b"\x00" + bytes(130)),
        packet(0x62, b"\x00\x02"),
        packet(0x32, text("t/x") + b"\x00\x03" + b"\x02\x01\x01" + b"last"),
    ]
)


def test_a_packet_may_be_cut_at_any_byte() -> None:
    told = heard(Plain, [WHOLE], "5")
    assert len(told[0]) == 5
    assert not told[1]
    assert heard(Client, [bytes([byte]) for byte in WHOLE], "5") == told
    for at in range(len(WHOLE)):
        assert heard(Client, cut(WHOLE, [at]), "5") == told


class Unanswered(Client):
    """Much of what it has published has no answer yet; no message is to be read by paho."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._out_messages.update({mid: paho.MQTTMessage(mid) for mid in range(1, 50)})

    def _handle_publish(self) -> NoReturn:
        raise AssertionError("read by paho")


def test_messages_are_read_at_once_however_much_of_ours_is_unanswered() -> None:
    message = packet(0x32, text("t/x") + b"\x00\x01" + properties() + b"many")
    assert len(heard(Unanswered, [message, 30 * message], "5")[0]) == 31


def test_a_packet_that_says_that_it_is_very_large_takes_no_more_than_what_comes_of_it() -> None:
    """The most that a packet can say is 256 MB."""
    asked: list[int] = []
    plain = paho.Client._sock_recv

    def counted(client: paho.Client, size_bytes: int) -> bytes:
        asked.append(size_bytes)
        return plain(client, size_bytes)

    with patch.object(paho.Client, "_sock_recv", counted):
        assert heard(Client, [b"\x30\xff\xff\xff\x7f", b"\x00\x03t/x", bytes(1000)], "5") == ([], False)
    assert max(asked) <= 1 << 20


def test_a_byte_order_mark_in_a_property_is_text_as_any_other() -> None:
    """The standard has it so; paho would end the connection, and the message would come again."""
    marked = packet(0x32, text("t/x") + b"\x00\x01" + b"\x09\x26" + text("\ufeffa") + text(""))
    (found,), has_ended = heard(Client, [marked], "5")
    assert isinstance(found, tuple)
    assert found[0].properties == (("\ufeffa", ""),)
    assert not has_ended
