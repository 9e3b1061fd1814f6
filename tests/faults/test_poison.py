"""Poison never stops the line: what is good arrives, what is refused is buried exactly, old packets make no new rows.

MILLRACE_POISON_EVENTS keyed events, of which 1 in 1,000 is refused by the cloud and 1 in 50 malformed, with garbage and
image bombs between them; then the first 1,000 once more.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
from faults.campaign import Campaign, sized
from faults.poisoner import EPOCH, Poisoner
from faults.witnesses import guest

from bench.measures import Measure
from millrace.chaos.line import Line
from millrace.chaos.plan import Plan, usual_broker
from millrace.chaos.reckoning import reckon
from millrace.demo.stage import wait_until
from millrace.ranges import RangeSet

pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]
ACCOUNT = "poisoner"
WATCHED = ("gateway", "sync", "cloud", "broker")
DRAIN_TIMEOUT_S = 300.0
BROKER = usual_broker()
THREADS_LATER = 6
"""So many may come later: those for what a page asks of a disk are begun when they are first needed."""


def test_the_rest_is_delivered_burials_are_exact_and_replays_make_no_new_rows(
    tmp_path: Path, measures: list[Measure]
) -> None:
    with Line(tmp_path, Plan(BROKER, guests=(ACCOUNT,))) as line:
        campaign = Campaign(measures, "poison", BROKER, sized("MILLRACE_POISON_EVENTS", 3000))
        line.wait_for_flow(50)
        pids, threads = _processes(line)
        poisoner = Poisoner(guest(line, ACCOUNT), ACCOUNT, random.Random(campaign.seed))
        poisoner.send(campaign.runs)
        finding = _settled(line, campaign.runs)
        poisoner.replay()
        line.wait_for_flow(200)
        again = _settled(line, campaign.runs)
        poisoner.close()
        complaints = _compare(line, poisoner, finding, campaign.runs)
        if again != finding:
            complaints.append(f"the replays changed the account: {finding} became {again}")
        pids_after, threads_after = _processes(line)
        if pids_after != pids:
            complaints.append(f"processes were {pids}, are {pids_after}")
        for name in threads:
            if gone := threads[name] - threads_after[name]:
                complaints.append(f"{name}: {len(gone)} of {len(threads[name])} threads died")
            if len(threads_after[name]) > len(threads[name]) + THREADS_LATER:
                complaints.append(f"{name}: had {len(threads[name])} threads, has {len(threads_after[name])}")
        complaints += [
            f"{name}: an actor failed"
            for name in WATCHED
            if "actor_failed" in line.programs[name].log.read_text(errors="replace")
        ]
        campaign.note = f"{poisoner.garbage} garbage, {len(poisoner.recorded)} replayed"
        campaign.end(reckon(line), complaints)


def _processes(line: Line) -> tuple[dict[str, int], dict[str, set[str]]]:
    pids = {name: line.programs[name].pid for name in WATCHED}
    return pids, {
        name: {task.name for task in Path(f"/proc/{pids[name]}/task").iterdir()} for name in ("gateway", "sync")
    }


def _settled(line: Line, count: int) -> dict[str, Any]:
    """Return the cloud's judgement of the poisoner once nothing of it is missing."""
    found: dict[str, Any] = {}

    def complete() -> bool:
        line.check()
        found.clear()
        origins = line.cloud.audit()["origins"]
        found.update(next((one for one in origins if one["epoch"] == EPOCH), {}))
        return bool(found) and not found["missing"] and found["held"] + sum(found["declared"].values()) >= count

    wait_until(complete, DRAIN_TIMEOUT_S, pause_s=0.5)
    time.sleep(1.0)
    complete()
    return found


def _compare(line: Line, poisoner: Poisoner, finding: dict[str, Any], count: int) -> list[str]:
    held = RangeSet()
    doubled = 0
    for event in line.cloud.events(f"device/{ACCOUNT}"):
        epoch, _, seq = event["id"].partition("-")
        if epoch == EPOCH:
            doubled += int(seq) in held
            held.add(int(seq))
    wanted_buried = poisoner.malformed.count() + poisoner.rejected.count()
    complaints = []
    if held != poisoner.good:
        complaints.append(f"held {held.ranges()}, good were {poisoner.good.ranges()}")
    if doubled:
        complaints.append(f"{doubled} held twice")
    if finding.get("declared") != {"buried": wanted_buried}:
        complaints.append(f"declared {finding.get('declared')}, wanted {wanted_buried} buried")
    if finding.get("missing") or finding.get("unproven"):
        complaints.append(f"missing {finding['missing']}, unproven {finding['unproven']} of {count}")
    return complaints
