"""A run of kills: what is killed when, the drain after it, and the account."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from dataclasses import dataclass

from millrace.chaos.line import Line
from millrace.chaos.oracle import Account, settle

FLOW_BEFORE_KILL = 40
PAUSE_S = (0.05, 1.2)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to."""

    account: Account
    kills: int
    duplicates_refused: int
    drain_s: float | None
    story: str


def chosen_seed() -> int:
    """Return MILLRACE_SEED, or one by chance."""
    return int(os.environ.get("MILLRACE_SEED", "0")) or random.SystemRandom().randrange(1, 1_000_000)


def kill_each_in_turn(line: Line, names: tuple[str, ...]) -> None:
    """Kill each program once while the line runs at its full rate, the next when it runs again."""
    for name in names:
        line.wait_for_flow(FLOW_BEFORE_KILL)
        line.kill(name)
    line.wait_for_flow(FLOW_BEFORE_KILL)


def kill_at_random(line: Line, seed: int, kills: int) -> None:
    """Kill so many programs, one time in two as soon as the line runs again, else after a pause, come what may.

    So programs die while they work and while they start. One time in five two die together.
    """
    chance = random.Random(seed)
    names = list(line.programs)
    while len(line.kills) < kills:
        if chance.random() < 0.5:
            line.wait_for_flow(chance.randint(1, FLOW_BEFORE_KILL))
        else:
            time.sleep(chance.uniform(*PAUSE_S))
        together = 2 if chance.random() < 0.2 else 1
        line.kill(*chance.sample(names, min(together, kills - len(line.kills))))


def reckon(line: Line) -> Outcome:
    """End the feeds, wait until the line is drained, and settle its account."""
    line.hush()
    drain_s = line.drain()
    audit = line.cloud.audit()
    held = {f"device/{device}": list(line.cloud.events(f"device/{device}")) for device in line.plan.names}
    results, _ = line.cloud.results()
    account = settle(line.minted(), line.plan.held_origins, held, results, audit)
    if drain_s is None:
        account.complaints.append(f"not drained\n{line.last_words()}")
    story = f"killed {dict(Counter(line.kills))}; " + "; ".join(account.complaints)
    return Outcome(account, len(line.kills), audit["totals"]["duplicates_refused"], drain_s, story)
