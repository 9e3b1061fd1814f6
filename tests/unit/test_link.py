"""The link's state, and for how long a link that is down is left in peace."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloud_sync.link import Link

FIRST_S, MAX_S = 1.0, 60.0


def longest(_low: float, high: float) -> float:
    return high


def shortest(low: float, _high: float) -> float:
    return low


def test_an_unknown_link_is_tried_at_once_and_only_a_commit_brings_it_up() -> None:
    link = Link(FIRST_S, MAX_S, longest)
    assert link.state == "unknown"
    assert link.wait_s(0.0) <= 0
    assert link.committed()
    assert not link.committed()
    assert link.state == "up"
    assert link.wait_s(2.0) <= 0


def test_a_link_goes_down_once_and_comes_up_once() -> None:
    link = Link(FIRST_S, MAX_S, longest)
    link.committed()
    assert [link.failed(1.0), link.failed(2.0), link.committed(), link.failed(4.0)] == [True, False, True, True]
    assert Link(FIRST_S, MAX_S, longest).failed(0.0)


def test_the_longest_pause_doubles_up_to_its_bound_and_starts_again_after_a_commit() -> None:
    link = Link(FIRST_S, MAX_S, longest)
    pauses = []
    for _ in range(9):
        link.failed(0.0)
        pauses.append(link.wait_s(0.0))
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    link.committed()
    link.failed(0.0)
    assert link.wait_s(0.0) == FIRST_S


def test_the_pause_may_be_as_short_as_chance_will_have_it() -> None:
    link = Link(FIRST_S, MAX_S, shortest)
    link.failed(7.0)
    assert link.wait_s(7.0) == 0


def test_the_cloud_may_ask_for_a_longer_pause_but_not_for_an_endless_one() -> None:
    link = Link(FIRST_S, MAX_S, shortest)
    link.failed(0.0, retry_after_s=30.0)
    assert link.wait_s(10.0) == 20.0
    link.failed(0.0, retry_after_s=1e9)
    assert link.wait_s(0.0) == 900.0


@given(st.integers(1, 5000), st.floats(0, 1))
def test_no_number_of_failures_makes_a_pause_longer_than_the_bound(failures: int, chance: float) -> None:
    link = Link(FIRST_S, MAX_S, lambda low, high: low + chance * (high - low))
    for _ in range(failures):
        link.failed(100.0)
    assert 0 <= link.wait_s(100.0) <= MAX_S


def test_a_breaker_opens_after_some_failures_and_only_a_commit_closes_it() -> None:
    link = Link(FIRST_S, MAX_S, longest, breaker_failures=3)
    opened = []
    for _ in range(4):
        link.failed(0.0)
        opened.append(link.half_open)
    assert opened == [False, False, True, True]
    link.try_now()
    assert (link.wait_s(0.0) <= 0, link.half_open, link.failures) == (True, True, 4)
    link.committed()
    assert not link.half_open
