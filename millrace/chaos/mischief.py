"""Everything that is safe to try on a user's own machine, at random for a while; and how long each took to mend."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from millrace.chaos.line import Line
from millrace.crashpoints import POINTS
from millrace.demo.stage import StageFailed

PAUSE_S = (0.5, 6.0)
CUT_S = (0.3, 6.0)
FULL_S = (1.0, 4.0)
LULL_S = (0.1, 1.0)
IN_A_ROW_RATIO = 0.3  # share of faults that are not waited out: the next one comes on top
NTH_MAX = 20
Kind = Literal["kill", "kill two", "kill all", "crash point", "pause", "link cut", "link silent", "quota full"]
WEIGHTS: dict[Kind, float] = {
    "kill": 6,
    "kill two": 2,
    "kill all": 0.5,
    "crash point": 4,
    "pause": 2,
    "link cut": 1,
    "link silent": 1,
    "quota full": 0.7,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault as it happened; `recovery_s` from its end to the next answer in the cloud, None if not waited for."""

    kind: Kind
    what: str
    recovery_s: float | None


@dataclass(slots=True)
class Mischief:
    """A run of faults on one line; the same seed chooses the same faults."""

    line: Line
    chance: random.Random
    say: Callable[[str], object]
    faults: list[Fault] = field(default_factory=list)

    def go_on_for(self, seconds: float, kinds: Sequence[Kind] = tuple(WEIGHTS)) -> None:
        """Do one fault of these kinds after another, at least one, from when the line runs.

        StageFailed if it does not come back by itself.
        """
        self.line.wait_for_flow(1)
        end_s, before = time.monotonic() + seconds, len(self.faults)
        while time.monotonic() < end_s or len(self.faults) == before:
            kind = self.chance.choices(kinds, [WEIGHTS[kind] for kind in kinds])[0]
            what = self._do(kind)
            alone = self.chance.random() >= IN_A_ROW_RATIO
            recovery_s = self._recovery_s(what) if alone else None
            self.faults.append(Fault(kind, what, recovery_s))
            self.say(
                f"{what}{'' if recovery_s is None else f': the next answer is in the cloud {recovery_s:.1f} s later'}"
            )
            if alone:
                time.sleep(self.chance.uniform(*LULL_S))

    def _recovery_s(self, what: str) -> float:
        begun_s = time.monotonic()
        if not self.line.wait_for_answer(time.time_ns()):
            raise StageFailed(f"no answer came to the cloud any more after: {what}\n{self.line.last_words()}")
        return time.monotonic() - begun_s

    def _do(self, kind: Kind) -> str:
        """Do it, and return what it was, for a person."""
        line, chance = self.line, self.chance
        names = list(line.programs)
        if kind == "crash point":
            return self._crash()
        if kind == "pause":
            name, seconds = chance.choice(names), chance.uniform(*PAUSE_S)
            line.pause(seconds, name)
            return f"{name} stopped for {seconds:.1f} s"
        if kind in ("link cut", "link silent"):
            seconds = chance.uniform(*CUT_S)
            line.cut_link("refuse" if kind == "link cut" else "black_hole", seconds)
            return f"{kind} for {seconds:.1f} s"
        if kind == "quota full":
            seconds = chance.uniform(*FULL_S)
            line.fill(seconds)
            return f"the gateway full for {seconds:.1f} s"
        count = {"kill": 1, "kill two": 2}.get(kind, len(names))
        doomed = chance.sample(names, count)
        line.kill(*doomed)
        return f"SIGKILL {', '.join(doomed)}"

    def _crash(self) -> str:
        point = self.chance.choice(list(POINTS))
        program = self.chance.choice(POINTS[point])
        name = self.chance.choice(list(self.line.devices_of)) if program == "agent" else program
        nth = self.chance.randint(1, NTH_MAX)
        hit = self.line.crash(name, point, nth)
        return f"{name} {'dies at' if hit else 'does not reach'} {point}, time {nth}"
