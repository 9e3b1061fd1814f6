"""The rules of `millrace audit`: of all that an origin has promised, what is where, and what is nowhere; no I/O.

Each number from 1 to the highest minted is counted once: the cloud's word counts first, then what waits at the gateway,
then what waits at the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from millrace.ranges import RangeSet

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class CloudWord:
    """What the cloud's own audit says of one origin's epoch."""

    held: int
    declared: Mapping[str, int]
    missing: list[Range]
    unproven: list[Range]

    def explained(self) -> RangeSet:
        """Return the numbers that the cloud has an answer for."""
        found = RangeSet()
        highest = self.held + sum(self.declared.values()) + sum(b - a + 1 for a, b in [*self.missing, *self.unproven])
        if highest:
            found.update(RangeSet(self.missing).gaps(1, highest))
        return found


@dataclass(slots=True)
class Book:
    """All that could be read of one origin's epoch.

    `spool` is what the device still holds, None where its spool was not read; `accepted` what the gateway has taken;
    `waiting` what at the gateway waits for the cloud, itself or in a row that speaks for it.
    """

    minted: int = 0
    minted_by_spool: int = 0
    spool: RangeSet | None = None
    accepted: RangeSet = field(default_factory=RangeSet)
    waiting: RangeSet = field(default_factory=RangeSet)
    cloud: CloudWord | None = None
    reasons: dict[str, int] = field(default_factory=dict)
    """How many are declared for which `disposition: reason`, as far as the gateway still has the records."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one origin's epoch: counts, and as ranges what is nowhere.

    `unread` are numbers that no receipt covers, of a device whose spool was not read: they are there, if anywhere.
    `settled` are numbers that went through the gateway while the cloud could not be asked.
    """

    origin: str
    epoch: str
    minted: int
    held: int
    declared: dict[str, int]
    unproven: int
    settled: int
    at_gateway: int
    at_device: int
    unread: int
    missing: list[Range]
    reasons: dict[str, int]


def reckon(origin: str, epoch: str, book: Book) -> Finding:
    """Judge one origin's epoch. What a device minted after its spool was read is not looked at."""
    minted = book.minted_by_spool if book.spool is not None else book.minted
    word = book.cloud or CloudWord(0, {}, [], [])
    left = word.explained().gaps(1, minted) if minted else []
    left, waiting = _split(left, book.waiting)
    settled: list[Range] = []
    if book.cloud is None:
        left, settled = _split(left, book.accepted)
    if book.spool is not None:
        missing, at_device = _split(left, book.spool)
        unread: list[Range] = []
    elif origin.startswith("gateway/"):
        missing, at_device, unread = left, [], []
    else:
        unread, missing = _split(left, book.accepted)
        at_device = []
    return Finding(
        origin,
        epoch,
        max(minted, book.minted),
        word.held,
        dict(word.declared),
        _count(word.unproven),
        _count(settled),
        _count(waiting),
        _count(at_device),
        _count(unread),
        missing,
        book.reasons,
    )


def _split(ranges: Iterable[Range], found: RangeSet) -> tuple[list[Range], list[Range]]:
    """Return what of `ranges` is not in `found`, and what is."""
    outside, inside = [], []
    for first, last in ranges:
        gaps = found.gaps(first, last)
        outside += gaps
        inside += RangeSet(gaps).gaps(first, last)
    return outside, inside


def _count(ranges: Iterable[Range]) -> int:
    return sum(last - first + 1 for first, last in ranges)


def spelled(ranges: Iterable[Range]) -> str:
    """Return ranges as people write them: `3, 7-9`."""
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
