"""The spool at its quota: what goes by policy is declared, the rest stays, and the time line stays covered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from device_agent.packing import Admission
from device_agent.settings import AgentSettings
from device_agent.spool import Spool
from millrace import clock, events, quota
from millrace.quota import Held, Policy, Shedding
from millrace.ranges import RangeSet
from millrace.topics import Kind

FRAME_BYTES = 1000
INSTANT = clock.Instant(1_795_249_800_000_000_000, "b", 1)


def frames(count: int, policy: Policy = "thin") -> list[Held]:
    return [Held(position, Kind.FRAME, "top", policy, FRAME_BYTES) for position in range(1, count + 1)]


@pytest.mark.parametrize(
    ("held", "needed", "expected"), [(0, 900, 0), (850, 50, 0), (850, 51, 46), (2000, 0, 1145), (0, 5000, 4145)]
)
def test_above_high_water_a_little_more_goes_than_must(held: int, needed: int, expected: int) -> None:
    assert quota.excess_bytes(held, needed, 900.0) == expected


def test_drop_oldest_takes_the_oldest_and_no_more_than_is_asked() -> None:
    going, looked = Shedding().pick(frames(10, "drop_oldest"), 3 * FRAME_BYTES)
    assert ([row.position for row in going], looked) == ([1, 2, 3], 3)


def test_thinning_takes_every_second_one_over_the_whole_time_before_it_begins_again() -> None:
    shedding, rows = Shedding(), frames(16)
    for left in ([1, 3, 5, 7, 9, 11, 13, 15], [1, 5, 9, 13], [1, 9]):
        going, _ = shedding.pick(rows, 1 << 20)
        rows = [row for row in rows if row not in going]
        assert [row.position for row in rows] == left


def test_what_is_small_goes_in_runs_so_that_the_ledger_costs_less_than_it_frees() -> None:
    rows = [Held(position, Kind.READING, "belt", "thin", 300) for position in range(1, 129)]
    going, _ = Shedding().pick(rows, 1 << 20)
    assert RangeSet((row.position, row.position) for row in going).ranges() == [(33, 64), (97, 128)]


def test_what_rejects_never_goes() -> None:
    policies: list[Policy] = ["reject", "drop_oldest"]
    rows = [Held(number, Kind.READING, "belt", policy, 300) for number, policy in enumerate(policies)]
    going, _ = Shedding().pick(rows, 1 << 20)
    assert [row.position for row in going] == [1]


def test_of_two_cameras_that_take_turns_each_keeps_every_second_picture() -> None:
    rows = [Held(number, Kind.FRAME, ("left", "right")[number % 2], "thin", FRAME_BYTES) for number in range(16)]
    going, _ = Shedding().pick(rows, 1 << 20)
    assert [row.channel for row in going] == ["left", "right"] * 4


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Spool]]:
    spools: list[Spool] = []

    def open_spool(**limits: object) -> Spool:
        settings = AgentSettings.model_validate(
            {
                "device": "cam-1",
                "state_dir": tmp_path / "state",
                "spool": {"min_free_bytes": 0, "max_bytes": 1_000_000, "durability": {"frame": "power"}, **limits},
                "channels": {"top": {"source": {"kind": "conveyor"}}},
            }
        )
        spools.append(Spool(settings, "machine-1", clock.SystemClock()))
        return spools[-1]

    yield open_spool
    for spool in spools:
        spool.close()


def keep(spool: Spool, admission: Admission) -> bool:
    """Do as the keeper does."""
    spool.make_room(admission.size_bytes)
    if spool.has_room(admission):
        spool.admit([admission])
        return True
    return False


def keep_many(spool: Spool, admissions: list[Admission]) -> int:
    spool.make_room(sum(admission.size_bytes for admission in admissions))
    return len(spool.admit([admission for admission in admissions if spool.has_room(admission)]))


def frame(number: int) -> Admission:
    return Admission("top", events.FRAME, INSTANT, picture=b"%d" % number + bytes(20_000), content_type="image/png")


def reading() -> Admission:
    return Admission("belt", events.READING, INSTANT, {"temperature_c": 20.5})


def account(spool: Spool) -> tuple[RangeSet, RangeSet, set[str]]:
    """Return what is held, what is declared, and the reasons."""
    held, declared, reasons = RangeSet(), RangeSet(), set()
    for entry in spool.read(0, 100_000):
        held.add(entry.seq)
        event = events.decode_json(entry.body)
        if event.type == events.LEDGER:
            data = events.LedgerData.model_validate(event.data)
            assert data.disposition == "shed"
            declared.add(data.first, data.last)
            reasons.add(data.reason.split(":")[0])
    return held, declared, reasons


@pytest.mark.parametrize("policy", ["thin", "drop_oldest"])
def test_frames_go_by_policy_each_is_declared_and_what_comes_finds_room(
    opened: Callable[..., Spool], policy: str
) -> None:
    spool = opened(overflow={"frame": policy})
    promised = RangeSet()
    for number in range(200):
        assert keep(spool, frame(number))
        promised.add(1, spool.minted()[spool.epoch])
        assert spool.held_bytes <= 1_000_000
    held, declared, reasons = account(spool)
    assert reasons == {policy}
    assert spool.shed_rows > 100
    assert RangeSet([*held, *declared]).gaps(1, promised.last() or 0) == []
    assert not [pair for pair in declared if held.gaps(*pair) != [pair]]
    shown = [entry.seq for entry in spool.read(0, 1000) if entry.blob]
    newest = spool.minted()[spool.epoch]
    assert (shown[0] < newest / 4) == (policy == "thin"), "thinning keeps some of the oldest, dropping none"


def test_readings_find_room_because_frames_go_and_are_refused_when_only_readings_are_left(
    opened: Callable[..., Spool],
) -> None:
    spool = opened(max_bytes=400_000)
    for number in range(15):
        assert keep(spool, frame(number))
    kept = sum(keep_many(spool, [reading() for _ in range(40)]) for _ in range(100))
    assert 500 < kept < 4000
    assert not [entry for entry in spool.read(0, 10_000) if entry.blob]
    before = spool.minted()
    assert not keep(spool, reading())
    assert spool.minted() == before, "what is refused was not promised"
    held, declared, _ = account(spool)
    assert RangeSet([*held, *declared]).gaps(1, before[spool.epoch]) == []


def test_with_reject_nothing_that_is_held_goes(opened: Callable[..., Spool]) -> None:
    spool = opened(overflow={"frame": "reject"})
    kept = sum(keep(spool, frame(number)) for number in range(100))
    assert (spool.held_rows, spool.shed_rows) == (kept, 0)
    assert 30 < kept < 50


def test_a_disk_that_others_fill_costs_nothing_that_is_held(opened: Callable[..., Spool]) -> None:
    spool = opened()
    assert keep(spool, frame(1))
    spool._settings = spool._settings.model_copy(update={"min_free_bytes": 1 << 60})
    assert not keep(spool, frame(2))
    assert (spool.held_rows, spool.shed_rows) == (1, 0)
