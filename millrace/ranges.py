"""Sets of whole numbers kept as ranges: small for what arrives mostly in order; no I/O, no clock."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator


class RangeSet:
    """A mutable set of integers held as sorted, disjoint, non-adjacent closed ranges `(first, last)`."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in ranges:
            self.add(first, last)

    def add(self, first: int, last: int | None = None) -> None:
        """Add one number, or all from `first` to `last` inclusive; ValueError if they are the wrong way round."""
        if last is None:
            last = first
        if last < first:
            raise ValueError(f"range {first}..{last} is the wrong way round")
        # Find every range that touches or overlaps [first, last], and replace them all by their union.
        low = bisect_right(self._firsts, first)
        if low and self._lasts[low - 1] >= first - 1:
            low -= 1
        high = bisect_right(self._firsts, last + 1)
        if low < high:
            first = min(first, self._firsts[low])
            last = max(last, self._lasts[high - 1])
        self._firsts[low:high] = [first]
        self._lasts[low:high] = [last]

    def remove(self, first: int, last: int) -> None:
        """Take all from `first` to `last` inclusive out of the set."""
        kept = [part for a, b in self for part in ((a, min(b, first - 1)), (max(a, last + 1), b)) if part[0] <= part[1]]
        self._firsts, self._lasts = [a for a, _ in kept], [b for _, b in kept]

    def update(self, other: Iterable[tuple[int, int]]) -> None:
        """Add every range of `other`."""
        for first, last in other:
            self.add(first, last)

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._firsts, number)
        return place > 0 and self._lasts[place - 1] >= number

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._firsts, self._lasts, strict=True))

    def __len__(self) -> int:
        """Return how many ranges there are (not numbers; see `count`)."""
        return len(self._firsts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangeSet) and self.ranges() == other.ranges()

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"RangeSet({self.ranges()})"

    def ranges(self) -> list[tuple[int, int]]:
        """Return the ranges as a list of pairs."""
        return list(self)

    def count(self) -> int:
        """Return how many numbers the set holds."""
        return sum(last - first + 1 for first, last in self)

    def last(self) -> int | None:
        """Return the greatest number held, or None if empty."""
        return self._lasts[-1] if self._lasts else None

    def gaps(self, first: int, last: int) -> list[tuple[int, int]]:
        """Return what of `first..last` is not held, as ranges."""
        missing = []
        for held_first, held_last in self:
            if held_last < first:
                continue
            if held_first > last:
                break
            if held_first > first:
                missing.append((first, held_first - 1))
            first = held_last + 1
        if first <= last:
            missing.append((first, last))
        return missing
