"""Times mended afterwards: what one machine's uptime says of another's, carried from boot to boot. No I/O here.

A message is sent before it is heard. That alone, whatever the delay, bounds how two uptimes stand to each other: from
below by what was heard, from above by when one was heard. No wall clock is believed but the last one of the chain.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

DRIFT_PPM = 250
"""How fast two machines' uptimes may part. Quartz is within 100 each; what is worse is not allowed for."""
SPAN_NS = 6 * 3600 * 10**9
"""One tie is kept for each such span of an uptime: within it drift adds 5.4 s at most, in an hour 0.9 s."""
NEAREST = 2
GAIN_NS = 1_000_000
HEARD_KEPT = 4
VISITED_MAX = 500

Node = tuple[str, str]
"""Who and which boot: `("device/cam-1", boot id)`. Each speaks for its own boots only."""
Ties = Mapping[Node, Sequence["Tie"]]


@dataclass(frozen=True, slots=True)
class Tie:
    """What my uptime says of a peer's: at `low[0]` theirs was `low[1]` or more, at `high[0]` `high[1]` or less."""

    low: tuple[int, int]
    high: tuple[int, int]

    @property
    def width_ns(self) -> int:
        """How much is left open; a tie that contradicts itself has less than nothing."""
        return _offset(self.high) - _offset(self.low)

    def tightened(self, other: Tie) -> Tie:
        """Return the better half of each."""
        return Tie(max(self.low, other.low, key=_offset), min(self.high, other.high, key=_offset))

    def turned(self) -> Tie:
        """Return the same as the peer would say it."""
        return Tie((self.high[1], self.high[0]), (self.low[1], self.low[0]))


@dataclass(frozen=True, slots=True)
class Sighting:
    """Two boots have met."""

    mine: Node
    theirs: Node
    tie: Tie


@dataclass(frozen=True, slots=True)
class Mended:
    """When something was, in nanoseconds since 1970 by the last clock of the chain, and how far off that may be."""

    time_ns: int
    within_ns: int


def met(words: Mapping[str, object], boot_id: str, now_ns: int) -> tuple[str, Tie] | None:
    """Return which boot the sender of these words is in and how it stands to ours, `now_ns` being when we heard them.

    The words are `bootid`, `uptimens` and `heard`, as `Heard.said` gives it. None where they do not tell.
    """
    sent_ns, theirs, heard = uptime(words.get("uptimens")), words.get("bootid"), words.get("heard")
    if sent_ns is None or not isinstance(theirs, str) or not 0 < len(theirs) <= 64 or not isinstance(heard, list):
        return None
    for word in heard[:HEARD_KEPT]:
        if isinstance(word, dict) and word.get("bootid") == boot_id:
            ours_ns, at_ns = uptime(word.get("uptimens")), uptime(word.get("at"))
            if ours_ns is not None and at_ns is not None:
                return theirs, Tie(low=(at_ns, ours_ns), high=(sent_ns, now_ns))
    return None


def uptime(said: object) -> int | None:
    """Return an uptime in nanoseconds from its decimal digits; None for anything else."""
    return int(said) if isinstance(said, str) and said.isascii() and said.isdigit() and len(said) <= 18 else None


class Heard:
    """The last word heard of each of a few peers' boots: whoever tells them of it lets them know our uptime."""

    def __init__(self) -> None:
        self._best: dict[str, tuple[int, int]] = {}

    def note(self, boot_id: str, theirs_ns: int, mine_ns: int) -> None:
        """Note that a peer said its uptime and that we heard it now, at ours; the least delayed word is kept."""
        known = self._best.pop(boot_id, None)
        if known is not None and theirs_ns - mine_ns < _offset((known[1], known[0])) - _drift(mine_ns - known[1]):
            self._best[boot_id] = known
            return
        self._best[boot_id] = (theirs_ns, mine_ns)
        while len(self._best) > HEARD_KEPT:
            del self._best[next(iter(self._best))]

    def said(self) -> list[dict[str, str]]:
        """Return what is told to the peers: their boot, their uptime, and ours `at` which it was heard."""
        return [
            {"bootid": boot, "uptimens": str(theirs_ns), "at": str(mine_ns)}
            for boot, (theirs_ns, mine_ns) in self._best.items()
        ]


