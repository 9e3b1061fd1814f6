"""A measure judges the median of what was found within each round, and rounds go by turns."""

from __future__ import annotations

from bench.measures import excess_at_most, interleaved, known, ratio_at_least, ratio_at_most, table, value_at_most


def test_a_ratio_is_of_both_sides_of_one_round_so_that_a_slow_round_hurts_neither() -> None:
    found = ratio_at_least("frames/s", "the limit", [90, 45, 92], [100, 50, 100], 0.90)
    assert (found.judged, found.spread, found.rounds, found.ok) == (0.9, (0.9, 0.92), 3, True)
    assert (found.value, found.against) == (90, 100)


def test_a_bar_that_does_not_hold_is_shown_as_no() -> None:
    found = [ratio_at_most("cpu", "bare", [2.0], [1.0], 1.1), excess_at_most("ms", "bare", [9.0], [5.0], 2.5)]
    assert [measure.ok for measure in found] == [False, False]
    assert [line.split()[-2:] for line in table(found).splitlines()[1:]] == [["NO", "bare"], ["NO", "bare"]]


def test_what_has_no_bar_is_told_and_judged_by_none() -> None:
    assert known("MB", [1.0, 3.0]).ok
    assert value_at_most("MB", [1.0, 3.0], 2.0).spread == (1.0, 3.0)


def test_sides_go_by_turns_and_every_second_round_the_other_way() -> None:
    called: list[str] = []
    sides = [lambda name=name: called.append(name) or len(called) for name in ("limit", "ours")]
    assert interleaved(2, *sides) == [[1, 4], [2, 3]]
    assert called == ["limit", "ours", "ours", "limit"]
