"""How large a packet the broker of the present connection takes, as far as it or the settings say so; pure."""

from __future__ import annotations

HEADROOM_BYTES = 80 << 10  # more than a packet has beside its payload: a topic of at most 64 KiB, attributes of 8 KiB


class PacketLimit:
    """What one connection has learned; another one begins with a new one."""

    def __init__(self, said_bytes: int | None = None, set_bytes: int | None = None) -> None:
        """Take the largest whole packet, as MQTT 5 says it when connecting and as it is set; None where it is not."""
        self._packet_bytes, self._where = said_bytes, "max_packet_size in mosquitto.conf, and a restart"
        if set_bytes is not None and (said_bytes is None or set_bytes < said_bytes):
            self._packet_bytes = set_bytes
            self._where = (
                "max_packet_size or message_size_limit in mosquitto.conf and a restart, then broker.max_packet_bytes"
            )
        self._refused_bytes: int | None = None

    def matters_to(self, payload_bytes: int) -> bool:
        """Whether a payload of this size may be too large; few are near, and only these need to be weighed."""
        is_near = self._packet_bytes is not None and payload_bytes > self._packet_bytes - HEADROOM_BYTES
        return is_near or self._refused_bytes is not None

    def refused(self, payload_bytes: int) -> None:
        """Note that the broker has answered a payload of this size with `packet too large`."""
        self._refused_bytes = min(payload_bytes, self._refused_bytes or payload_bytes)

    def why_not(self, topic: str, payload_bytes: int, properties_bytes: int) -> str | None:
        """Say why a PUBLISH (QoS 1) would not be taken and what to do, or None if nothing speaks against it."""
        if self._refused_bytes is not None and payload_bytes >= self._refused_bytes:
            return (
                f"{payload_bytes} bytes are too large for the broker, which has refused {self._refused_bytes}; "
                "raise its limit (message_size_limit in mosquitto.conf, and a restart)"
            )
        packet_bytes = _packet_bytes(topic, payload_bytes, properties_bytes)
        if self._packet_bytes is not None and packet_bytes > self._packet_bytes:
            return (
                f"a packet of {packet_bytes} bytes is too large for the broker, which takes {self._packet_bytes}; "
                f"raise its limit ({self._where})"
            )
        return None


def _packet_bytes(topic: str, payload_bytes: int, properties_bytes: int) -> int:
    rest = 2 + len(topic.encode()) + 2 + properties_bytes + payload_bytes
    return 1 + max(1, (rest.bit_length() + 6) // 7) + rest
