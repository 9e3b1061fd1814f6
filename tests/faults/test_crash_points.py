"""Each program dies at each named point between two steps of the walk: nothing is lost, doubled or stuck.

After each round of its deaths the line catches up by itself: in a program that does nothing but die, what waits grows.

MILLRACE_POINT_RUNS sets how often at each point, MILLRACE_SEED repeats a run's choice of which time there.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from faults.campaign import Campaign, sized
from faults.table import PROGRAMS

from bench.measures import Measure
from millrace import control
from millrace.chaos.line import DRAIN_TIMEOUT_S, POINT_TIMEOUT_S, Line
from millrace.chaos.plan import Plan, usual_broker
from millrace.chaos.reckoning import reckon
from millrace.crashpoints import POINTS, SELDOM
from millrace.database import mark_of
from millrace.demo.stage import StageFailed, shipped_bundle, wait_until

NTH_MAX = 5
CAUGHT_UP = 500
"""So many events waiting at any one place are what it has within seconds of its usual life."""
FILES = {"gateway": "gateway/gateway.db", "sync": "gateway/sync.db", "cloud": "cloud/cloud.db"}

pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]


@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_is_lost_or_doubled_when_a_program_dies_at_each_of_its_points(
    tmp_path: Path, program: str, measures: list[Measure]
) -> None:
    broker = usual_broker()
    times = sized("MILLRACE_POINT_RUNS", 1)
    campaign = Campaign(measures, "crash points", program, times, f"at each point of the {program}, {broker}")
    chance = random.Random(campaign.seed)
    often = [point for point, programs in POINTS.items() if program in programs]
    seldom = [point for point, programs in SELDOM.items() if program in programs]
    missed = []
    with Line(tmp_path, Plan(broker)) as line:
        line.wait_for_flow(1)
        for _ in range(times):
            name = chance.choice(line.plan.names) if program == "agent" else program
            chance.shuffle(often)
            missed += line.crash_in_a_row(name, [(point, chance.randint(1, NTH_MAX)) for point in often])
            line.wait_for_flow(1)
            if not wait_until(lambda: max(line.waiting().values()) < CAUGHT_UP, DRAIN_TIMEOUT_S):
                raise StageFailed(f"waiting still: {line.waiting()}\n{line.last_words()}")
            missed += [point for point in chance.sample(seldom, len(seldom)) if not _seldom(line, name, point)]
        campaign.end(reckon(line), [f"the {program} never came to {point}" for point in missed])
    assert len(line.kills) == times * (1 + len(often) + 2 * len(seldom))


def _seldom(line: Line, name: str, point: str) -> bool:
    """Bring a program to where it seldom comes: its file is said to be damaged, or it has reserved nothing, or nobody
    gives receipts, or its model is to be exchanged. Nothing of this is a reason to lose anything.
    """
    file = line.home / FILES.get(name, f"{name}/spool.db")
    step = point.partition(".")[0]
    if step == "healing":
        mark = mark_of(file)
        if not wait_until(lambda: not mark.exists(), POINT_TIMEOUT_S):  # the healing before this one was cut short
            raise StageFailed(f"{name} does not end the healing that was begun\n{line.last_words()}")
        return line.crash(name, point, prepare=mark.touch)
    if step == "reservation":
        return line.crash(name, point, prepare=lambda: file.with_name(file.name + ".epoch").unlink(missing_ok=True))
    if step == "swap":
        with _asking_for_swaps(line.home / "gateway"):
            return line.crash(name, point)
    gateway = line.programs["gateway"].pid
    try:
        return line.crash(name, point, prepare=lambda: os.kill(gateway, signal.SIGSTOP))
    finally:
        os.kill(gateway, signal.SIGCONT)


@contextmanager
def _asking_for_swaps(state_dir: Path) -> Iterator[None]:
    """Have the gateway take its model's bundle anew, whenever it answers."""
    over = threading.Event()
    order = {"do": "swap", "binding": "parts", "folder": str(shipped_bundle("parts").resolve())}

    def ask() -> None:
        while not over.wait(0.1):
            with suppress(control.NobodyThere, control.Refused):
                control.ask(state_dir, control.GATEWAY, order)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        over.set()
        asking.join()
