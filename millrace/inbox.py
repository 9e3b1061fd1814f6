"""What has arrived from the broker and is not taken yet: connections, deliveries to acknowledge; bounded in bytes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Protocol = Literal["5", "3.1.1"]
DELIVERY_BYTES = 1024  # what a delivery takes in memory besides its topic and payload, roughly


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection stands. `epoch` counts connections."""

    epoch: int
    protocol: Protocol


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection of `epoch` is gone; whatever it had not delivered will come again or must be sent again."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message that arrived and waits for `ack()`."""

    topic: str
    payload: bytes
    retain: bool
    redelivered: bool
    properties: tuple[tuple[str, str], ...]
    epoch: int
    ack: Callable[[], None] = field(repr=False, compare=False)

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, roughly: many small messages fill it too."""
        return DELIVERY_BYTES + len(self.topic) + len(self.payload)


class Inbox:
    """What has arrived and is not taken yet; says when it holds as many bytes as it should.

    It takes Connected, Disconnected and Delivery from the connection, and whatever else its owner waits for.
    """

    def __init__(self, max_bytes: int = 8 << 20) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._arrivals: deque[object] = deque()
        self._ready = threading.Condition()

    def put(self, arrival: object) -> None:
        """Add an arrival; never blocks."""
        with self._ready:
            self._arrivals.append(arrival)
            if isinstance(arrival, Delivery):
                self._bytes += arrival.size_bytes
            self._ready.notify()

    def get(self, timeout_s: float) -> object | None:
        """Return the oldest arrival, or None if none came in time."""
        with self._ready:
            if not self._arrivals:
                self._ready.wait(timeout_s)
            if not self._arrivals:
                return None
            arrival = self._arrivals.popleft()
            if isinstance(arrival, Delivery):
                self._bytes -= arrival.size_bytes
            return arrival

    @property
    def full(self) -> bool:
        """Whether reading from the network should pause."""
        return self._bytes >= self._max_bytes
