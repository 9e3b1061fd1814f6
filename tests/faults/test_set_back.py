"""Backups restored, cards cloned and re-imaged, gateways replaced, databases lost: nothing is lost in silence.

MILLRACE_SET_BACKS sets how often each befalls the line, MILLRACE_SEED repeats a run.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest
from faults.campaign import Campaign, sized
from faults.set_back import FLOW, Misfortunes, judge

from bench.measures import Measure, equal
from millrace.chaos.line import DRAIN_TIMEOUT_S, Line
from millrace.chaos.plan import Durability, Plan, usual_broker
from millrace.demo.stage import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]
BACKUP_EVERY = 5


@pytest.mark.skipif(os.geteuid() != 0, reason="another machine's id needs root")
@pytest.mark.parametrize("durability", ["power", "process"])
def test_nothing_is_lost_in_silence_or_doubled_when_files_and_machines_are_set_back(
    tmp_path: Path, durability: Durability, measures: list[Measure]
) -> None:
    campaign = Campaign(measures, "set back", durability, sized("MILLRACE_SET_BACKS", 1))
    seed, times = campaign.seed, campaign.runs
    chance = random.Random(seed)
    with Line(tmp_path, Plan(usual_broker(), durability)) as line:
        misfortunes = Misfortunes(line, chance)
        schedule = [kind for kind in misfortunes.kinds for _ in range(times)]
        chance.shuffle(schedule)
        for number, kind in enumerate(schedule):
            if number % BACKUP_EVERY == 0:
                line.wait_for_flow(FLOW)
                misfortunes.back_up()
            misfortunes.befall(kind)
        line.hush()
        misfortunes.note_promises()
        is_drained = wait_until(line.is_empty, DRAIN_TIMEOUT_S)
        complaints = judge(misfortunes, tmp_path / "cloud", line.cloud.audit())
        if not is_drained:
            complaints.append(f"not drained: {line.waiting()}\n{line.last_words()}")
    promised = sum(seq for epochs in misfortunes.promised.values() for seq in epochs.values())
    measures += [
        equal(f"{len(schedule)} set-backs, {durability}, seed {seed}: complaints of the account", len(complaints), 0),
    ]
    campaign.count(promised)
    for complaint in complaints:
        sys.stdout.write(f"{complaint}\n")
    assert not complaints
