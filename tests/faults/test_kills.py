"""Every process of the line is killed, in turn and at random, at both brokers: nothing is lost, doubled or stuck.

MILLRACE_KILLS sets the number of random kills, MILLRACE_SEED repeats a run's choice of them.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import pytest

from bench.measures import Measure, at_most, equal
from millrace.chaos.kills import chosen_seed, kill_at_random, kill_each_in_turn
from millrace.chaos.line import Line
from millrace.chaos.plan import Plan, has_mosquitto
from millrace.chaos.reckoning import Outcome, reckon
from millrace.demo.stage import BrokerKind

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(900),
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
        kill_each_in_turn(line, tuple(line.programs))
        line.kill(*line.programs)  # the mains go off
        outcome = reckon(line)
    _tell(measures, f"kills in turn, {broker}", outcome)
    assert outcome.kills == 2 * len(line.programs)
    assert outcome.account.whole, outcome.story


def test_nothing_is_lost_or_doubled_by_kills_at_random(
    tmp_path: Path, broker: BrokerKind, measures: list[Measure]
) -> None:
    seed, kills = chosen_seed(), int(os.environ.get("MILLRACE_KILLS", "40"))
    sys.stdout.write(f"MILLRACE_SEED={seed} MILLRACE_KILLS={kills}\n")
    with Line(tmp_path, Plan(broker)) as line:
        kill_at_random(line, seed, kills)
        outcome = reckon(line)
    _tell(measures, f"{kills} kills at random, {broker}, seed {seed}", outcome)
    assert outcome.kills == kills
    assert outcome.account.whole, outcome.story


def _tell(measures: list[Measure], name: str, outcome: Outcome) -> None:
    account = outcome.account
    measures += [
        equal(
            f"{name}: kept once of {account.promised} promised", account.promised - account.missing, account.promised
        ),
        equal(f"{name}: missing", account.missing, 0),
        equal(f"{name}: doubled", account.doubled, 0),
        equal(f"{name}: complaints of the account", len(account.complaints), 0),
        at_most(f"{name}: s from the last capture until the cloud has all", outcome.drain_s or math.inf, 30.0),
    ]
