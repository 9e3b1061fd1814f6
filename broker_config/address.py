"""Addresses to listen on: who can reach one, whether it is free, whether somebody answers there."""

from __future__ import annotations

import ipaddress
import socket


class PortTaken(Exception):
    """The address cannot be listened on, mostly because another program does. Exit 69."""


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach `host`; a name other than localhost counts as reachable."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_free(host: str, port: int) -> None:
    """Return if a broker may listen there; PortTaken if not.

    Asked before a broker starts, since another one on the port would answer for ours while ours is still failing.
    """
    with socket.socket(_family(host)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            raise PortTaken(
                f"cannot listen on {host} port {port}: {error.strerror}; see who does: ss -ltnp sport = :{port}"
            ) from None


def accepts(host: str, port: int) -> bool:
    """Return whether somebody accepts connections there."""
    with socket.socket(_family(host)) as sock:
        sock.settimeout(1.0)
        return sock.connect_ex((host, port)) == 0


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
