"""A listening TCP socket for a program's own HTTP, or a plain word that the address is taken."""

from __future__ import annotations

import os
import socket

KEEPALIVE_S = 60


class AddressTaken(Exception):
    """The address cannot be listened on; exit 69."""


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on `host` and `port` (0 for a free one); AddressTaken says who to look for."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise AddressTaken(
            f"cannot listen on {host} port {port}: {os.strerror(error.errno or 0)};"
            f" see who does: ss -ltnp sport = :{port}"
        ) from None
    # Accepted connections take these over. Without the first, Nagle holds a short answer back for 40 ms; without the
    # others, a peer that lost its power in the middle of a request keeps its place for ever.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
    return listener
