"""Readings without a key, flat or SenML: each is kept whole or the payload is a MalformedEvent."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace import bare_readings, clock, events, jsontext
from millrace.events import MalformedEvent

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**19) + 1, 10**19 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


def readings(value: object, now_s: float | None = None) -> list[tuple[float | None, dict[str, events.Scalar]]]:
    return bare_readings.parse(json.dumps(value).encode(), now_s=now_s)


def test_flat_json_is_one_reading_for_now() -> None:
    assert readings({"temperature_c": 41.2, "on": True}) == [(None, {"temperature_c": 41.2, "on": True})]


def test_a_senml_pack_is_one_reading_for_each_moment() -> None:
    pack = [
        {"bn": "urn:dev:ow:10e2073a01080063:", "bt": 1_700_000_000, "bu": "A", "bver": 10, "n": "current", "v": 1.2},
        {"n": "current", "t": -5, "v": 1.3},
        {"n": "voltage", "u": "V", "v": 230},
        {"bn": "", "bu": "W", "n": "open/door", "vb": False},
        {"n": "label", "u": "", "vs": "good"},
    ]
    device = "urn:dev:ow:10e2073a01080063:"
    assert readings(pack) == [
        (
            1_700_000_000,
            {
                f"{device}current": 1.2,
                f"{device}current_unit": "A",
                f"{device}voltage": 230,
                f"{device}voltage_unit": "V",
                "open_door": False,
                "open_door_unit": "W",
                "label": "good",
                "label_unit": "",
            },
        ),
        (1_699_999_995, {f"{device}current": 1.3, f"{device}current_unit": "A"}),
    ]


def test_a_base_value_is_added_to_numbers_only() -> None:
    pack = [{"bv": 20, "n": "a", "v": 1.5}, {"n": "b", "vs": "x"}, {"bv": 0, "n": "c", "v": 1}]
    assert readings(pack) == [(None, {"a": 21.5, "b": "x", "c": 1})]


def test_relative_times_count_from_now_and_none_overwrites_another() -> None:
    pack = [{"n": "a", "t": -10, "v": 1}, {"n": "a", "t": -5, "v": 2}, {"n": "a", "v": 3}]
    assert readings(pack, now_s=1_700_000_000) == [
        (1_699_999_990, {"a": 1}),
        (1_699_999_995, {"a": 2}),
        (1_700_000_000, {"a": 3}),
    ]
    assert readings(pack) == [(None, {"a": 1}), (None, {"a": 2}), (None, {"a": 3})]


@pytest.mark.parametrize(
    "value",
    [
        None,
        41.2,
        "41.2",
        {},
        {"a": None},
        {"a": [1]},
        {"": 1},
        [],
        [1],
        [[]],
        [{}],
        [{"n": "a"}],
        [{"v": 1}],
        [{"n": "1a", "v": 1}],
        [{"n": 5, "v": 1}],
        [{"n": ["a"], "v": 1}],
        [{"n": None, "v": 1}],
        [{"bn": {}, "n": "a", "v": 1}],
        [{"n": "a", "t": "1", "v": 1}],
        [{"n": "a", "t": None, "v": 1}],
        [{"n": "a", "t": True, "v": 1}],
        [{"bt": "now", "n": "a", "v": 1}],
        [{"bt": [], "n": "a", "v": 1}],
        [{"bt": 1e300, "n": "a", "v": 1}],
        [{"bt": -1e300, "n": "a", "v": 1}],
        [{"bt": 1.7e308, "n": "a", "t": 1.7e308, "v": 1}],
        [{"bv": "1", "n": "a", "v": 1}],
        [{"bv": 1e308, "n": "a", "v": 1.7e308}],
        [{"bv": 9999999999999999999, "n": "a", "v": 9999999999999999999}],
        [{"bu": 5, "n": "a", "v": 1}],
        [{"u": ["V"], "n": "a", "v": 1}],
        [{"u": "x" * 257, "n": "a", "v": 1}],
        [{"bver": 5, "n": "a", "v": 1}],
        [{"bver": "10", "n": "a", "v": 1}],
        [{"n": "a", "v": "1"}],
        [{"n": "a", "v": None}],
        [{"n": "a", "v": True}],
        [{"n": "a", "vs": 1}],
        [{"n": "a", "vb": 1}],
        [{"n": "a", "v": 1, "vs": "1"}],
        [{"n": "a", "vd": "AAAA"}],
        [{"n": "a", "s": 5}],
        [{"n": "a", "v": 1, "must_": 1}],
        [{"n": "a", "v": 1}, {"n": "a", "v": 2}],
        [{"n": "a/b", "v": 1}, {"n": "a_b", "v": 2}],
        [{"n": "a", "u": "V", "v": 1}, {"n": "a_unit", "v": 2}],
        [{"n": f"a{number}", "v": 1} for number in range(257)],
    ],
)
def test_a_reading_that_cannot_be_kept_whole_is_malformed(value: object) -> None:
    with pytest.raises(MalformedEvent):
        readings(value)


LABELS = st.sampled_from(["bn", "bt", "bu", "bv", "bver", "n", "u", "v", "vs", "vb", "vd", "t", "s", "x_"])
PACKS = st.lists(st.dictionaries(LABELS, VALUES, max_size=6) | VALUES, max_size=4)
LIKELY = st.fixed_dictionaries(
    {"n": st.sampled_from("abc"), "v": st.floats(allow_nan=False)},
    optional={"bt": st.floats(allow_nan=False), "t": st.floats(), "bv": st.floats(), "u": st.text(max_size=3)},
)


@given(VALUES | PACKS | st.lists(LIKELY, max_size=4), st.none() | st.just(1.7e9))
def test_any_json_is_readings_or_malformed(value: object, now_s: float | None) -> None:
    try:
        found = readings(value, now_s)
    except MalformedEvent:
        return
    assert found
    for time_s, values in found:
        assert time_s is None or clock.parse_rfc3339(clock.rfc3339(int(time_s * 1e9))) > 0
        assert events.check_reading(jsontext.parse(jsontext.dump(values))) == values
