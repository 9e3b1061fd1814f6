"""What is between intake and commit: each device's events in order of arrival, none behind another's inference.

Ready is what stands first of its device and waits for no inference; the oldest of all that are ready goes first. The
line is bounded, and its bound is the back-pressure.
"""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from edge_gateway.admission import Arrived, GatewayStatus, Outcome
from edge_gateway.commit import Finished
from millrace import events

STANDING_SHARE = 3
_SMALL_IN_PLACE, _SMALL_BYTES = 8, 8192


@dataclass(frozen=True, slots=True)
class Item:
    """One place in the line: what arrived, and how to acknowledge it once it is committed."""

    finished: Finished
    ack: Callable[[], None]

    @property
    def outcome(self) -> Future[Outcome] | None:
        """What the workers make of it, if they have a part in it."""
        return self.finished.outcome if isinstance(self.finished, Arrived) else None


@dataclass(slots=True)
class _Queue:
    """What is in the line of one device: (number, size, item) of each; how large all are, how many are inferred."""

    places: deque[tuple[int, int, Item]] = field(default_factory=deque)
    size: int = 0
    inferences: int = 0


class Line:
    """One thread puts in, one takes out, others finish inferences. Its bound is in frames.

    Where a frame takes one place, eight small messages have room: so many more share a commit.
    """

    def __init__(self, max_frames: int) -> None:
        self._free = _SMALL_IN_PLACE * max_frames
        self._numbers = count()
        self._queues: dict[str, _Queue] = {}
        self._ready: list[tuple[int, str]] = []
        """A heap of the heads that are ready: (number, device)."""
        self._awaited: dict[str, int] = {}
        """Device -> number of its head, where that is not ready."""
        self._hoped: set[str] = set()
        """Those of them that nobody has waited for in vain yet."""
        self._refused = False
        self._changed = threading.Condition()
        self.freed: Callable[[], None] = _nothing
        """Called when there is room again after `has_room` said that there is none; no lock is held."""
        self.closed = threading.Event()

    def has_room(self, device: str) -> bool:
        """Whether a device may put in more, as far as it goes by the others.

        One with an inference in the line may have STANDING_SHARE times what it leaves free: three quarters if it is
        alone, and whoever comes finds room. All else is committed soon, and may fill the line.
        """
        queue = self._queues.get(device)
        if queue is None or not queue.inferences:
            return True
        with self._changed:
            has_room = queue.size < STANDING_SHARE * self._free
            self._refused |= not has_room
            return has_room

    def offer(self, items: Sequence[Item], patience_s: float) -> bool:
        """Add what came in one message; return False if the line was full for so long.

        It is full once nothing is free: the last message may be larger than what was left.
        """
        with self._changed:
            if self._free <= 0 and not self._changed.wait_for(lambda: self._free > 0, patience_s):
                return False
            for item in items:
                self._add(_device(item.finished), item)
            if self._ready:
                self._changed.notify_all()
        return True

    def get(self, timeout_s: float) -> Item | None:
        """Return the oldest item that is ready, or None if none was in time."""
        with self._changed:
            if not self._ready and (timeout_s <= 0 or not self._changed.wait_for(lambda: self._ready, timeout_s)):
                return None
            item = self._take()
        self._tell()
        return item

    def get_more(self, timeout_s: float) -> Item | None:
        """Return the oldest that is ready, for the same commit; None at once where no other may be ready soon.

        What was waited for in vain is waited for no more: a slow one delays each of the others once, so long at most.
        """
        with self._changed:
            if not self._ready and self._hoped and timeout_s > 0:
                self._changed.wait_for(lambda: self._ready or not self._hoped, timeout_s)
            if not self._ready:
                self._hoped.clear()
                return None
            item = self._take()
        self._tell()
        return item

    @property
    def awaited(self) -> int | None:
        """The number of the oldest item whose inference holds up its device; None if there is none."""
        with self._changed:
            return min(self._awaited.values(), default=None)

    def _add(self, device: str, item: Item) -> None:
        queue = self._queues.get(device)
        if queue is None:
            queue = self._queues[device] = _Queue()
        size = _size(item.finished)
        queue.places.append((next(self._numbers), size, item))
        queue.size += size
        self._free -= size
        if item.outcome is not None:
            queue.inferences += 1
        if len(queue.places) == 1:
            self._look_at_head(device, queue)

    def _take(self) -> Item:
        _, device = heapq.heappop(self._ready)
        queue = self._queues[device]
        _, size, item = queue.places.popleft()
        if self._free <= 0:
            self._changed.notify_all()
        queue.size -= size
        self._free += size
        if item.outcome is not None:
            queue.inferences -= 1
        if queue.places:
            self._look_at_head(device, queue)
        else:
            del self._queues[device]
        return item

    def _tell(self) -> None:
        if self._refused:
            self._refused = False
            self.freed()

    def _look_at_head(self, device: str, queue: _Queue) -> None:
        number, _, item = queue.places[0]
        if item.outcome is None:
            heapq.heappush(self._ready, (number, device))
        else:
            self._awaited[device] = number
            self._hoped.add(device)
            item.outcome.add_done_callback(partial(self._is_inferred, device))  # at once, if it is done

    def _is_inferred(self, device: str, _outcome: Future[Outcome]) -> None:
        with self._changed:
            heapq.heappush(self._ready, (self._awaited.pop(device), device))
            self._hoped.discard(device)
            self._changed.notify_all()


def _device(finished: Finished) -> str:
    """Return in whose queue it stands; what is of no device has one of its own."""
    return "" if isinstance(finished, GatewayStatus) else finished.device or ""


def _size(finished: Finished) -> int:
    """Return what of the line it takes up, in small messages."""
    if not isinstance(finished, Arrived):
        return max(1, len(getattr(finished, "payload", b"")) // _SMALL_BYTES)
    if finished.type == events.FRAME:
        return _SMALL_IN_PLACE
    return max(1, len(finished.payload) // _SMALL_BYTES // finished.pack)


def _nothing() -> None:
    """Tell nobody."""
