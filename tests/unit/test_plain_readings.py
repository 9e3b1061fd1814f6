"""What is read at one glance is what the long way makes of it, to the last byte; all else is left to the long way."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest

from millrace import events, plain_readings
from millrace.clock import Instant

KEY = events.Key("/millrace/device/press-1/c0", "k3v9x0pa", 47)
INSTANT = Instant(1_795_249_800_123_456_000, "19b61aaf-1721-4f12-a2fa-a6dbc410af88", 71_501_952_835_531)
DATA: Mapping[str, Any] = {
    "temperature_c": 21.5,
    "count": -7,
    "on": True,
    "off": False,
    "unit": "C [1] {2}",
    "e": 1e-07,
}


def body(data: Mapping[str, Any] = DATA, base: int | None = 3, instant: Instant = INSTANT) -> bytes:
    event = events.new_event(events.READING, KEY, instant, data=data)
    return events.encode_json(event if base is None else event.with_base(base))


def the_long_way(payload: bytes) -> tuple[events.Event, str, bytes]:
    event = events.decode_json(payload, len(payload))
    again, digest = events.encode_and_digest(event)
    return event, digest, again


@pytest.mark.parametrize(
    "payload",
    [
        body(),
        body({"temperature_c": 21.5}),
        body(base=None),
        body(instant=Instant(INSTANT.wall_ns, "", 0)),
        body(
            {"big": 9_999_999_999_999_999_999, "small": -1.7976931348623157e308, "zero": 0, "real": 0.0, "less": -0.0}
        ),
        body({f"v{number}": number / 7 for number in range(256)}),
    ],
)
def test_a_reading_as_we_spell_it_is_read_at_one_glance(payload: bytes) -> None:
    found = plain_readings.decode(payload)
    assert found is not None
    assert (*found, payload) == the_long_way(payload)


def test_the_digest_leaves_out_what_a_device_still_holds() -> None:
    digests = {found[1] for base in (None, 0, 3, 47) if (found := plain_readings.decode(body(base=base)))}
    assert len(digests) == 1


@pytest.mark.parametrize(
    "payload",
    [
        body({"word": "caf\u00e9"}),
        body({"word": 'a"b'}),
        body({f"v{number}": 1 for number in range(257)}),
        body().replace(b"21.5", b"21.50"),
        body().replace(b"21.5", b"2150e-2"),
        body().replace(b"21.5", b"1e999"),
        body().replace(b"21.5", b"021.5"),
        body().replace(b"21.5", b"NaN"),
        body().replace(b"21.5", b"1-2"),
        body().replace(b"-7", b"-0"),
        body().replace(b"-7", b"12345678901234567890"),
        body().replace(b'"on":true', b'"count":1'),
        body().replace(b'"data":', b'"data": '),
        body().replace(b'"base":"3"', b'"base":"03"'),
        body().replace(b"k3v9x0pa-47", b"k3v9x0pa-047"),
        body().replace(b'"source"', b'"subject":"x","source"'),
        body().replace(b"2026-", b"2026-02-30T00:00:00Z"),
        body().replace(b"2026-11", b"2026-02").replace(b"-02-21", b"-02-30"),
        body().replace(b"Z", b"+00:00"),
        body().replace(b"reading", b"waveform"),
        body() + b"\n",
        body()[:-1],
        b"",
    ],
)
def test_what_is_spelled_otherwise_is_left_to_the_long_way(payload: bytes) -> None:
    assert plain_readings.decode(payload) is None


def test_whatever_bytes_change_no_glance_says_another_thing_than_the_long_way() -> None:
    chance, whole = random.Random(1), body({"t": 21.5, "n": -7, "s": "x"})
    read = 0
    for at in range(len(whole)):
        for new in (b"", b'"', b"0", b"-", b"}", b",", bytes([chance.randrange(256)]), whole[at : at + 1] * 2):
            payload = whole[:at] + new + whole[at + 1 :]
            if (found := plain_readings.decode(payload)) is not None:
                assert (*found, payload) == the_long_way(payload)
                read += 1
    assert read > 500  # digits and names may be others
