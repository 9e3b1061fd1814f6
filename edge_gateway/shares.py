"""Whose turn it is: what arrived waits by device, each has its turn, and the one that floods is turned away. No I/O.

A device alone may use everything. Only where room is short, or above the hard rate, is anything turned away, and then
from whoever has most waiting. Who was turned away and does not pause is served little while others are heard: serving
it costs the time that hearing them needs. What is kept for a device is bounded by what waits and by who was turned
away of late.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")
BURST_S = 2.0  # a device that was quiet may send for so long at twice its rate
COMPANY_S = 10.0  # who was heard within this is on the floor too
CALM_S = 10.0  # after so long without being turned away, a device's window doubles again
LULL_S = 0.005  # a device that sends nothing for so long waits for its receipts
INDULGED_EVERY_S = 0.05  # one of those who do not pause is served so often
HALVINGS_MAX = 6
BUCKETS_MIN = 64


@dataclass(slots=True)
class _Queue(Generic[T]):
    """What waits of one device."""

    items: deque[tuple[T, int]] = field(default_factory=deque)
    size_bytes: int = 0


@dataclass(slots=True)
class _Bucket:
    """What a device may send at once, in seconds of its rate: full at BURST_S."""

    events: float
    bytes: float
    at_s: float


@dataclass(slots=True)
class TurnedAway:
    """How often a device was turned away, when last, and how often its window was halved for it."""

    events: int
    last_s: float
    halved_s: float
    halvings: int


class Shares(Generic[T]):
    """Queues for each device, served in turn. One thread offers and takes; others may ask for windows and facts."""

    def __init__(
        self, max_bytes: int, window_bytes: int, events_s: float, bytes_s: float, max_in_company: int = 1 << 30
    ) -> None:
        """Begin with nothing; `max_bytes` is for all that waits, `max_in_company` events while others are heard too.

        That many must be less than a broker leaves unacknowledged: else what one device has waiting here keeps the
        others' events waiting there.

        A device may send `events_s` events/s and `bytes_s` bytes/s at any time, and have `window_bytes` under way
        without a receipt while it keeps to its share.
        """
        self._max_bytes, self._window_bytes = max_bytes, window_bytes
        self._events_s, self._bytes_s = events_s, bytes_s
        self._max_in_company = max_in_company
        self._last_device, self._last_heard_s = "", 0.0
        self._company_s = float("-inf")
        self._indulged_s = float("-inf")
        self._waiting = 0
        self._queues: dict[str, _Queue[T]] = {}
        self._buckets: dict[str, _Bucket] = {}
        self._buckets_pruned = BUCKETS_MIN
        self._turned_away: dict[str, TurnedAway] = {}
        self.waiting_bytes = 0

    def offer(self, device: str, item: T, size_bytes: int, now_s: float) -> list[tuple[str, T]]:
        """Let an arrival wait for its turn; return who and what is turned away instead: itself, or another's newest.

        One that is larger than all the room is taken when nothing else waits.
        """
        if not self._within_rate(device, size_bytes, now_s):
            self._note(device, now_s)
            return [(device, item)]
        queue = self._queues.get(device)
        if queue is None:
            queue = self._queues[device] = _Queue()
        queue.items.append((item, size_bytes))
        queue.size_bytes += size_bytes
        self.waiting_bytes += size_bytes
        self._waiting += 1
        away = []
        while self._in_company(device, now_s) and self._waiting > self._max_in_company:
            most = max(self._queues, key=lambda name: len(self._queues[name].items))
            away.append((most, self._drop_newest(most)))
            self._note(most, now_s)
        while self.waiting_bytes > self._max_bytes and self.waiting_bytes > size_bytes:
            longest = self._longest(device)
            away.append((longest, self._drop_newest(longest)))
            self._note(longest, now_s)
        return away

    def take(self, now_s: float, has_room: Callable[[str], bool] = lambda _device: True) -> T | None:
        """Return the oldest item of the device whose turn it is, or None if nothing waits or may be served yet.

        A device for which `has_room` is false has no turn.
        """
        free = (name for name in self._queues if not self.is_restrained(name, now_s))
        device = next((name for name in free if has_room(name)), None)
        if device is None:
            if now_s - self._indulged_s < INDULGED_EVERY_S:
                return None
            device = next((name for name in self._queues if has_room(name)), None)
            if device is None:
                return None
            self._indulged_s = now_s
        queue = self._queues.pop(device)
        item, size_bytes = queue.items.popleft()
        queue.size_bytes -= size_bytes
        self.waiting_bytes -= size_bytes
        self._waiting -= 1
        if queue.items:
            self._queues[device] = queue  # behind all others
        return item

    def is_restrained(self, device: str, now_s: float) -> bool:
        """Whether a device goes on sending although it was turned away and others are heard.

        Of all such devices together one item is served each INDULGED_EVERY_S. Who waits for receipts pauses, and then
        is served as all are.
        """
        known, bucket = self._turned_away.get(device), self._buckets.get(device)
        if known is None or bucket is None or now_s - bucket.at_s >= LULL_S:
            return False
        return now_s - self._company_s < COMPANY_S and _halvings(known, now_s) > 0

    def restrains(self, now_s: float) -> bool:
        """Whether something waits of such a device."""
        return any(self.is_restrained(device, now_s) for device in self._queues)

    def window_bytes(self, device: str, now_s: float) -> int:
        """Return how many bytes a device may have under way without a receipt: less while it is turned away."""
        known = self._turned_away.get(device)
        if known is None:
            return self._window_bytes
        return max(1, self._window_bytes >> _halvings(known, now_s))

    def turned_away(self, now_s: float) -> dict[str, int]:
        """Return how many events of each device were turned away, for those that still feel it."""
        known = list(self._turned_away.items())
        return {device: away.events for device, away in known if _halvings(away, now_s)}

    def _in_company(self, device: str, now_s: float) -> bool:
        """Whether another device than this was heard of late."""
        if device != self._last_device and self._last_device:
            self._company_s = self._last_heard_s
        self._last_device, self._last_heard_s = device, now_s
        return now_s - self._company_s < COMPANY_S

    def _within_rate(self, device: str, size_bytes: int, now_s: float) -> bool:
        bucket = self._buckets.get(device)
        if bucket is None:
            self._prune(now_s)
            bucket = self._buckets[device] = _Bucket(BURST_S, BURST_S, now_s)
        passed_s = max(0.0, now_s - bucket.at_s)
        bucket.at_s = now_s
        bucket.events = min(BURST_S, bucket.events + passed_s)
        bucket.bytes = min(BURST_S, bucket.bytes + passed_s)
        if bucket.events <= 0 or bucket.bytes <= 0:
            return False
        bucket.events -= 1 / self._events_s
        bucket.bytes -= size_bytes / self._bytes_s
        return True

    def _prune(self, now_s: float) -> None:
        """Forget what says nothing: buckets that are full again, and who has been calm for long enough."""
        if len(self._buckets) < 2 * self._buckets_pruned:
            return
        for device, bucket in list(self._buckets.items()):
            if min(bucket.events, bucket.bytes) + now_s - bucket.at_s >= BURST_S:
                del self._buckets[device]
        for device, away in list(self._turned_away.items()):
            if not _halvings(away, now_s):
                del self._turned_away[device]
        self._buckets_pruned = max(BUCKETS_MIN, len(self._buckets))

    def _longest(self, device: str) -> str:
        """Return who has most waiting; the device that just came, if it has more than an even share."""
        if self._queues[device].size_bytes * len(self._queues) > self.waiting_bytes:
            return device
        return max(self._queues, key=lambda name: self._queues[name].size_bytes)

    def _drop_newest(self, device: str) -> T:
        queue = self._queues[device]
        item, size_bytes = queue.items.pop()
        queue.size_bytes -= size_bytes
        self.waiting_bytes -= size_bytes
        self._waiting -= 1
        if not queue.items:
            del self._queues[device]
        return item

    def _note(self, device: str, now_s: float) -> None:
        known = self._turned_away.get(device)
        if known is None:
            self._turned_away[device] = TurnedAway(1, now_s, now_s, 1)
            return
        if now_s - known.halved_s >= 1.0:
            known.halvings = min(HALVINGS_MAX, _halvings(known, now_s) + 1)
            known.halved_s = now_s
        known.events += 1
        known.last_s = now_s


def _halvings(away: TurnedAway, now_s: float) -> int:
    """Return how often a window is halved now: each calm span undoes one."""
    return max(0, away.halvings - int(max(0.0, now_s - away.last_s) / CALM_S))
