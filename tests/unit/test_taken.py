"""Readings that were taken are remembered in runs: found one by one, the newest first, and forgotten when many came."""

from __future__ import annotations

import sqlite3

import pytest

from edge_gateway.taken import MARK_BYTES, RUN_MAX, SCHEMA, Taken, fits, mark


@pytest.fixture
def taken() -> Taken:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(SCHEMA)
    return Taken(connection)


def digest(seq: int) -> str:
    return f"{seq:064x}"[::-1]


def test_each_of_a_run_is_found_with_its_position_and_mark(taken: Taken) -> None:
    taken.note([(1, seq, 100 + seq, digest(seq)) for seq in range(1, 200)])
    for seq in range(1, 200):
        assert taken.find(1, seq) == (100 + seq, mark(digest(seq)))
    assert [taken.find(1, 200), taken.find(1, 0), taken.find(2, 5)] == [None, None, None]
    ((longest,),) = taken._connection.execute("SELECT max(length(marks)) FROM taken").fetchall()
    assert longest == RUN_MAX * MARK_BYTES


def test_runs_end_where_a_seq_a_position_or_the_stream_is_another(taken: Taken) -> None:
    rows = [(1, 1, 1), (1, 2, 2), (2, 3, 3), (1, 3, 4), (1, 5, 5), (1, 6, 7)]
    taken.note([(stream, seq, position, digest(position)) for stream, seq, position in rows])
    for stream, seq, position in rows:
        assert taken.find(stream, seq) == (position, mark(digest(position)))
    assert [taken.find(1, 4), taken.find(2, 4)] == [None, None]


def test_the_last_events_come_first_over_several_runs(taken: Taken) -> None:
    taken.note([(1, seq, seq, digest(seq)) for seq in range(1, 101)])
    taken.note([(1, seq, seq, digest(seq)) for seq in range(110, 120)])
    found = list(taken.latest(1, 20))
    assert [seq for seq, *_ in found][:20] == [*range(119, 109, -1), *range(100, 90, -1)]
    assert found[0] == (119, 119, mark(digest(119)))


@pytest.mark.parametrize("step", [1, 7])
def test_what_is_kept_is_bounded_by_events_and_the_newest_stay(taken: Taken, step: int) -> None:
    for first in range(1, 2000, 50):
        taken.note([(1, seq * step, seq, digest(seq)) for seq in range(first, first + 50)])
    taken.trim(1, 500)
    kept = list(taken.latest(1, 10_000))
    assert 500 - RUN_MAX <= len(kept) <= 500
    assert kept[0][0] == 2000 * step
    taken.forget(1)
    assert list(taken.latest(1, 10)) == []


def test_marks_of_other_events_differ_and_no_digest_is_needed() -> None:
    assert mark("ab" * 32) == "ab" * MARK_BYTES
    assert len({mark(""), mark("reading/c0 " + "ab" * 32), mark("reading/c1 " + "ab" * 32)}) == 3


def test_a_salvaged_run_makes_sense_or_is_left_out() -> None:
    assert fits((1, 5, 9, bytes(2 * MARK_BYTES)))
    for row in ((1, 5, 9, b""), (1, 5, 9, bytes(MARK_BYTES + 1)), (1, "5", 9, bytes(MARK_BYTES)), (1, 5, 9, None)):
        assert not fits(row)
