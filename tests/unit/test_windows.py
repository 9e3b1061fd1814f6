"""Windows against a plain rule: readings in the order of their seqs, cut wherever something is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import count
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.engines.engine import EngineFailed, TensorInfo
from edge_gateway.window_input import WindowSettings
from edge_gateway.window_tensors import WindowPreparation
from edge_gateway.windows import (
    PATIENCE,
    SOURCE_BYTES,
    WINDOWS_OF_A_WAVEFORM,
    Reading,
    Source,
    Sources,
    Window,
    cut,
    ring_bytes,
    row_of,
)

Found = tuple[str, int, int, int, list[float]]
"""Channel, model, first seq, last seq, and the values in order."""


def settings(samples: int = 4, hop: int = 2, **more: object) -> WindowSettings:
    return WindowSettings.model_validate({"kind": "window", "values": 1, "samples": samples, "hop": hop} | more)


WANTED = {0: settings(4, 2), 3: settings(3, 5)}


def reading(seq: int, channel: str = "a", models: Iterable[int] = WANTED) -> Reading:
    return Reading(seq, channel, f"at {seq}", {model: (float(seq),) for model in models})


def found(windows: Iterable[Window]) -> list[Found]:
    return [
        (window.last.channel, window.model, window.first_seq, window.last.seq, window.values[:, 0].tolist())
        for window in windows
    ]


def by_the_rule(kinds: list[str], lost: set[int]) -> list[Found]:
    """Return each window of a device whose event n is a reading of channel kinds[n - 1], or none if that is ""."""
    expected: list[Found] = []
    runs: list[list[int]] = [[]]
    for seq in range(1, len(kinds) + 1):
        if seq in lost:
            runs.append([])
        else:
            runs[-1].append(seq)
    for run in runs:
        for channel in ("a", "b"):
            seqs = [seq for seq in run if kinds[seq - 1] == channel]
            for model, wanted in WANTED.items():
                for end in range(wanted.samples, len(seqs) + 1, wanted.hop):
                    cut_out = seqs[end - wanted.samples : end]
                    expected.append((channel, model, cut_out[0], cut_out[-1], [float(seq) for seq in cut_out]))
    return sorted(expected)


@given(
    kinds=st.lists(st.sampled_from(["a", "a", "b", ""]), max_size=40),
    lost=st.sets(st.integers(1, 40), max_size=4),
    chance=st.randoms(use_true_random=False),
)
def test_whatever_the_order_and_the_repeats_each_window_is_made_once_and_none_spans_a_gap(
    kinds: list[str], lost: set[int], chance: Random
) -> None:
    come = [seq for seq in range(1, len(kinds) + 1) if seq not in lost]
    order = sorted(come, key=lambda seq: seq + chance.uniform(0, 8))
    repeated = [seq for seq in order for _ in range(chance.choice([1, 1, 2]))]
    source, got, here = Source(WANTED, 1), list[Found](), set(lost)
    for seq in repeated:
        here.add(seq)
        accounted = next(number for number in count() if number + 1 not in here)
        kind = kinds[seq - 1]
        got += found(source.came(seq, reading(seq, kind) if kind else None, accounted, Counter()))
    assert sorted(got) == by_the_rule(kinds, lost)


def test_a_window_waits_for_the_event_that_is_missing_and_is_made_by_it() -> None:
    source, broken = Source(WANTED, 1), Counter[str]()
    for seq in (1, 2, 4, 5):
        assert source.came(seq, reading(seq, models=[0]), 2, broken) == []
    assert found(source.came(3, reading(3, models=[0]), 5, broken)) == [("a", 0, 1, 4, [1, 2, 3, 4])]
    assert not broken


def test_who_never_fills_a_hole_is_waited_for_no_longer_than_so_many_events() -> None:
    source, broken = Source(WANTED, 1), Counter[str]()
    source.came(1, reading(1, models=[0]), 1, broken)
    windows = [source.came(seq, reading(seq, models=[0]), 1, broken) for seq in range(3, PATIENCE + 4)]
    assert [len(each) for each in windows[:-1]] == [0] * PATIENCE
    assert found(windows[-1])[0] == ("a", 0, 3, 6, [3, 4, 5, 6])
    assert broken == {"gap": 1}
    source.came(2, reading(2, models=[0]), PATIENCE + 3, broken)
    assert broken == {"gap": 1, "late": 1}


def test_a_window_that_is_due_before_there_are_readings_enough_waits_for_them() -> None:
    source = Source(WANTED, 1)
    source.came(1, Reading(1, "a", "", {0: (1.0,)}, answered=frozenset([0])), 1, Counter())
    assert [found(source.came(seq, reading(seq, models=[0]), seq, Counter())) for seq in (2, 3, 4)] == [
        [],
        [],
        [("a", 0, 1, 4, [1, 2, 3, 4])],
    ]


def test_a_reading_that_does_not_fit_breaks_the_window_of_its_channel_alone() -> None:
    source, broken, got = Source(WANTED, 1), Counter[str](), list[Found]()
    for seq in range(1, 13):
        odd = Reading(seq, "a", "", {0: None})
        each = odd if seq == 5 else reading(seq, "ab"[seq % 2], models=[0])
        got += found(source.came(seq, each, seq, broken))
    assert broken == {"values": 1}
    assert [each[:4] for each in got] == [("b", 0, 1, 9), ("a", 0, 6, 12)]


def test_the_device_that_was_quiet_longest_makes_room_and_the_others_lose_nothing() -> None:
    wanted = {0: settings(4, 4)}
    room = 2 * (SOURCE_BYTES + ring_bytes(wanted[0]))
    sources, broken, got = Sources(room), Counter[str](), Counter[str]()
    for seq in range(1, 9):
        for device in ("c", "a", "b") if seq == 1 else ("a", "b"):
            windows = sources.came(
                (device, "k3v9x0pa"), lambda: Source(wanted, 1), seq, reading(seq, models=[0]), seq, broken
            )
            got[device] += len(windows)
            assert sources.held_bytes <= room
    assert (broken, got) == ({"memory": 1}, {"a": 2, "b": 2, "c": 0})


def test_a_new_epoch_of_a_device_is_told() -> None:
    sources, broken = Sources(1 << 20), Counter[str]()
    for epoch in ("k3v9x0pa", "newepoch", "newepoch"):
        sources.came(("cam-1", epoch), lambda: Source(WANTED, 1), 1, reading(1), 1, broken)
    assert broken["epoch"] == 1


@pytest.mark.parametrize(
    ("values", "data", "row"),
    [
        (1, {"g": 0.5}, (0.5,)),
        (1, {"g": 0.5, "state": "on"}, (0.5,)),
        (2, {"y": 2, "x": True}, (1.0, 2.0)),
        (1, {"x": 1, "y": 2}, None),
        (1, {"state": "on"}, None),
        (["y", "x"], {"x": 1, "y": 2, "z": 3}, (2.0, 1.0)),
        (["y"], {"x": 1}, None),
        (["y"], {"y": "on"}, None),
    ],
)
def test_which_numbers_of_a_reading_a_model_takes(
    values: object, data: dict[str, object], row: tuple[float, ...] | None
) -> None:
    assert row_of(data, settings(values=values)) == row


@pytest.mark.parametrize(("samples", "begins"), [(3, []), (4, [0]), (5, [0]), (9, [0, 2, 4])])
def test_a_waveform_is_cut_by_the_same_steps(samples: int, begins: list[int]) -> None:
    windows = cut([float(number) for number in range(samples)], settings(4, 2))
    assert [(begin, values[:, 0].tolist()) for begin, values in windows] == [
        (begin, [begin, begin + 1, begin + 2, begin + 3]) for begin in begins
    ]


def test_a_long_waveform_gives_no_more_than_so_many_windows() -> None:
    assert len(cut([0.0] * 1000, settings(4, 1))) == WINDOWS_OF_A_WAVEFORM


# --- what the model is given


def tensor(shape: tuple[int, ...], dtype: type = np.float32, scale: float = 0.0, zero_point: int = 0) -> TensorInfo:
    return TensorInfo(shape, np.dtype(dtype), scale, zero_point)


WINDOW = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
TWO = settings(3, 1, values=2, mean=[1, 0], std=[1, 10])


@pytest.mark.parametrize(
    ("layout", "shape", "numbers"),
    [
        ("NWC", (1, 3, 2), [0, 1, 1, 2, 2, 3]),
        ("NWC", (1, 6), [0, 1, 1, 2, 2, 3]),
        ("NCW", (1, 2, 3), [0, 1, 2, 1, 2, 3]),
        ("NCW", (1, 6), [0, 1, 2, 1, 2, 3]),
    ],
)
def test_a_window_is_scaled_and_laid_out_as_the_manifest_says(
    layout: str, shape: tuple[int, ...], numbers: list[float]
) -> None:
    given = WindowPreparation(TWO.model_copy(update={"layout": layout}), tensor(shape), "odd@1").tensor(WINDOW)
    assert (given.shape, given.dtype, given.reshape(-1).tolist()) == (shape, np.float32, numbers)


def test_a_quantized_model_is_given_steps_within_its_limits() -> None:
    preparation = WindowPreparation(settings(3, 1), tensor((1, 3, 1), np.int8, 0.5, 10), "odd@1")
    assert preparation.tensor(np.array([[1.0], [-2.25], [1e9]])).reshape(-1).tolist() == [12, 6, 127]


@pytest.mark.parametrize(
    ("info", "said"),
    [
        (tensor((1, 2, 3)), "takes (1, 2, 3), but its manifest says (1, 3, 2)"),
        (tensor((1, 3, 2), np.int8), "has no scale"),
        (tensor((1, 3, 2), np.float64), "uint8, int8 or float32 are"),
    ],
)
def test_a_model_that_takes_other_windows_is_refused(info: TensorInfo, said: str) -> None:
    with pytest.raises(EngineFailed) as caught:
        WindowPreparation(TWO, info, "odd@1")
    assert said in str(caught.value)
