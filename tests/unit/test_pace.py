"""How much goes in a batch: what the link carries in time, from one row up to the largest batch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_sync.pace import Pace

ROWS, BYTES, TARGET_S = 256, 1 << 20, 15.0
ROW_BYTES = 400


def drive(pace: Pace, bytes_per_s: float, latency_s: float, deadline_s: float, batches: int) -> tuple[int, int]:
    """Send full batches through a link; return how many rows came through, and how many batches were given up."""
    rows_done = given_up = 0
    for _ in range(batches):
        rows = min(pace.rows, max(1, pace.bytes // ROW_BYTES))
        spent_s = latency_s + rows * ROW_BYTES / bytes_per_s
        if spent_s > deadline_s:
            pace.given_up(rows, rows * ROW_BYTES)
            given_up += 1
        else:
            pace.done(rows, rows * ROW_BYTES, spent_s)
            rows_done += rows
    return rows_done, given_up


def test_a_good_link_gets_the_largest_batch_at_once() -> None:
    pace = Pace(ROWS, BYTES, TARGET_S)
    assert (pace.rows, pace.bytes) == (ROWS, BYTES)
    assert drive(pace, 1e6, 0.05, 60, 10) == (10 * ROWS, 0)


@pytest.mark.parametrize("bytes_per_s", [20.0, 100.0, 1000.0, 10_000.0])
def test_a_slow_link_makes_progress_in_batches_that_fit(bytes_per_s: float) -> None:
    pace = Pace(ROWS, BYTES, TARGET_S)
    drive(pace, bytes_per_s, 0.3, 60, 20)
    rows_done, given_up = drive(pace, bytes_per_s, 0.3, 60, 50)
    fitting = min(ROWS, max(1.0, bytes_per_s * TARGET_S / ROW_BYTES))
    assert given_up == 0
    assert rows_done >= 50 * fitting * 0.7


def test_a_link_that_mends_is_used_in_full_again() -> None:
    pace = Pace(ROWS, BYTES, TARGET_S)
    drive(pace, 20, 0.3, 60, 20)
    assert pace.rows == 1
    drive(pace, 1e6, 0.05, 60, 20)
    assert pace.rows == ROWS


def test_a_line_with_little_to_send_does_not_shrink_the_batch() -> None:
    pace = Pace(ROWS, BYTES, TARGET_S)
    for _ in range(100):
        pace.done(1, ROW_BYTES, 0.3)
    assert pace.rows == ROWS


@given(st.lists(st.tuples(st.booleans(), st.integers(1, ROWS), st.floats(0, 1e4)), max_size=200))
def test_the_batch_stays_within_one_row_and_the_largest(happenings: list[tuple[bool, int, float]]) -> None:
    pace = Pace(ROWS, BYTES, TARGET_S)
    for done, rows, spent_s in happenings:
        if done:
            pace.done(rows, rows * ROW_BYTES, spent_s)
        else:
            pace.given_up(rows, rows * ROW_BYTES)
        assert 1 <= pace.rows <= ROWS
        assert 1 <= pace.bytes <= BYTES
