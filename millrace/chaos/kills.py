"""Which programs are killed, and when."""

from __future__ import annotations

import os
import random
import time

from millrace.chaos.line import Line

FLOW_BEFORE_KILL = 40
PAUSE_S = (0.05, 1.2)


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
