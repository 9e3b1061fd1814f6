"""Which events of a device have been accepted: a contiguous watermark and a short set ahead of it. No I/O here."""

from __future__ import annotations

from dataclasses import dataclass, field

from millrace.ranges import RangeSet

MAX_RECEIPT_RANGES = 100
DECLARED_KEPT = 64


@dataclass(slots=True)
class Stream:
    """One epoch of one device. Everything up to `watermark` is accounted for, and so is what `ahead` holds.

    Of that `declared` never came: it was only said that it cannot. If it does come it is news, and until then no
    receipt lists it, so that whoever holds it all the same keeps it. The lowest ranges are forgotten beyond a bound.
    """

    no: int
    device: str
    epoch: str
    watermark: int = 0
    ahead: RangeSet = field(default_factory=RangeSet)
    declared: RangeSet = field(default_factory=RangeSet)

    def has(self, seq: int) -> bool:
        """Whether a seq is accounted for."""
        return seq <= self.watermark or seq in self.ahead

    def took(self, seq: int) -> bool:
        """Whether the event of a seq came, or who had it spoke for it; what was only declared did not."""
        return self.has(seq) and seq not in self.declared

    def scatters(self, first: int, last: int) -> bool:
        """Whether accounting for a range would make another range ahead of the watermark."""
        near = (
            (first - 1 in self.ahead)
            or (last + 1 in self.ahead)
            or bool(self.ahead.gaps(first, last) != [(first, last)])
        )
        return first > self.watermark + 1 and not near

    def account(self, first: int, last: int) -> None:
        """Count a range as taken; the watermark moves over what is now contiguous."""
        if first == self.watermark + 1 and not self.ahead and not self.declared:  # as nearly always
            self.watermark = last
            return
        self.declared.remove(first, last)
        self.ahead.add(first, last)
        for ahead_first, ahead_last in self.ahead.ranges():
            if ahead_first > self.watermark + 1:
                break
            self.watermark = max(self.watermark, ahead_last)
        self.ahead = RangeSet(pair for pair in self.ahead if pair[0] > self.watermark)

    def declare(self, first: int, last: int) -> None:
        """Count what of a range did not come as accounted for: it is said that it cannot come."""
        missing = self.ahead.gaps(max(first, self.watermark + 1), last)
        waiting = RangeSet((*self.declared, *missing))
        for gap in missing:
            self.account(*gap)
        self.declared = RangeSet(waiting.ranges()[-DECLARED_KEPT:])

    def gaps_below(self, base: int) -> list[tuple[int, int]]:
        """Return what is not accounted for below `base`, the lowest seq that the device still holds: it cannot come."""
        if base <= self.watermark + 1:
            return []
        return self.ahead.gaps(self.watermark + 1, base - 1)

    def receipt_ranges(self) -> list[list[int]]:
        """Return the cumulative ranges that a receipt lists, lowest first: what was taken."""
        taken = RangeSet([(1, self.watermark)] if self.watermark else [])
        taken.update(self.ahead.ranges()[:MAX_RECEIPT_RANGES])
        for first, last in self.declared:
            taken.remove(first, last)
        return [list(pair) for pair in taken]

    def highest(self) -> int:
        """Return the highest seq accounted for."""
        return max(self.watermark, self.ahead.last() or 0)
