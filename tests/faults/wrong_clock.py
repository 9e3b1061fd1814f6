"""A line whose every process has a wall clock of its own, which jumps, and machines that boot anew; the truth is kept.

The clocks are faked below the programs by a small preloaded library (wrong_clock.c); sleeps and timeouts are real.
"""

from __future__ import annotations

import random
import shutil
import statistics
import struct
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millrace import clock
from millrace.chaos.line import Line
from millrace.chaos.plan import GATEWAY, Plan
from millrace.database import Viewer
from millrace.demo.account import CloudView

SOURCE = Path(__file__).with_name("wrong_clock.c")
DAY_NS = 86400 * 10**9
FLOW = 20
JUMPS: dict[str, int | None] = {
    "a day ahead": DAY_NS,
    "a day back": -DAY_NS,
    "three years ahead": 3 * 365 * DAY_NS,
    "three years back": -3 * 365 * DAY_NS,
    "1970": None,
    "right": 0,
}
READ_NS = 100_000  # the oracle reads two clocks one after the other


def can_fake() -> bool:
    """Whether this machine can build the library."""
    return shutil.which("cc") is not None


@dataclass(slots=True)
class Machine:
    """One computer: its present boot, and by how much its uptime is away from the real one."""

    name: str
    programs: tuple[str, ...]
    folder: Path
    boot_id: str = ""
    ahead_ns: int = 0

    def boot(self, chance: random.Random, boots: dict[str, int]) -> None:
        """Begin a new boot, whose uptime has nothing to do with the last one's; note it among `boots`."""
        self.boot_id, self.ahead_ns = str(uuid.UUID(int=chance.getrandbits(128))), chance.randrange(10**16)
        boots[self.boot_id] = self.ahead_ns
        (self.folder / f"{self.name}.boot").write_text(self.boot_id + "\n")


class WrongLine(Line):
    """The broker's clock alone is left alone: it keeps none."""

    def __init__(self, home: Path, plan: Plan, seed: int) -> None:
        super().__init__(home, plan)
        self._chance = random.Random(seed)
        self._library = home / "wrong_clock.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", self._library, SOURCE, "-ldl"], check=True)
        self.boots: dict[str, int] = {}
        self.cloud: TrueView = TrueView(self.papers.cloud_port, self.papers.token("reader"), self.boots)
        self.machines = [
            *(Machine(name, (name,), home) for name in plan.names),
            Machine("floor", ("gateway", "sync"), home),
            Machine("far", ("cloud",), home),
        ]
        for machine in self.machines:
            machine.boot(self._chance, self.boots)
            for name in machine.programs:
                self.set_wall(name, 0)
        self.story: list[str] = []

    def start(self, name: str, environment: Mapping[str, str] | None = None) -> None:
        """Start a program under the clocks of its machine."""
        machine = next((machine for machine in self.machines if name in machine.programs), None)
        faked = {}
        if machine is not None:
            faked = {
                "LD_PRELOAD": str(self._library),
                "WRONG_CLOCK_WALL": str(self.home / f"{name}.wall"),
                "WRONG_CLOCK_BOOT": str(machine.ahead_ns),
                "WRONG_CLOCK_BOOT_ID": str(self.home / f"{machine.name}.boot"),
            }
        super().start(name, {**faked, **(environment or {})})

    def set_wall(self, name: str, ahead_ns: int) -> None:
        """Let a program's wall clock be so far ahead of the truth from now on, whether it runs or not."""
        path = self.home / f"{name}.wall"
        path.touch()
        with path.open("r+b") as file:
            file.write(struct.pack("<q", ahead_ns))

    def boots_met(self) -> set[str]:
        """Return the boots from which the cloud knows a way to its present boot, up or around."""
        ties = Viewer(self.home / "cloud" / "cloud.db", "SELECT site FROM tie LIMIT 1")
        pairs = ties.all("SELECT bootid, peer_bootid FROM tie")
        ties.close()
        known = {machine.boot_id for machine in self.machines if "cloud" in machine.programs}
        while more := {boot for pair in pairs for boot in pair if known & set(pair)} - known:
            known |= more
        return known

    def jump(self) -> None:
        """Set a process's clock: while it runs, between two lives, or with a boot of its machine; then let it flow."""
        machine = self._chance.choice(self.machines)
        name = self._chance.choice(machine.programs)
        where, ahead_ns = self._chance.choice(list(JUMPS.items()))
        way = self._chance.choice(("running", "restarted", "booted"))
        self.story.append(f"{name} {where}, {way}")
        self.set_wall(name, -time.time_ns() if ahead_ns is None else ahead_ns)
        if way == "restarted":
            self.kill(name)
        elif way == "booted":
            for program in machine.programs:
                self.programs[program].kill()
                self.kills.append(program)
            machine.boot(self._chance, self.boots)
            for program in machine.programs:
                self.start(program)
        self.wait_for_flow(FLOW)


class TrueView(CloudView):
    """The cloud's events with the uptime that this machine really had: those of played boots have no order."""

    def __init__(self, port: int, token: str, boots: Mapping[str, int]) -> None:
        super().__init__(port, token)
        self._boots = boots

    def events(self, origin: str) -> Iterator[dict[str, Any]]:
        """Yield the events of an origin in its own order."""
        for event in super().events(origin):
            yield {**event, "uptimens": str(int(event["uptimens"]) - self._boots[event["bootid"]])}


@dataclass(frozen=True, slots=True)
class Mending:
    """How well times were mended. `wrong` names those whose truth is not within what was stated.

    `believed` are those whose boot met a former boot of the cloud only: its clock's last word is all there is
    (ADR 0013), and here that clock is wrong on purpose.
    """

    events: int
    absent: int
    believed: int
    wrong: list[str]
    within_ms: float
    """The median of what was stated."""
    worst_ms: float
    off_days: float
    """The farthest that an event's own `time` is from the truth."""


def mending(line: WrongLine) -> Mending:
    """Return how well the cloud mends the times of all devices' events and the gateway's own."""
    origins = [*(f"device/{name}" for name in line.plan.names), f"gateway/{GATEWAY}"]
    found = [event for origin in origins for event in line.cloud.events(origin)]
    real_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    unmet = {event["bootid"] for event in found} - line.boots_met()
    wrong, stated, off_ns, believed = [], [], 0, 0
    for event in found:
        truth_ns = int(event["uptimens"]) + real_ns
        off_ns = max(off_ns, abs(clock.parse_rfc3339(event["time"]) - truth_ns))
        if "mended_time" not in event:
            if event["bootid"] not in unmet:
                wrong.append(f"{event['source']} {event['id']} is not mended though its boot met others")
            continue
        if event["bootid"] in unmet:
            believed += 1
            continue
        stated.append(event["mended_within_ms"])
        off_by_ns = abs(clock.parse_rfc3339(event["mended_time"]) - truth_ns)
        if off_by_ns > event["mended_within_ms"] * 1e6 + READ_NS:
            wrong.append(f"{event['source']} {event['id']} off by {off_by_ns / 1e6} of {event['mended_within_ms']} ms")
    median_ms = statistics.median(stated) if stated else float("inf")
    absent = len(found) - len(stated) - believed
    return Mending(len(found), absent, believed, wrong, median_ms, max(stated, default=0.0), off_ns / DAY_NS)
