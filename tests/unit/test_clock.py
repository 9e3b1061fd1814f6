"""Times as text and back: RFC 3339 only, within 64-bit nanoseconds."""

from datetime import UTC, datetime

import pytest
from dateutil.parser import isoparse
from hypothesis import given
from hypothesis import strategies as st

from millrace import clock

INT64_NS = st.integers(-(2**63), 2**63 - 1)


@given(st.integers(0, 2**63 - 1))
def test_a_written_time_reads_back_to_the_microsecond(wall_ns: int) -> None:
    assert clock.parse_rfc3339(clock.rfc3339(wall_ns)) == wall_ns // 1000 * 1000


@given(INT64_NS)
def test_a_written_time_means_the_same_to_another_reader(wall_ns: int) -> None:
    microseconds = (isoparse(clock.rfc3339(wall_ns)) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e6
    assert microseconds == pytest.approx(wall_ns / 1000, rel=1e-12, abs=1)


@pytest.mark.parametrize(
    ("text", "wall_ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:01z", 10**9),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T23:59:59.5-00:00", -(5 * 10**8)),
        ("1970-01-01T00:00:00.123456789Z", 123456000),
        ("2000-02-29T23:59:59.1Z", 951868799_100000000),
    ],
)
def test_every_form_of_rfc_3339_is_read(text: str, wall_ns: int) -> None:
    assert clock.parse_rfc3339(text) == wall_ns


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-13-45T00:00:00Z",
        "2026-02-29T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "2026-11-21T24:00:00Z",
        "2026-11-21T08:60:00Z",
        "2026-11-21T08:30:60Z",
        "2026-11-21 08:30:00Z",
        "2026-11-21T08:30:00",
        "2026-11-21T08:30Z",
        "2026-11-21T08:30:00,5Z",
        "2026-11-21T08:30:00.Z",
        "2026-11-21T08:30:00.1234567890Z",
        "2026-11-21T08:30:00+24:00",
        "2026-11-21T08:30:00+01:60",
        "2026-11-21T08:30:00+0100",
        "2026-W01-1T08:30:00Z",
        "2026-11-21T08:30:00Z\n",
        " 2026-11-21T08:30:00Z",
        "٢٠٢٦-11-21T08:30:00Z",
        "2026-11-21T08:30:00\u017f",
        "1677-01-01T00:00:00Z",
        "2263-01-01T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        "2" * 100_000,
    ],
)
def test_what_is_no_time_is_refused_with_a_short_message(text: str) -> None:
    with pytest.raises(ValueError, match="time") as refused:
        clock.parse_rfc3339(text)
    assert len(str(refused.value)) < 200


@given(st.text(alphabet="0123456789-:.TZtz+", max_size=40))
def test_garbage_is_a_value_error_or_fits_64_bits(text: str) -> None:
    try:
        assert -(2**63) <= clock.parse_rfc3339(text) < 2**63
    except ValueError:
        pass


def test_the_system_clock_moves_on_and_keeps_its_boot() -> None:
    system = clock.SystemClock()
    first, second = system.now(), system.now()
    assert second.uptime_ns >= first.uptime_ns
    assert first.boot_id == second.boot_id == clock.boot_id() != ""
    assert system.uptime_s() * 1e9 >= first.uptime_ns - 1000
    assert clock.machine_id() == clock.machine_id()
