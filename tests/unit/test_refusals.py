"""What the cloud refuses: a poison row now and then is buried, a flood of refusals is not."""

from __future__ import annotations

import random

from cloud_sync.link import Backoff
from cloud_sync.refusals import BurialCap, LaneState


def test_one_poison_row_in_a_thousand_is_always_buried() -> None:
    cap, chance = BurialCap(0.05, 10, 1000), random.Random(1)
    for _ in range(2000):
        poison = sum(chance.random() < 0.001 for _ in range(256))
        assert cap.allows(256, poison)
        cap.note(256, poison)


def test_a_cloud_that_refuses_everything_buries_no_more_than_the_least_number() -> None:
    cap, buried = BurialCap(0.05, 10, 1000), 0
    while cap.allows(1, 1):
        cap.note(1, 1)
        buried += 1
    assert buried == 10
    assert not cap.allows(256, 200)
    assert cap.allows(256, 0)


def test_after_many_good_rows_a_share_of_them_is_buried_and_no_more() -> None:
    cap = BurialCap(0.05, 10, 1000)
    for _ in range(100):
        cap.note(100, 0)
    assert cap.allows(100, 50)
    assert not cap.allows(100, 51)


def test_what_was_buried_long_ago_does_not_count() -> None:
    cap = BurialCap(0.05, 10, 1000)
    cap.note(10, 10)
    assert not cap.allows(1, 1)
    for _ in range(9):
        cap.note(100, 0)
    assert cap.allows(190, 40)
    assert not cap.allows(1, 41)
    cap.note(190, 0)
    assert cap.allows(1, 50)


def test_a_worker_that_ends_after_each_row_buries_no_more_than_one_that_goes_on() -> None:
    seen, buried = (0, 0), 0
    for _ in range(100):
        cap = BurialCap(0.05, 10, 1000, seen)
        if cap.allows(1, 1):
            seen = cap.after(1, 1)
            buried += 1
    assert buried == 10


def test_over_many_lives_a_share_is_buried_and_what_is_long_ago_does_not_hold_a_lane() -> None:
    seen = (0, 0)
    for _ in range(500):
        cap = BurialCap(0.05, 10, 1000, seen)
        assert cap.allows(100, 1)
        seen = cap.after(100, 1)
    assert not BurialCap(0.05, 10, 1000, seen).allows(100, 50)


def lane() -> LaneState:
    return LaneState(BurialCap(0.05, 10, 1000), Backoff(1.0, 60.0, lambda _low, high: high))


def test_a_refused_request_is_halved_down_to_one_row_and_grows_again() -> None:
    state, sizes = lane(), []
    while (rows := state.most_rows(256)) > 1:
        sizes.append(rows)
        state.refused(rows)
    assert sizes == [256, 128, 64, 32, 16, 8, 4, 2]
    assert state.is_searched
    for _ in range(8):
        state.settled(1, 0, 256)
    assert (state.most_rows(256), state.is_searched) == (256, False)


def test_a_held_lane_is_tried_ever_more_seldom_until_rows_of_it_are_settled() -> None:
    state = lane()
    pauses = []
    for _ in range(8):
        state.hold(0.0, "too many refused")
        pauses.append(state.wait_s(0.0))
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    state.settled(1, 0, 256)
    assert (state.wait_s(0.0) <= 0, state.held_because) == (True, "")
