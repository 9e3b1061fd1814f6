"""A message as it goes out: its MQTT 5 properties, and whether the broker would take it for its size."""

from __future__ import annotations

from collections.abc import Sequence

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from millrace.inbox import Protocol
from millrace.packet_limit import PacketLimit


def make_properties(
    protocol: Protocol | None, user_properties: Sequence[tuple[str, str]], content_type: str | None
) -> Properties | None:
    """Return what a message says beside its payload; None where it says nothing, or MQTT 3.1.1 has no place for it."""
    if protocol != "5" or not (user_properties or content_type):
        return None
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    if user_properties:
        properties.UserProperty = list(user_properties)
    if content_type:
        properties.ContentType = content_type
    return properties


def why_not(limit: PacketLimit, topic: str, payload: bytes, properties: Properties | None) -> str | None:
    """Say why the broker would not take this message for its size and what to do, as far as is known."""
    if not limit.matters_to(len(payload)):
        return None
    properties_bytes = len(properties.pack()) if properties is not None else 1  # type: ignore[no-untyped-call]
    return limit.why_not(topic, len(payload), properties_bytes)
