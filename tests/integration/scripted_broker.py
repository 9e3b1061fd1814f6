"""A broker that is a script of bytes, for what a real one does not say when it is asked to."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from integration.brokers import HOST, WAIT_S

CONNACK = b"\x20\x03\x00\x00\x00"
RESET = struct.pack("ii", 1, 0)


def publish(payload: bytes, mid: int, *, topic: bytes = b"t/x", dup: bool = False) -> bytes:
    """Return a PUBLISH of QoS 1 as MQTT 5 has it."""
    rest = struct.pack("!H", len(topic)) + topic + struct.pack("!H", mid) + b"\x00" + payload
    assert len(rest) < 16384
    return bytes([0x3A if dup else 0x32, len(rest) & 127 | 128, len(rest) >> 7]) + rest


class Script:
    """It answers one CONNECT after the other, with a CONNACK and one part each, and is over then.

    `hang_up`: it closes each connection but the last, `reset`: with a RST; else it waits for the client to do so.
    """

    def __init__(
        self,
        parts: Sequence[bytes],
        *,
        hang_up: bool = False,
        reset: bool = False,
        wrap: Callable[[socket.socket], socket.socket] = lambda sock: sock,
    ) -> None:
        self.said: list[bytearray] = []
        """What the client has said on each connection, behind its CONNECT."""
        self.present: socket.socket | None = None
        self._parts, self._hang_up, self._reset, self._wrap = parts, hang_up or reset, reset, wrap
        self._server = socket.create_server((HOST, 0))
        self.port = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        for left, part in zip(range(len(self._parts) - 1, -1, -1), self._parts, strict=True):
            with suppress(OSError), self._wrap(self._server.accept()[0]) as sock:
                sock.recv(65536)
                self.said.append(bytearray())
                self.present = sock
                sock.sendall(CONNACK + part)
                while (left == 0 or not self._hang_up) and (chunk := sock.recv(65536)):
                    self.said[-1] += chunk
                if self._reset:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def close(self) -> None:
        """Wait for its end: the client has to have ended its last connection before."""
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        self._server.close()
