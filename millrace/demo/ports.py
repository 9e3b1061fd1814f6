"""Ports for programs that are started, killed and started again: nobody else takes one while its owner is dead."""

from __future__ import annotations

import random
import socket

CHOICE = range(10_000, 32_000)  # below those that the kernel gives to outgoing connections


def free_port() -> int:
    """Return a TCP port of loopback that nobody listens on and no other caller gets, here or in another process.

    It is the caller's until its process ends: a name in the kernel says so, of which TCP knows nothing.
    """
    random_ = random.SystemRandom()
    while True:
        port = random_.choice(CHOICE)
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0millrace-port-{port}")
            with socket.socket() as sock:
                sock.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        claim.detach()
        return port
