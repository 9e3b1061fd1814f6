"""The audit's rules, against plain sets of numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloud_sync.reference_cloud.audit import STRENGTH, Range, Stream, count, frontier, judge, minus
from millrace.events import Disposition
from millrace.ranges import RangeSet

TOP = 60
numbers = st.sets(st.integers(1, TOP))


def as_ranges(members: set[int]) -> RangeSet:
    return RangeSet((number, number) for number in members)


def as_set(ranges: list[Range]) -> set[int]:
    return {number for first, last in ranges for number in range(first, last + 1)}


def stream(
    held: list[Range], minted: int | None = None, declared: dict[Disposition, list[Range]] | None = None
) -> Stream:
    said = {kind: RangeSet(ranges) for kind, ranges in (declared or {}).items()}
    return Stream("device/cam-1", "k3v9x0pa", minted, RangeSet(held), said)


def test_a_quiet_device_misses_nothing() -> None:
    finding = judge(stream([], minted=0))
    assert (finding.held, finding.missing, finding.unproven) == (0, [], [])


def test_a_tail_that_was_minted_and_never_came_is_missing() -> None:
    assert judge(stream([(1, 10)], minted=12)).missing == [(11, 12)]


def test_without_word_of_the_minted_only_the_gaps_below_the_highest_are_missing() -> None:
    assert judge(stream([(1, 3), (6, 9)])).missing == [(4, 5)]


def test_a_range_declared_above_all_that_is_held_counts_as_known() -> None:
    finding = judge(stream([(1, 3)], declared={"lost": [(6, 7)]}))
    assert finding.missing == [(4, 5)]
    assert finding.declared == {"lost": 2}


def test_held_beats_declared_and_local_beats_lost() -> None:
    finding = judge(stream([(1, 5)], declared={"lost": [(4, 9)], "local": [(5, 7)]}))
    assert finding.held == 5
    assert finding.declared == {"local": 2, "lost": 2}
    assert finding.missing == []


def test_what_nobody_can_prove_is_neither_missing_nor_declared() -> None:
    finding = judge(stream([(4, 6)], minted=8, declared={"unproven": [(1, 4)]}))
    assert finding.unproven == [(1, 3)]
    assert finding.missing == [(7, 8)]
    assert finding.declared == {}


@given(numbers, st.dictionaries(st.sampled_from(STRENGTH), numbers), st.none() | st.integers(0, TOP + 5))
def test_every_number_up_to_the_highest_is_counted_once(
    held: set[int], declared: dict[Disposition, set[int]], minted: int | None
) -> None:
    ranges = {kind: as_ranges(members) for kind, members in declared.items()}
    finding = judge(Stream("device/cam-1", "k3v9x0pa", minted, as_ranges(held), ranges))
    left = set(range(1, max([minted or 0, *held, *(n for members in declared.values() for n in members)]) + 1))
    assert finding.held == len(held)
    left -= held
    for kind in STRENGTH:
        mine = left & declared.get(kind, set())
        if kind == "unproven":
            assert as_set(finding.unproven) == mine
        else:
            assert finding.declared.get(kind, 0) == len(mine)
        left -= mine
    assert as_set(finding.missing) == left
    assert count(finding.missing) == len(left)


@given(numbers, numbers)
def test_minus_is_the_difference_of_sets_in_ascending_ranges(one: set[int], other: set[int]) -> None:
    left = list(minus(as_ranges(one), as_ranges(other)))
    assert as_set(left) == one - other
    assert left == sorted(left)


@given(numbers, st.integers(0, TOP))
def test_frontier_is_the_last_number_reached_without_a_gap(members: set[int], after: int) -> None:
    expected = after
    while expected + 1 in members:
        expected += 1
    assert frontier(as_ranges(members), after) == expected


def test_frontier_walks_over_ranges_that_overlap() -> None:
    assert frontier([(1, 9), (2, 4), (8, 12), (14, 15)], 0) == 12


def test_behind_the_end_of_a_former_epoch_nobody_can_prove_anything() -> None:
    former = Stream("device/cam-1", "k3v9x0pa", 3, RangeSet([(1, 3)]), {}, superseded=True)
    assert judge(former).tail == "unproven"
    assert judge(stream([(1, 3)], minted=3)).tail == "open"
