"""What one transaction has done so far and who is to hear of it: nothing of it counts before the commit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from edge_gateway.admission import Arrived
from edge_gateway.register import Register
from edge_gateway.sheds import Why
from edge_gateway.streams import Stream
from millrace.ranges import RangeSet


class NotAnswered(Exception):
    """Who asked by HTTP gets no answer, and why."""


class NoRoomNow(NotAnswered):
    """There was no room for it; the same may be answered in a moment."""


class InferenceFailed(NotAnswered):
    """The picture is good, and an engine failed on it."""


@dataclass(frozen=True, slots=True)
class Message:
    """What is to be published."""

    topic: str
    payload: bytes
    retain: bool = False
    structured: bool = False


@dataclass(slots=True)
class Committed:
    """What a transaction made true, and who is to hear of it."""

    results: list[Message] = field(default_factory=list)
    receipts: dict[tuple[str, str], Message] = field(default_factory=dict)
    replies: list[tuple[Arrived, list[dict[str, Any]] | NotAnswered]] = field(default_factory=list)
    last_position: int = 0
    """Up to where results and alarms are published once `results` are."""


@dataclass(slots=True)
class Work:
    """What one transaction has touched so far."""

    register: Register
    done: Committed = field(default_factory=Committed)
    touched: dict[int, Stream] = field(default_factory=dict)
    """To be saved with the transaction."""
    owed: dict[tuple[str, str], Stream | None] = field(default_factory=dict)
    """By device and epoch, who gets a receipt after the commit."""
    declared: dict[tuple[str, str, str, str], RangeSet] = field(default_factory=dict)
    """By device, epoch, disposition and reason, what gets a ledger record."""
    recent: dict[tuple[int, int], dict[str, int]] = field(default_factory=dict)
    """By a stream's number and a pack's size, digest -> seq of its last events, bare ones taken meanwhile included."""
    shed: Counter[Why] = field(default_factory=Counter)
    received: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By device and kind, how many events were accepted."""
    counts: list[Callable[[], None]] = field(default_factory=list)
    """The metrics to be moved after the commit."""
    alarmed_s: dict[tuple[str, str], float] = field(default_factory=dict)
    progress: Callable[[], None] = lambda: None
    """To be called when something that the transaction waited for has come."""

    def stream(self, device: str, epoch: str, now_s: float) -> Stream:
        """Return the stream of an epoch, to be saved with the transaction. Errors: Crowded."""
        return self.touch(self.register.stream(device, epoch, now_s, self.declare))

    def touch(self, stream: Stream) -> Stream:
        """Have a stream saved with the transaction; return it."""
        self.touched[stream.no] = stream
        return stream

    def declare(self, device: str, epoch: str, first: int, last: int, disposition: str, reason: str) -> None:
        """Have a ledger record say why a range does not go up as itself."""
        self.declared.setdefault((device, epoch, disposition, reason), RangeSet()).add(first, last)

    def leave_unanswered(self, item: Arrived, why: str, kind: type[NotAnswered] = NotAnswered) -> None:
        """Have who asked by HTTP told that no answer comes."""
        self.done.replies.append((item, kind(why)))
