"""Fifty devices of two events a second for MILLRACE_SOAK_MINUTES, and everything befalls them at random.

In the first quarter programs die too; in the rest nobody is ended, so that memory can be watched: MB an hour for each
program, for an agent a fiftieth of what the process grows in which the fifty run. It is watched once each program has
met the longest pause and the longest cut, since what a burst takes at its first coming is no growth.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from faults.campaign import Campaign, sized
from faults.growth import Growth

from bench.measures import Measure, at_most
from millrace.chaos.line import Line
from millrace.chaos.mischief import CUT_S, PAUSE_S, Kind, Mischief
from millrace.chaos.plan import KEEPALIVE_S, Plan, usual_broker
from millrace.chaos.reckoning import reckon
from millrace.demo.proxy import State as LinkState

pytestmark = [pytest.mark.faults, pytest.mark.timeout(90_000)]
DEVICES, READINGS_PER_S, FRAMES_PER_S = 50, 90.0, 10.0
GENTLE: tuple[Kind, ...] = ("pause", "link cut", "link silent")
MB_PER_H = 1.0
TIMES_AT_THEIR_LONGEST = 3
LONGEST_S = max(PAUSE_S[1], 1.5 * KEEPALIVE_S + 2.0)
"""So long a pause ends connections, as several close together do: the largest bursts follow."""
JUDGED_FROM_MINUTES = 30  # a shorter run's slope is its warming up
BROKER = usual_broker()


def test_fifty_devices_under_everything_at_random_lose_nothing_and_nobody_grows(
    tmp_path: Path, measures: list[Measure]
) -> None:
    minutes = sized("MILLRACE_SOAK_MINUTES", 1)
    plan = Plan(BROKER, devices=DEVICES, readings_per_s=READINGS_PER_S, frames_per_s=FRAMES_PER_S)
    with Line(tmp_path, plan, Path(__file__).with_name("fleet.py")) as line:
        campaign = Campaign(measures, "soak", BROKER, 1, f"{minutes} min")
        mischief = Mischief(line, random.Random(campaign.seed), lambda text: sys.stderr.write(f"{text}\n"))
        mischief.go_on_for(minutes * 60 / 4)
        line.wait_for_flow(1000)
        if minutes >= JUDGED_FROM_MINUTES:
            _at_their_longest(line)
        with Growth(line) as growth:
            mischief.go_on_for(minutes * 60 * 3 / 4, GENTLE)
        campaign.recoveries_s += [fault.recovery_s for fault in mischief.faults if fault.recovery_s is not None]
        slopes = growth.mb_per_h()
        slopes["agent"] = slopes.pop("fleet") / DEVICES
        campaign.note += " MB/h: " + ", ".join(f"{name} {slope:.1f}" for name, slope in slopes.items())
        bars = [at_most(f"soak {minutes} min: {name} grows, MB/h", slope, MB_PER_H) for name, slope in slopes.items()]
        if minutes < JUDGED_FROM_MINUTES:
            bars = []
        campaign.end(reckon(line), further=bars)


def _at_their_longest(line: Line) -> None:
    states: tuple[LinkState, ...] = ("refuse", "black_hole")
    for _ in range(TIMES_AT_THEIR_LONGEST):
        for name in line.programs:
            line.pause(LONGEST_S, name)
            line.wait_for_flow(1000)
        line.pause(LONGEST_S, *line.programs)
        for state in states:
            line.cut_link(state, CUT_S[1])
        line.wait_for_flow(1000)
