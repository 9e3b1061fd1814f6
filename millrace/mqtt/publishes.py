"""The whole PUBLISH packets at the begin of what was read from a broker, many at once; no I/O here.

What is rare is left to the library: QoS 2, properties that say more than a content type and user properties, and all
that is not as the standard has it.
"""

from __future__ import annotations

from typing import NamedTuple

_PUBLISH = 0x30
_CONTENT_TYPE, _USER_PROPERTY = 0x03, 0x26

Properties = tuple[tuple[str, str], ...]


class Publish(NamedTuple):
    """A message as it came; `mid` is 0 for QoS 0."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    mid: int
    properties: Properties


def read(data: memoryview, *, has_properties: bool) -> tuple[list[Publish], int]:
    """Return the messages up to the first packet that is another, rare, or not all there, and how many bytes they are.

    `has_properties`: the connection speaks MQTT 5.
    """
    found: list[Publish] = []
    at, end = 0, len(data)
    while at < end:
        first = data[at]
        qos = (first >> 1) & 3
        if first & 0xF0 != _PUBLISH or qos > 1:
            break
        try:
            start, length = _number(data, at + 1)
            stop = start + length
            if stop > end:
                break
            found.append(_message(data, start, stop, first, qos, has_properties))
        except (ValueError, IndexError):
            break
        at = stop
    return found, at


def _message(data: memoryview, at: int, stop: int, first: int, qos: int, has_properties: bool) -> Publish:
    """Return the message whose packet goes on at `at` and ends before `stop`. Errors: ValueError, IndexError."""
    topic, at = _text(data, at, stop)
    mid = 0
    if qos:
        mid, at = data[at] << 8 | data[at + 1], at + 2
    properties: Properties = ()
    if has_properties:
        at, length = _number(data, at)
        if length:
            properties, at = _properties(data, at, at + length), at + length
    if at > stop or not topic:
        raise ValueError("it ends before its payload, or has no topic")
    return Publish(topic, bytes(data[at:stop]), qos, bool(first & 1), bool(first & 8), mid, properties)


def _properties(data: memoryview, at: int, stop: int) -> Properties:
    found, has_content_type = [], False
    while at < stop:
        kind, at = data[at], at + 1
        if kind == _USER_PROPERTY:
            name, at = _text(data, at, stop)
            value, at = _text(data, at, stop)
            found.append((name, value))
        elif kind == _CONTENT_TYPE and not has_content_type:
            _, at = _text(data, at, stop)
            has_content_type = True
        else:
            raise ValueError("a rare property, or a second content type")
    return tuple(found)


def _number(data: memoryview, at: int) -> tuple[int, int]:
    """Return where the bytes behind a variable length number begin, and the number."""
    value = data[at]
    if value < 128:
        return at + 1, value
    value &= 127
    for shift in (7, 14, 21):
        at += 1
        byte = data[at]
        value |= (byte & 127) << shift
        if byte < 128:
            return at + 1, value
    raise ValueError("a number of more than four bytes")


def _text(data: memoryview, at: int, stop: int) -> tuple[str, int]:
    """Return a text and where the bytes behind it begin."""
    end = at + 2 + (data[at] << 8 | data[at + 1])
    if end > stop:
        raise ValueError("a text that is longer than its packet")
    text = str(data[at + 2 : end], "utf-8")
    if "\0" in text:
        raise ValueError("a text with a character that the standard forbids")
    return text, end
