"""Every process of the line is killed, in turn and at random, at both brokers: nothing is lost, doubled or stuck.

MILLRACE_KILLS sets the number of random kills, MILLRACE_SEED repeats a run's choice of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from faults.campaign import Campaign, sized

from bench.measures import Measure
from millrace.chaos.kills import kill_at_random, kill_each_in_turn
from millrace.chaos.line import Line
from millrace.chaos.plan import Durability, Plan, has_mosquitto
from millrace.chaos.reckoning import reckon
from millrace.demo.stage import BrokerKind

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(7200),
    pytest.mark.parametrize("broker", [pytest.param("mosquitto", marks=pytest.mark.mosquitto), "embedded"]),
]


@pytest.fixture(autouse=True)
def _broker_is_here(broker: BrokerKind) -> None:
    if broker == "mosquitto" and not has_mosquitto():
        pytest.skip("mosquitto is not installed here")


def test_nothing_is_lost_or_doubled_when_each_process_is_killed_in_turn_and_all_at_once(
    tmp_path: Path, broker: BrokerKind, measures: list[Measure]
) -> None:
    with Line(tmp_path, Plan(broker)) as line:
        campaign = Campaign(measures, "kills", f"{broker}, shipped", 2 * len(line.programs), "in turn, all at once")
        kill_each_in_turn(line, tuple(line.programs))
        line.kill(*line.programs)  # the mains go off
        campaign.end(reckon(line))
    assert len(line.kills) == campaign.runs


@pytest.mark.parametrize("durability", get_args(Durability))
def test_nothing_is_lost_or_doubled_by_kills_at_random(
    tmp_path: Path, broker: BrokerKind, durability: Durability, measures: list[Measure]
) -> None:
    campaign = Campaign(measures, "kills", f"{broker}, {durability}", sized("MILLRACE_KILLS", 10), "at random")
    with Line(tmp_path, Plan(broker, durability)) as line:
        kill_at_random(line, campaign.seed, campaign.runs)
        campaign.end(reckon(line))
    assert len(line.kills) == campaign.runs
