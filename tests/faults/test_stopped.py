"""A program that hangs for a while, for want of anything, harms nobody: SIGSTOP, no descriptors, no memory.

MILLRACE_STOPS times MILLRACE_STOP_S seconds of SIGSTOP, two programs at once; MILLRACE_STARVED times without
descriptors or memory.
"""

from __future__ import annotations

import random
import time
from itertools import cycle, islice, product
from pathlib import Path

import pytest
from faults.campaign import Campaign, sized
from faults.witnesses import looking_on

from bench.measures import Measure
from millrace.chaos.line import LIMITS, Line
from millrace.chaos.plan import KEEPALIVE_S, Plan, usual_broker
from millrace.chaos.reckoning import reckon

pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]
# After so many seconds of a program's silence the gateway's /health may not call that part well any more.
NOTICED_S = {"gateway": 1.0, "broker": 1.5 * KEEPALIVE_S + 3.0, "cloud": 15.0}
STARVED_S = 3.0
BROKER = usual_broker()


def _false_oks(name: str, said: list[dict[str, object]]) -> list[str]:
    if name == "cloud":
        return [f"link {value['link']} while the cloud hangs" for value in said if value["link"] == "up"]
    return [f"ok while the {name} hangs" for value in said if value["ok"]]


def test_a_program_that_is_stopped_for_a_while_goes_on_and_nobody_was_told_an_untruth(
    tmp_path: Path, measures: list[Measure]
) -> None:
    seconds = sized("MILLRACE_STOP_S", 12)
    with Line(tmp_path, Plan(BROKER)) as line, looking_on(line) as (floor, health):
        campaign = Campaign(measures, "stopped", BROKER, sized("MILLRACE_STOPS", 4), f"{seconds} s each")
        chance = random.Random(campaign.seed)
        complaints = []
        pairs = cycle(product(("gateway", "broker", "cloud", "sync"), line.plan.names))
        for name, device in islice(pairs, (campaign.runs + 1) // 2):  # two stops at once: a program's and a device's
            line.wait_for_flow(chance.randint(1, 40))
            begun_s = time.monotonic()
            line.pause(seconds, name, device)
            ended_s = time.monotonic()
            if not line.wait_for_answer(time.time_ns()):
                complaints.append(
                    f"no answer in the cloud any more after {name} and {device} were stopped\n{line.last_words()}"
                )
            campaign.recoveries_s.append(time.monotonic() - ended_s)
            if name in NOTICED_S:
                complaints += set(_false_oks(name, health.between(begun_s + NOTICED_S[name], ended_s)))
        campaign.end(reckon(line), [*complaints, *floor.promised_too_early])
    assert floor.receipts
    assert health.said


def test_a_program_that_gets_no_descriptors_or_no_memory_recovers_by_itself_or_through_its_supervisor(
    tmp_path: Path, measures: list[Measure]
) -> None:
    with Line(tmp_path, Plan(BROKER)) as line, looking_on(line) as (floor, _):
        campaign = Campaign(measures, "exhausted", BROKER, sized("MILLRACE_STARVED", 6))
        chance = random.Random(campaign.seed)
        cases = [(name, limit) for name in line.programs for limit in LIMITS]
        chance.shuffle(cases)
        complaints = []
        for number in range(campaign.runs):
            name, limit = cases[number % len(cases)]
            line.wait_for_flow(chance.randint(1, 40))
            line.starve(name, limit, STARVED_S)
            ended_s = time.monotonic()
            if not line.wait_for_answer(time.time_ns()):
                complaints.append(f"no answer in the cloud any more after {name} had no {limit}\n{line.last_words()}")
                line.kill(name)
            campaign.recoveries_s.append(time.monotonic() - ended_s)
        campaign.note = f"ended by it: {len(line.restarts)}"
        campaign.end(reckon(line), [*complaints, *floor.promised_too_early])
    assert floor.receipts
