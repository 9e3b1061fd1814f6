"""Messages read many at once are what the standard's own packets say, wherever a read ends; all else is left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from millrace.mqtt import publishes
from millrace.mqtt.publishes import Publish

TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
PUBACK = bytes([0x40, 2, 0, 7])


def number(value: int) -> bytes:
    made = bytearray()
    while True:
        value, low = value >> 7, value & 127
        made.append(low | (128 if value else 0))
        if not value:
            return bytes(made)


def text(value: str) -> bytes:
    encoded = value.encode()
    return len(encoded).to_bytes(2, "big") + encoded


def packet(message: Publish, properties: bytes) -> bytes:
    first = 0x30 | message.dup << 3 | message.qos << 1 | message.retain
    mid = message.mid.to_bytes(2, "big") if message.qos else b""
    rest = text(message.topic) + mid + properties + message.payload
    return bytes([first]) + number(len(rest)) + rest


def packed(message: Publish, content_type: str | None = None) -> bytes:
    """Return the message's properties as the library packs them."""
    made = Properties(PacketTypes.PUBLISH)
    if message.properties:
        made.UserProperty = list(message.properties)
    if content_type is not None:
        made.ContentType = content_type
    return bytes(made.pack())


@st.composite
def messages(draw: st.DrawFn) -> Publish:
    qos = draw(st.integers(0, 1))
    return Publish(
        draw(TEXTS),
        draw(st.binary(max_size=300)),
        qos,
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.integers(1, 65535)) if qos else 0,
        tuple(draw(st.lists(st.tuples(TEXTS, TEXTS), max_size=3))),
    )


@given(sent=st.lists(messages(), max_size=5), is_v5=st.booleans(), content_type=st.none() | TEXTS, cut=st.floats(0, 1))
def test_wherever_a_read_ends_the_messages_before_are_heard_and_the_rest_is_left(
    sent: list[Publish], is_v5: bool, content_type: str | None, cut: float
) -> None:
    if not is_v5:
        sent = [message._replace(properties=()) for message in sent]
    packets = [packet(message, packed(message, content_type) if is_v5 else b"") for message in sent]
    whole = b"".join(packets)
    read = whole[: round(cut * len(whole))]
    there = next(count for count in range(len(sent), -1, -1) if len(b"".join(packets[:count])) <= len(read))
    assert publishes.read(memoryview(read), has_properties=is_v5) == (sent[:there], len(b"".join(packets[:there])))


LAST = Publish("t/x", b"last", 1, retain=False, dup=False, mid=9, properties=())
RARE = {
    "another packet": PUBACK,
    "qos 2": packet(LAST._replace(qos=2), b""),
    "no such qos": packet(LAST._replace(qos=3), b""),
    "no topic": packet(LAST._replace(topic=""), b""),
    "a topic that is no UTF-8": bytes([0x30, 6, 0, 3, 0xFF, 0xFE, 0xFD, 0x41]),
    "a topic longer than its packet": bytes([0x30, 4, 0, 200, 0x41, 0x42]),
    "cut off within its message id": bytes([0x32, 5, 0, 3, 0x41, 0x42, 0x43]),
    "a length of five bytes": bytes([0x30, 0x80, 0x80, 0x80, 0x80, 1]),
}


@pytest.mark.parametrize("rare", RARE.values(), ids=list(RARE))
def test_what_is_rare_or_not_by_the_standard_is_left_to_the_library(rare: bytes) -> None:
    first = packet(LAST, b"")
    read = memoryview(first + rare + first)
    assert publishes.read(read, has_properties=False) == ([LAST], len(first))


@pytest.mark.parametrize(
    "properties",
    [
        pytest.param(b"\x03\x23\x00\x01", id="topic alias"),
        pytest.param(b"\x05\x02\x00\x00\x00\x3c", id="expiry"),
        pytest.param(b"\x08\x03\x00\x01a\x03\x00\x01b", id="two content types"),
        pytest.param(b"\x08\x26\x00\x01a\x00\x02b\x00", id="a forbidden character"),
        pytest.param(b"\x05\x0b\x01", id="cut off"),
        pytest.param(b"\x02\x03\x00", id="half a text"),
        pytest.param(b"\x03\x03\x00\x09", id="a text beyond its end"),
        pytest.param(b"\x7f\x01\x00", id="longer than the packet"),
    ],
)
def test_properties_that_are_rare_or_wrong_are_left_to_the_library(properties: bytes) -> None:
    first, strange = packet(LAST, b"\x00"), packet(LAST._replace(payload=b""), properties)
    assert publishes.read(memoryview(first + strange), has_properties=True) == ([LAST], len(first))
