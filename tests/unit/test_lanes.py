"""Which lane is next: by weight, none starved, and a share for what is live."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_sync.lanes import WEIGHTS, Schedule, oldest_unsettled
from millrace.entries import Lane
from millrace.ranges import RangeSet

LANES = sorted(WEIGHTS)


def test_nothing_waits_nothing_goes() -> None:
    assert Schedule(0.1).next_lane([]) is None
    assert Schedule(0.1).next_lane([Lane.LOCAL]) is None


def test_every_lane_is_served_by_its_weight_while_all_wait() -> None:
    schedule = Schedule(0.0)
    rounds = sum(WEIGHTS.values())
    assert Counter(schedule.next_lane(LANES) for _ in range(rounds)) == WEIGHTS


def test_an_alarm_goes_first() -> None:
    assert Schedule(0.0).next_lane(LANES) is Lane.ALARM


@settings(max_examples=40)
@given(st.sampled_from(LANES), st.lists(st.sets(st.sampled_from(LANES)), min_size=80, max_size=80))
def test_no_lane_starves_whatever_the_others_do(patient: Lane, others: list[set[Lane]]) -> None:
    schedule = Schedule(0.0)
    longest = waited = 0
    for waiting in others:
        waited = 0 if schedule.next_lane({*waiting, patient}) is patient else waited + 1
        longest = max(longest, waited)
    assert longest <= 2 * sum(WEIGHTS.values()) / WEIGHTS[patient]


@given(st.floats(0, 1))
def test_the_live_rows_get_their_share(share: float) -> None:
    schedule = Schedule(share)
    turns = sum(schedule.live_turn() for _ in range(1000))
    assert abs(turns - 1000 * share) <= 1.001


def test_the_backlog_begins_after_what_is_settled_from_the_first_row_on() -> None:
    assert oldest_unsettled(RangeSet()) == 0
    assert oldest_unsettled(RangeSet([(1, 7), (20, 30)])) == 7
    assert oldest_unsettled(RangeSet([(2, 7)])) == 0
