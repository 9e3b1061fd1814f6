"""A stream's watermark and its set ahead, against a plain set of numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.streams import DECLARED_KEPT, MAX_RECEIPT_RANGES, Stream

TOP = 40
RANGES = st.lists(st.tuples(st.integers(1, TOP), st.integers(0, 5)).map(lambda pair: (pair[0], sum(pair))), max_size=30)


def stream_of(ranges: list[tuple[int, int]]) -> tuple[Stream, set[int]]:
    stream, model = Stream(1, "cam-1", "k3v9x0pa"), set()
    for first, last in ranges:
        stream.account(first, last)
        model |= set(range(first, last + 1))
    return stream, model


@given(RANGES)
def test_a_stream_knows_exactly_what_was_accounted_for(ranges: list[tuple[int, int]]) -> None:
    stream, model = stream_of(ranges)
    assert {seq for seq in range(1, TOP + 10) if stream.has(seq)} == model
    assert stream.highest() == max(model, default=0)


@given(RANGES)
def test_the_watermark_is_the_end_of_what_has_no_hole(ranges: list[tuple[int, int]]) -> None:
    stream, model = stream_of(ranges)
    assert stream.watermark == next(seq for seq in range(TOP + 10) if seq + 1 not in model)
    assert all(first > stream.watermark + 1 for first, _ in stream.ahead)


@given(RANGES)
def test_a_receipt_lists_what_was_accounted_for_lowest_first(ranges: list[tuple[int, int]]) -> None:
    stream, model = stream_of(ranges)
    listed = [seq for first, last in stream.receipt_ranges() for seq in range(first, last + 1)]
    assert listed == sorted(model)


@given(RANGES, st.integers(0, TOP + 10))
def test_the_gaps_below_a_base_are_what_cannot_come_any_more(ranges: list[tuple[int, int]], base: int) -> None:
    stream, model = stream_of(ranges)
    gaps = stream.gaps_below(base)
    assert {seq for first, last in gaps for seq in range(first, last + 1)} == set(range(1, base)) - model
    for first, last in gaps:
        stream.account(first, last)
    assert stream.watermark >= base - 1


def test_a_receipt_stays_short_however_full_of_holes_a_stream_is() -> None:
    stream, _ = stream_of([(1, 1), *((seq, seq) for seq in range(3, 2003, 2))])
    ranges = stream.receipt_ranges()
    assert len(ranges) == MAX_RECEIPT_RANGES + 1
    assert ranges[:3] == [[1, 1], [3, 3], [5, 5]]


@given(RANGES, RANGES, RANGES)
def test_what_was_only_declared_is_accounted_for_and_not_taken(
    before: list[tuple[int, int]], declared: list[tuple[int, int]], after: list[tuple[int, int]]
) -> None:
    stream, model = stream_of(before)
    for first, last in declared:
        stream.declare(first, last)
    for first, last in after:
        stream.account(first, last)
        model |= set(range(first, last + 1))
    accounted = model | {seq for first, last in declared for seq in range(first, last + 1)}
    assert {seq for seq in range(1, TOP + 10) if stream.has(seq)} == accounted
    assert {seq for seq in range(1, TOP + 10) if stream.took(seq)} == model
    assert {seq for first, last in stream.receipt_ranges() for seq in range(first, last + 1)} == model


def test_of_very_many_declared_ranges_the_highest_are_remembered() -> None:
    stream, _ = stream_of([(seq, seq) for seq in range(2, 1002, 2)])
    stream.declare(1, 1001)
    assert len(stream.declared) == DECLARED_KEPT
    assert not stream.took(1001)
    assert stream.took(1)
    assert stream.watermark == 1001
    assert len(stream.receipt_ranges()) == DECLARED_KEPT