def span_of(tie: Tie) -> int:
    """Return the span of our uptime to which a tie belongs."""
    return tie.high[0] // SPAN_NS


def better(known: Tie | None, seen: Tie) -> Tie | None:
    """Return the tie to keep instead of the known one; None if what was seen is no news."""
    if known is None:
        return seen
    both = known.tightened(seen)
    return both if both.width_ns <= known.width_ns - GAIN_NS else None


class Mender:
    """Finds the way from a boot to one whose wall clock is believed, and carries uptimes along it."""

    def __init__(
        self, up: Callable[[Node], Ties], around: Callable[[Node], Ties], walls: Sequence[Mapping[Node, int]]
    ) -> None:
        """`up(node)` gives the ties towards the cloud, `around(node)` all; `walls` are wall time less uptime in ns.

        The first of `walls` that can be reached is believed.
        """
        self._up, self._around, self._walls = up, around, walls
        self._routes: dict[Node, list[Sequence[Tie]] | None] = {}
        self._ends: dict[Node, int] = {}

    def mend(self, node: Node, uptime_ns: int) -> Mended | None:
        """Return when this uptime of a boot was; None where nothing bounds it, or what is known disagrees."""
        if node not in self._routes:
            self._routes[node] = self._find(node, uptime_ns)
        route = self._routes[node]
        if route is None:
            return None
        low = high = uptime_ns
        for ties in route:
            low, high = carried(ties, low, high)
        if low > high:
            return None
        wall_ns = self._ends[node]
        return Mended(wall_ns + (low + high) // 2, (high - low + 1) // 2)

    def _find(self, node: Node, uptime_ns: int) -> list[Sequence[Tie]] | None:
        for walls in self._walls:
            for ties_of in (self._up, self._around):
                found = _route(node, uptime_ns, ties_of, walls)
                if found is not None:
                    self._ends[node] = walls[found[0]]
                    return found[1]
        return None


def carried(ties: Sequence[Tie], low_ns: int, high_ns: int) -> tuple[int, int]:
    """Return from when to when it was by the peer's uptime, of what was between these of ours.

    `ties` ascend by our uptime; the nearest few are used, those farther off have drifted more.
    """
    here = bisect(ties, low_ns, key=_when)
    near = ties[max(0, here - NEAREST) : here + NEAREST]
    return (
        max(_offset(tie.low) + low_ns - _drift(low_ns - tie.low[0]) for tie in near),
        min(_offset(tie.high) + high_ns + _drift(high_ns - tie.high[0]) for tie in near),
    )


def in_order(ties: Iterable[Tie]) -> list[Tie]:
    """Return ties as `carried` wants them."""
    return sorted(ties, key=_when)


def _route(
    start: Node, uptime_ns: int, ties_of: Callable[[Node], Ties], walls: Mapping[Node, int]
) -> tuple[Node, list[Sequence[Tie]]] | None:
    """Return the end and the steps of the way that leaves least open; None if no wall is reached."""
    waiting: list[tuple[int, int, Node, int, int, list[Sequence[Tie]]]] = [(0, 0, start, uptime_ns, uptime_ns, [])]
    visited: set[Node] = set()
    count = 0
    while waiting and len(visited) < VISITED_MAX:
        _, _, node, low, high, steps = heappop(waiting)
        if node in walls:
            return node, steps
        if node in visited:
            continue
        visited.add(node)
        for peer, ties in ties_of(node).items():
            if peer not in visited:
                count += 1
                there = carried(ties, low, high)
                heappush(waiting, (there[1] - there[0], count, peer, *there, [*steps, ties]))
    return None


def _when(tie: Tie) -> int:
    return tie.high[0]


def _offset(pair: tuple[int, int]) -> int:
    return pair[1] - pair[0]


def _drift(apart_ns: int) -> int:
    return abs(apart_ns) * DRIFT_PPM // 10**6 + 1
