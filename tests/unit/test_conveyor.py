from __future__ import annotations

import numpy as np
import pytest

from device_agent.sources.conveyor import Conveyor
from device_agent.sources.parts import LABELS, Light, drifting_light, render_part
from device_agent.sources.source import Capture, Picture, SourceFinished
from millrace.clock import Instant


class HandClock:
    """A clock which a test moves by hand."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def now(self) -> Instant:
        return Instant(wall_ns=int(self.seconds * 1e9), boot_id="boot", uptime_ns=int(self.seconds * 1e9))

    def uptime_s(self) -> float:
        return self.seconds


def next_part(conveyor: Conveyor, clock: HandClock, interval_s: float = 0.5) -> Capture:
    clock.seconds += interval_s
    capture = conveyor.read(timeout_s=0)
    assert capture is not None
    return capture


def pixels_of(capture: Capture) -> np.ndarray:
    assert isinstance(capture.content, Picture)
    assert capture.content.pixels is not None
    return capture.content.pixels


def test_same_seed_gives_the_same_parts_whatever_the_time() -> None:
    slow, quick = HandClock(), HandClock()
    first, second = Conveyor(slow, seed=5), Conveyor(quick, seed=5, rate_hz=50)
    for _ in range(6):
        one, other = next_part(first, slow, 60.0), next_part(second, quick)
        assert one.truth == other.truth
        assert np.array_equal(pixels_of(one), pixels_of(other))


def test_other_seed_gives_other_pictures() -> None:
    clock = HandClock()
    first, second = Conveyor(clock, seed=5), Conveyor(clock, seed=6)
    assert not np.array_equal(pixels_of(next_part(first, clock)), pixels_of(next_part(second, clock)))


def test_every_class_comes_and_defects_as_often_as_asked() -> None:
    clock = HandClock()
    conveyor = Conveyor(clock, width_px=160, height_px=120, defect_ratio=0.5)
    truths = [next_part(conveyor, clock).truth for _ in range(200)]
    assert set(truths) == set(LABELS)
    assert 70 <= sum(truth != "ok" for truth in truths) <= 130


def test_a_perfect_line_has_no_defect() -> None:
    clock = HandClock()
    conveyor = Conveyor(clock, width_px=160, height_px=120, defect_ratio=0.0)
    assert {next_part(conveyor, clock).truth for _ in range(30)} == {"ok"}


def test_count_ends_with_source_finished() -> None:
    clock = HandClock()
    conveyor = Conveyor(clock, count=2)
    next_part(conveyor, clock)
    next_part(conveyor, clock)
    clock.seconds += 10
    with pytest.raises(SourceFinished, match="after 2 parts"):
        conveyor.read(timeout_s=0)


def test_a_part_comes_only_when_it_is_due() -> None:
    clock = HandClock()
    conveyor = Conveyor(clock, rate_hz=2)
    assert conveyor.read(timeout_s=0) is not None
    assert conveyor.read(timeout_s=0) is None
    clock.seconds += 0.49
    assert conveyor.read(timeout_s=0) is None
    clock.seconds += 0.02
    capture = conveyor.read(timeout_s=0)
    assert capture is not None
    assert capture.instant == clock.now()


def test_a_late_reader_gets_one_part_at_once_and_no_burst() -> None:
    clock = HandClock()
    conveyor = Conveyor(clock, rate_hz=2)
    clock.seconds += 60
    assert conveyor.read(timeout_s=0) is not None
    assert conveyor.read(timeout_s=0) is None


def test_a_closed_conveyor_is_finished_and_closes_twice() -> None:
    conveyor = Conveyor(HandClock())
    conveyor.close()
    conveyor.close()
    with pytest.raises(SourceFinished):
        conveyor.read(timeout_s=1000)


@pytest.mark.parametrize("settings", [{"rate_hz": 0.0}, {"rate_hz": -1.0}, {"defect_ratio": 1.5}])
def test_a_wrong_setting_is_named(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Conveyor(HandClock(), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize(("width_px", "height_px"), [(160, 120), (640, 480), (1280, 720), (480, 640)])
def test_every_class_is_drawn_at_every_size(label: str, width_px: int, height_px: int) -> None:
    picture = render_part(np.random.default_rng(1), label, Light(), width_px, height_px)
    assert picture.shape == (height_px, width_px, 3)
    assert picture.dtype == np.uint8
    assert picture.std() > 20


@pytest.mark.parametrize("label", LABELS[1:])
def test_a_defect_is_seen(label: str) -> None:
    good = render_part(np.random.default_rng(1), "ok", Light())
    bad = render_part(np.random.default_rng(1), label, Light())
    assert not np.array_equal(good, bad)


def test_an_unknown_class_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'dent'; known are ok, scratch, missing_screw, stain"):
        render_part(np.random.default_rng(1), "dent", Light())


def test_light_wanders_slowly() -> None:
    lights = [drifting_light(number, phase=0.0) for number in range(1000)]
    levels = np.array([light.level for light in lights])
    assert np.abs(np.diff(levels)).max() < 0.01
    assert levels.max() - levels.min() > 0.2
