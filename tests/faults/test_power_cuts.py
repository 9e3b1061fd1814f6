"""Power cuts: what was acknowledged outlasts one at any moment, whatever of the unsynced the disk has kept.

MILLRACE_CUTS sets how many cuts are tried, MILLRACE_SEED repeats a run's choice of them.
"""

from __future__ import annotations

import shutil
import sqlite3
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from faults import spool_writer, store_writer
from faults.campaign import Campaign, sized
from faults.gateway_run import record_gateway
from faults.powercut import cuts
from faults.systemcalls import Recording
from faults.systemcalls import record as recording_of
from integration.brokers import Address

from bench.measures import Measure, equal
from broker_config.mosquitto import Mosquitto
from millrace.blobs import StorageFailed
from millrace.chaos.kills import chosen_seed
from millrace.database import Damaged

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed here")
Judge = Callable[[Path, Sequence[bytes]], tuple[int, list[str]]]
WRITERS: dict[str, Judge] = {"spool": spool_writer.complaints, "store": store_writer.complaints}
SLICE_CUTS, SLICE_TURNS = 20, 13
CUTS_OF_A_RECORDING, TURNS, GATEWAY_EVENTS = 250, 40, 60


@dataclass
class Found:
    """What cuts came to: rows promised in all, and complaints."""

    promised: int = 0
    complaints: list[str] = field(default_factory=list)

    def __add__(self, other: Found) -> Found:
        return Found(self.promised + other.promised, self.complaints + other.complaints)


def recorded(home: Path, writer: str, seed: int, turns: int, broken: str = "") -> Recording:
    (home / "disk").mkdir(parents=True)
    arguments = [str(home / "disk" / "state"), str(seed), str(turns), broken]
    return recording_of(home / "disk", home / "trace", f"faults.{writer}_writer", *arguments)


def judged(recording: Recording, judge: Judge, seed: int, count: int, scratch: Path) -> Found:
    """Cut so many times and look at what remains each time; a cut's complaints begin with its number."""
    found = Found()
    scratch.mkdir()
    for place, folder in cuts(recording, seed, count, scratch):
        try:
            promised, complaints = judge(folder / "state", recording.said_by(place))
        except (Damaged, StorageFailed, sqlite3.Error, LookupError, ValueError, AssertionError) as error:
            promised, complaints = 0, [f"does not start: {error!r}"]
        found.promised += promised
        found.complaints += [f"seed {seed}, cut before change {place}: {complaint}" for complaint in complaints]
        shutil.rmtree(folder)
    return found


@pytest.mark.parametrize("writer", WRITERS)
def test_what_was_promised_outlasts_a_power_cut(quick_path: Path, writer: str) -> None:
    seed = chosen_seed()
    sys.stdout.write(f"MILLRACE_SEED={seed}\n")
    recording = recorded(quick_path / "run", writer, seed, SLICE_TURNS)
    found = judged(recording, WRITERS[writer], seed, SLICE_CUTS, quick_path / "cuts")
    assert found.complaints == []
    assert found.promised > SLICE_CUTS


@pytest.mark.parametrize("broken", ["normal", "folders"])
def test_the_simulator_finds_what_is_lost_without_a_sync(quick_path: Path, broken: str) -> None:
    """`normal` leaves out the sync of the log at each commit, `folders` that of the names of files."""
    recording = recorded(quick_path / "run", "spool", 1, SLICE_TURNS, broken)
    found = judged(recording, WRITERS["spool"], 1, SLICE_CUTS, quick_path / "cuts")
    assert [line for line in found.complaints if " lost: " in line]


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("writer", WRITERS)
def test_no_cut_of_a_long_campaign_loses_what_was_promised(
    quick_path: Path, writer: str, measures: list[Measure]
) -> None:
    campaign = Campaign(measures, "power cuts", writer, chosen_cuts())
    seed, count, found = campaign.seed, campaign.runs, Found()
    for number, first in enumerate(range(0, count, CUTS_OF_A_RECORDING)):
        home, its_seed = quick_path / f"{number}", seed + number
        recording = recorded(home, writer, its_seed, TURNS)
        found += judged(recording, WRITERS[writer], its_seed, min(CUTS_OF_A_RECORDING, count - first), home / "cuts")
    tell(campaign, found)


@pytest.mark.faults
@pytest.mark.mosquitto
@pytest.mark.timeout(900)
def test_no_cut_of_the_running_gateway_loses_what_it_gave_a_receipt_for(
    quick_path: Path, mosquitto: Mosquitto, measures: list[Measure]
) -> None:
    campaign = Campaign(measures, "power cuts", "gateway", chosen_cuts())
    seed, count = campaign.seed, campaign.runs
    recording = record_gateway(quick_path / "run", Address(mosquitto.host, mosquitto.port), seed, GATEWAY_EVENTS)
    found = judged(recording, store_writer.complaints, seed, count, quick_path / "cuts")
    tell(campaign, found)


def chosen_cuts() -> int:
    """Return a third of MILLRACE_CUTS: each of three programs has its share."""
    return sized("MILLRACE_CUTS", 600) // 3


def tell(campaign: Campaign, found: Found) -> None:
    """Add the measures, and fail if a cut found anything."""
    program, seed, count = campaign.variant, campaign.seed, campaign.runs
    lost = sum("lost" in complaint for complaint in found.complaints)
    campaign.measures += [
        equal(f"{count} power cuts, {program}, seed {seed}: lost of {found.promised} promised", lost, 0),
        equal(f"{count} power cuts, {program}, seed {seed}: complaints", len(found.complaints), 0),
    ]
    campaign.count(found.promised, lost)
    assert found.complaints[:20] == []
