"""The line keeps its promises through a kill: the short form of `make faults`, in every run of the suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from millrace.chaos.kills import kill_each_in_turn, reckon
from millrace.chaos.line import Line
from millrace.chaos.plan import Plan, has_mosquitto
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
