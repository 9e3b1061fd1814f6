"""RangeSet against a plain set that does the same slowly."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.ranges import RangeSet

RANGE = st.tuples(st.integers(-5, 60), st.integers(0, 12)).map(lambda pair: (pair[0], sum(pair)))
RANGES = st.lists(RANGE, max_size=30)


def model(ranges: list[tuple[int, int]]) -> set[int]:
    return {number for first, last in ranges for number in range(first, last + 1)}


@given(RANGES)
def test_it_holds_what_a_plain_set_holds(ranges: list[tuple[int, int]]) -> None:
    held, plain = RangeSet(ranges), model(ranges)
    assert {number for number in range(-10, 90) if number in held} == plain
    assert held.count() == len(plain)
    assert held.last() == max(plain, default=None)
    assert model(held.ranges()) == plain


@given(RANGES)
def test_its_ranges_are_sorted_disjoint_and_not_adjacent(ranges: list[tuple[int, int]]) -> None:
    held = RangeSet(ranges).ranges()
    assert all(first <= last for first, last in held)
    assert all(before[1] + 1 < after[0] for before, after in itertools.pairwise(held))


@given(RANGES, st.integers(-10, 70), st.integers(0, 70))
def test_what_is_removed_is_held_no_more(ranges: list[tuple[int, int]], first: int, count: int) -> None:
    held = RangeSet(ranges)
    held.remove(first, first + count)
    assert model(held.ranges()) == model(ranges) - set(range(first, first + count + 1))
    assert held == RangeSet(held.ranges())


@given(RANGES, st.integers(-10, 70), st.integers(-10, 70))
def test_gaps_are_what_a_plain_set_misses(ranges: list[tuple[int, int]], first: int, last: int) -> None:
    gaps = RangeSet(ranges).gaps(first, last)
    assert model(gaps) == set(range(first, last + 1)) - model(ranges)
    assert gaps == RangeSet(gaps).ranges()


@given(RANGES, st.randoms(use_true_random=False))
def test_equal_content_is_equal_in_whatever_order_it_came(ranges: list[tuple[int, int]], random) -> None:
    numbers = sorted(model(ranges))
    random.shuffle(numbers)
    one_by_one = RangeSet()
    for number in numbers:
        one_by_one.add(number)
    assert one_by_one == RangeSet(ranges)
    assert len(one_by_one) == len(RangeSet(ranges).ranges())


@given(RANGES, RANGES)
def test_update_is_the_union_and_difference_is_seen(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> None:
    held = RangeSet(left)
    held.update(RangeSet(right))
    assert model(held.ranges()) == model(left) | model(right)
    assert (held == RangeSet(left)) == (model(right) <= model(left))


def test_a_range_the_wrong_way_round_is_refused_and_changes_nothing() -> None:
    held = RangeSet([(1, 3)])
    with pytest.raises(ValueError, match="wrong way round"):
        held.add(9, 8)
    assert held == RangeSet([(1, 3)])
    assert held != {1, 2, 3}
    assert repr(held) == "RangeSet([(1, 3)])"


def test_a_range_of_a_quintillion_numbers_takes_no_room() -> None:
    held = RangeSet([(1, 10**18)])
    assert held.count() == 10**18
    assert 10**17 in held
    assert held.gaps(0, 10**18 + 1) == [(0, 0), (10**18 + 1, 10**18 + 1)]
