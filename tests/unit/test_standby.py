"""When an accelerator serves, when its twin does, and when it is tried again."""

from __future__ import annotations

from edge_gateway.engines.standby import Pauses, Reason, Standby, State

PAUSES = Pauses(first_s=1.0, longest_s=8.0)


def test_it_serves_only_after_its_first_trial() -> None:
    standby = Standby(PAUSES, 100.0)
    assert (standby.state, standby.serves(), standby.wait_s(100.0)) == (State.STARTING, False, 0.0)
    standby.passed(101.0)
    assert (standby.state, standby.serves(), standby.since_s) == (State.SERVING, True, 101.0)


def test_what_failed_is_tried_again_ever_less_often() -> None:
    standby = Standby(PAUSES, 0.0)
    standby.passed(0.0)
    pauses, now_s = [], 100.0
    for _ in range(6):
        standby.failed(Reason.HUNG, "no answer in 1 s", now_s)
        pauses.append(standby.wait_s(now_s))
        now_s += standby.wait_s(now_s)
        assert standby.wait_s(now_s) == 0.0
    assert pauses == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_one_that_fails_soon_after_each_good_trial_is_tried_ever_less_often_too() -> None:
    standby, now_s, pauses = Standby(PAUSES, 0.0), 0.0, []
    for _ in range(5):
        standby.passed(now_s)
        standby.failed(Reason.RAISED, "lost its mind", now_s + 1.0)
        pauses.append(standby.wait_s(now_s + 1.0))
        now_s += 1.0 + pauses[-1]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 8.0]


def test_long_service_makes_the_next_pause_short_again() -> None:
    standby = Standby(PAUSES, 0.0)
    for now_s in (0.0, 1.0, 3.0):
        standby.failed(Reason.DIED, "ended", now_s)
    standby.passed(10.0)
    standby.failed(Reason.DIED, "ended", 18.0)
    assert standby.wait_s(18.0) == 1.0


def test_a_takeover_counts_once_however_many_trials_fail_after_it() -> None:
    standby = Standby(PAUSES, 0.0)
    standby.failed(Reason.REFUSED, "not plugged in", 0.0)
    standby.failed(Reason.REFUSED, "not plugged in", 1.0)
    standby.passed(3.0)
    standby.failed(Reason.HUNG, "no answer in 1 s", 4.0)
    standby.failed(Reason.MISMATCH, "far away", 9.0)
    assert standby.fallbacks == {Reason.REFUSED: 1, Reason.HUNG: 1}
    assert (standby.reason, standby.said, standby.since_s) == (Reason.MISMATCH, "far away", 4.0)
