"""Answers that were given already, under what decides them: bounded in bytes, the least recently used go first.

No I/O here. Any thread may ask.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from typing import Generic, TypeVar

V = TypeVar("V")

Key = tuple[str, str]
"""What was asked about and who answers, each by its digest."""

ENTRY_BYTES = 400
"""What an entry takes beside its key and value, in the tables that find it."""


class Cache(Generic[V]):
    """Values, each made once for its key as far as the bytes reach."""

    def __init__(self, max_bytes: int) -> None:
        """Hold at most `max_bytes`; with 0 nothing is held."""
        self.max_bytes, self.held_bytes = max_bytes, 0
        self.hits, self.misses = 0, 0
        self._held: OrderedDict[Key, tuple[V, int]] = OrderedDict()
        self._under_way: dict[Key, threading.Event] = {}
        self._lock = threading.Lock()

    def get_or_make(self, key: Key, make: Callable[[], V]) -> tuple[V, bool]:
        """Return the value under `key` and whether it was there; if not, `make` makes it.

        Who asks while another thread makes the same waits for that one. What `make` raises goes to its caller alone,
        and nothing is held of it.
        """
        if not self.max_bytes:
            return make(), False
        while (under_way := self._begin(key)) is not None:
            if not isinstance(under_way, threading.Event):
                return under_way[0], True
            under_way.wait()
        try:
            value = make()
            self._hold(key, value)
        finally:
            with self._lock:
                self._under_way.pop(key).set()
        return value, False

    def _begin(self, key: Key) -> tuple[V, int] | threading.Event | None:
        """Return what is held, or what is to be waited for; None: the caller makes it, and others wait for him."""
        with self._lock:
            held = self._held.get(key)
            if held is not None:
                self.hits += 1
                self._held.move_to_end(key)
                return held
            under_way = self._under_way.get(key)
            if under_way is None:
                self.misses += 1
                self._under_way[key] = threading.Event()
            return under_way

    def _hold(self, key: Key, value: V) -> None:
        size = ENTRY_BYTES + size_bytes(key) + size_bytes(value)
        if size > self.max_bytes:
            return
        with self._lock:
            self._held[key] = (value, size)
            self.held_bytes += size
            while self.held_bytes > self.max_bytes:
                _, (_, gone_bytes) = self._held.popitem(last=False)
                self.held_bytes -= gone_bytes


def size_bytes(value: object) -> int:
    """Return the memory that a value takes with all that it holds; what is held twice counts twice."""
    parts: Iterable[object] = ()
    if isinstance(value, tuple | list):
        parts = value
    elif isinstance(value, dict):
        parts = [*value.keys(), *value.values()]
    elif is_dataclass(value):
        parts = [getattr(value, field.name) for field in fields(value)]
    return sys.getsizeof(value) + sum(map(size_bytes, parts))
