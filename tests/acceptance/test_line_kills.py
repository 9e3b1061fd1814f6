"""The line keeps its promises through a kill: the short form of `make faults`, in every run of the suite."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.kills import kill_each_in_turn, reckon
from faults.line import BrokerKind, Line, has_mosquitto


@pytest.mark.parametrize("broker", [pytest.param("mosquitto", marks=pytest.mark.mosquitto), "embedded"])
def test_nothing_is_lost_or_doubled_when_gateway_and_broker_are_killed_at_full_rate(
    tmp_path: Path, broker: BrokerKind
) -> None:
    if broker == "mosquitto" and not has_mosquitto():
        pytest.skip("mosquitto is not installed here")
    with Line(tmp_path, broker, captures=300, interval_s=0.02) as line:
        kill_each_in_turn(line, ("gateway", "broker"))
        outcome = reckon(line)
    assert outcome.account.whole, outcome.story
    assert outcome.account.promised >= 600
