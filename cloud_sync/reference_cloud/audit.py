"""The rules of the audit: of all numbers an origin has minted, which are held, declared, missing or unproven; no I/O.

Held beats declared; of several declarations the strongest counts. So each number from 1 to the highest known is counted
once, and held + declared + missing + unproven is that highest number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import merge
from typing import Literal

from millrace.events import Disposition
from millrace.ranges import RangeSet

Range = tuple[int, int]
STRENGTH: tuple[Disposition, ...] = ("local", "aggregated", "shed", "buried", "lost", "unproven")


@dataclass(frozen=True, slots=True)
class Stream:
    """What is known of one origin's epoch. `minted` is the highest seq given out, None where nobody said.

    `superseded`: the origin has begun another epoch since. None ends in good order: what was minted in it after the
    last word of it, and then lost with a card or a file, nobody can know.
    """

    origin: str
    epoch: str
    minted: int | None
    held: RangeSet
    declared: Mapping[Disposition, RangeSet]
    superseded: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """The judgement of one stream: counts of seqs, and as ranges what is missing and what nobody can prove.

    `tail` is `open` while the origin mints in it, and `unproven` behind the highest known once it mints in another.
    """

    origin: str
    epoch: str
    minted: int | None
    held: int
    declared: dict[Disposition, int]
    missing: list[Range]
    unproven: list[Range]
    tail: Literal["open", "unproven"]


def judge(stream: Stream) -> Finding:
    """Judge one stream.

    Where nobody said how far the origin has minted, numbers up to the highest seen are judged and the tail is unknown.
    """
    explained = stream.held
    counts: dict[Disposition, int] = {}
    unproven: list[Range] = []
    for disposition in STRENGTH:
        left = list(minus(stream.declared.get(disposition, ()), explained))
        if not left:
            continue
        if disposition == "unproven":
            unproven = left
        else:
            counts[disposition] = count(left)
        explained = RangeSet(merge(explained, left))
    highest = max(stream.minted or 0, explained.last() or 0)
    everything = [(1, highest)] if highest else []
    missing = list(minus(everything, explained))
    tail: Literal["open", "unproven"] = "unproven" if stream.superseded else "open"
    return Finding(stream.origin, stream.epoch, stream.minted, stream.held.count(), counts, missing, unproven, tail)


def minus(ranges: Iterable[Range], taken: Iterable[Range]) -> Iterator[Range]:
    """Yield what of `ranges` is not in `taken`; both ascending and disjoint, each read once."""
    rest = iter(taken)
    present = next(rest, None)
    for low, last in ranges:
        first = low
        while present is not None and present[0] <= last:
            if present[0] > first:
                yield first, present[0] - 1
            first = max(first, present[1] + 1)
            if first > last:
                break
            present = next(rest, None)
        if first <= last:
            yield first, last


def frontier(ranges: Iterable[Range], after: int) -> int:
    """Return the last number reached from `after` without a gap; `ranges` ascend by their first and may overlap."""
    for first, last in ranges:
        if first > after + 1:
            break
        after = max(after, last)
    return after


def count(ranges: Iterable[Range]) -> int:
    """Return how many numbers disjoint ranges hold."""
    return sum(last - first + 1 for first, last in ranges)
