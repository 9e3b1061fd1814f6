"""The line keeps its promises through faults: the short form of `make faults`, in every run of the suite."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from millrace.chaos.kills import kill_each_in_turn
from millrace.chaos.line import Line
from millrace.chaos.plan import Plan, has_mosquitto
from millrace.chaos.reckoning import reckon
from millrace.demo.stage import BrokerKind


@pytest.mark.parametrize("broker", [pytest.param("mosquitto", marks=pytest.mark.mosquitto), "embedded"])
def test_nothing_is_lost_or_doubled_when_gateway_and_broker_are_killed_at_full_rate(
    tmp_path: Path, broker: BrokerKind
) -> None:
    if broker == "mosquitto" and not has_mosquitto():
        pytest.skip("mosquitto is not installed here")
    with Line(tmp_path, Plan(broker)) as line:
        kill_each_in_turn(line, ("gateway", "broker"))
        outcome = reckon(line)
    assert outcome.account.whole, outcome.story
    assert outcome.account.promised >= 120


def test_nothing_is_lost_or_doubled_when_a_program_dies_between_two_steps_of_the_walk(tmp_path: Path) -> None:
    with Line(tmp_path, Plan()) as line:
        line.wait_for_flow(1)
        assert line.crash("line-1", "agent.published", 3)
        assert line.crash("gateway", "gateway.committed", 3)
        assert line.crash("sync", "sync.answered", 2)
        assert line.crash("cloud", "cloud.committed", 2)
        outcome = reckon(line)
    assert outcome.account.whole, outcome.story
    assert outcome.kills == 8
    assert outcome.duplicates_refused > 0, "an answer that was lost after its commit makes the batch go again"


def test_chaos_says_what_was_promised_and_lost_and_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "millrace", "chaos", "--minutes", "0.01", "--seed", "11", "--json", "--dir"]
    done = subprocess.run([*command, tmp_path], capture_output=True, text=True)
    verdict = json.loads(done.stdout)
    assert done.returncode == 0, verdict
    assert (verdict["seed"], verdict["lost"], verdict["duplicated"], verdict["out_of_order"]) == (11, 0, 0, 0)
    assert verdict["promised"] > 0
    assert verdict["faults"] > 0
    assert list(tmp_path.iterdir()) == []
