"""One device that floods takes nothing from the quiet ones: they lose nothing and are answered in time.

MILLRACE_FLOODS floods of MILLRACE_FLOOD_S seconds each, keyed and bare in turn.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults.campaign import Campaign, sized
from faults.witnesses import Floor

from bench.measures import Measure, at_most
from millrace.chaos.line import Line
from millrace.chaos.plan import Plan, usual_broker
from millrace.chaos.reckoning import reckon

pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]
FLOODER = "flooder"
QUIET_P99_S = 2.0
PAUSE_S = 3.0
BROKER = usual_broker()


def test_a_flooding_device_neither_starves_nor_costs_the_quiet_ones_anything(
    tmp_path: Path, measures: list[Measure]
) -> None:
    seconds = sized("MILLRACE_FLOOD_S", 5)
    plan = Plan(BROKER, guests=(FLOODER,))
    with Line(tmp_path, plan) as line, Floor(line) as floor:
        campaign = Campaign(measures, "flood", BROKER, sized("MILLRACE_FLOODS", 2))
        ages_s: list[float] = []
        published = 0
        for number in range(campaign.runs):
            line.wait_for_flow(20)
            begun_s = time.time()
            published += _flood(line, seconds, "keyed" if number % 2 == 0 else "bare")
            time.sleep(PAUSE_S)
            assert line.wait_for_answer(time.time_ns()), line.last_words()
            ages_s += [age_s for heard_s, device, age_s in floor.ages_s if device != FLOODER and heard_s >= begun_s]
        ages_s.sort()
        campaign.note = f"{published / (campaign.runs * seconds):,.0f} a second published"
        p99_s = ages_s[int(0.99 * len(ages_s))]
        bar = at_most(f"{campaign.title}: s from capture to answer of the quiet devices, p99", p99_s, QUIET_P99_S)
        campaign.end(reckon(line), floor.promised_too_early, [bar])


def _flood(line: Line, seconds: int, kind: str) -> int:
    login = line.papers.login(FLOODER)
    password = (line.home / login["password_file"]).read_text().strip() if "password_file" in login else ""
    flooder = Path(__file__).with_name("flooder.py")
    # A device has a processor of its own: here it gets what the line leaves of this machine's.
    command = [
        "nice",
        "-n",
        "10",
        sys.executable,
        str(flooder),
        str(line.papers.broker_port),
        FLOODER,
        password,
        str(seconds),
        kind,
    ]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
