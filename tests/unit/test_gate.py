"""The gate: an interval on a steady grid, change against the last one sent, a keepalive, and counts."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.gate import Gate, Signature, differs, signature
from device_agent.sources.source import Picture, Reading, Scalar, Waveform


def never() -> Signature:
    raise AssertionError("the signature does not matter here")


def test_gate_without_rules_admits_all_and_never_asks_for_a_signature() -> None:
    gate = Gate(interval_s=0, change_ratio=None, keepalive_s=60)
    assert [gate.admits(never, now_s) for now_s in (0.0, 0.0, 0.01)] == [True, True, True]


def test_interval_keeps_its_rate_although_frames_jitter() -> None:
    gate = Gate(interval_s=0.1, change_ratio=None, keepalive_s=60)
    frames_s = [number / 30 - (0.001 if number % 3 == 0 and number else 0) for number in range(300)]
    admitted = sum(gate.admits(never, now_s) for now_s in frames_s)
    assert admitted == 100
    assert gate.refused_early == 200


def test_after_a_pause_the_interval_does_not_rush() -> None:
    gate = Gate(interval_s=1, change_ratio=None, keepalive_s=60)
    assert [gate.admits(never, now_s) for now_s in (0, 100, 100.1, 100.2, 101)] == [True, True, False, False, True]


@given(st.lists(st.floats(0, 0.5), max_size=200))
def test_no_interval_of_the_grid_gets_more_than_one(steps_s: list[float]) -> None:
    gate = Gate(interval_s=1.0, change_ratio=None, keepalive_s=60)
    now_s, admitted = 0.0, 0
    for step_s in steps_s:
        now_s += step_s
        admitted += gate.admits(never, now_s)
    assert admitted <= now_s + 1


def test_unchanged_reading_is_sent_only_as_keepalive() -> None:
    gate = Gate(interval_s=0, change_ratio=0.1, keepalive_s=60)
    values = {"temperature_c": 20.0}
    assert [gate.admits(lambda: values, now_s) for now_s in (0, 30, 59, 60, 61)] == [True, False, False, True, False]
    assert gate.refused_unchanged == 3


def test_slow_drift_is_sent_once_it_adds_up() -> None:
    gate = Gate(interval_s=0, change_ratio=0.1, keepalive_s=1e9)
    sent = [step for step in range(40) if gate.admits(partial(dict[str, Scalar], t=100.0 + step), float(step))]
    assert sent == [0, 12, 25, 39]


@pytest.mark.parametrize(
    ("before", "now", "ratio", "changed"),
    [
        ({"a": 100.0}, {"a": 104.0}, 0.05, False),
        ({"a": 100.0}, {"a": 110.0}, 0.05, True),
        ({"a": 0.0}, {"a": 0.001}, 0.5, True),
        ({"a": 1.0, "b": -100.0}, {"a": 1.0, "b": 100.0}, 0.5, True),
        ({"door": True}, {"door": False}, 0.5, True),
        ({"door": "open"}, {"door": "open"}, 0.0, False),
        ({"a": 1.0}, {"a": 1.0, "b": 1.0}, 0.5, True),
        (bytes([100] * 8), bytes([104] * 8), 0.02, False),
        (bytes([100] * 8), bytes([110] * 8), 0.02, True),
        (bytes(8), bytes(9), 0.5, True),
        (None, None, 0.5, True),
    ],
)
def test_what_counts_as_a_change(before: Signature, now: Signature, ratio: float, changed: bool) -> None:
    assert differs(before, now, ratio) is changed


def test_signature_of_a_jpeg_is_that_of_its_pixels() -> None:
    cv2 = pytest.importorskip("cv2")
    pixels = np.zeros((480, 640, 3), np.uint8)
    pixels[:, 320:] = 200
    encoded = cv2.imencode(".jpg", pixels)[1].tobytes()
    from_pixels, from_jpeg = signature(Picture(pixels=pixels)), signature(Picture(encoded=encoded))
    assert isinstance(from_pixels, bytes)
    assert len(from_pixels) == 32 * 24
    assert not differs(from_pixels, from_jpeg, 0.01)
    assert differs(from_pixels, signature(Picture(pixels=pixels[:, ::-1].copy())), 0.5)


def test_signatures_of_sensors() -> None:
    assert signature(Reading({"a": 1.0})) == {"a": 1.0}
    assert signature(Waveform(10.0, "g", (0.0, 1.0))) is None
