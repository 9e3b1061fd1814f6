"""Run each campaign at its claimed size, one after the other, each until its row in docs/fault-runs.jsonl is full.

`PYTHONPATH=tests python -m faults.claims [NAME]`: what is done is not run again, so that it may be broken off.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from faults.record import ROOT, Run, path_digest, recorded
from faults.table import PEERS, PROGRAMS

PEER_KILLS = 30


@dataclass(frozen=True, slots=True)
class Claim:
    """How one campaign is run: a file of tests/faults, which of its tests, and its size as environment variables.

    It is run until there are `runs` in its lines.
    """

    fault: str
    runs: int
    file: str
    size: dict[str, int] = field(default_factory=dict)
    variant: str | None = None
    tests: str = ""

    def command(self) -> list[str]:
        """Return how pytest is called."""
        chosen = ["-k", self.tests] if self.tests else []
        return [sys.executable, "-m", "pytest", "-m", "faults", f"tests/faults/{self.file}.py", "-q", *chosen]

    def is_kept(self, runs: Sequence[Run], path: str) -> bool:
        """Whether it has run in full on this durable path."""
        mine = [run for run in runs if run.path == path and run.fault == self.fault and run.outcome == "ok"]
        return sum(run.runs for run in mine if self.variant in (None, run.variant)) >= self.runs


def _kills() -> Iterator[Claim]:
    for broker in ("mosquitto", "embedded"):
        for durability in ("shipped", "power", "process"):
            count = 1000 if (broker, durability) == ("mosquitto", "shipped") else 200
            chosen = f"random and {broker} and {durability}"
            yield Claim("kills", count, "test_kills", {"MILLRACE_KILLS": count}, f"{broker}, {durability}", chosen)


CLAIMED = (
    *_kills(),
    *(
        Claim("crash points", 20, "test_crash_points", {"MILLRACE_POINT_RUNS": 20}, program, program)
        for program in PROGRAMS
    ),
    Claim("power cuts", 3000, "test_power_cuts", {"MILLRACE_CUTS": 3000}),
    Claim("tears", 500, "test_tears", {"MILLRACE_TEARS": 500}),
    Claim("full disk", 200, "test_disks", {"MILLRACE_FULL_CYCLES": 200}, tests="full_disks"),
    Claim("link flaps", 1000, "test_link_faults", {"MILLRACE_LINK_FLAPS": 1000}, tests="no_flap"),
    Claim("link answers", 10_000, "test_link_faults", {"MILLRACE_LINK_REQUESTS": 10_000}, tests="no_answer"),
    Claim("backlog", 6, "test_backlog", {"MILLRACE_BACKLOG_ROWS": 1_000_000}),
    Claim("clock", 50, "test_wrong_clocks", {"MILLRACE_CLOCK_RUNS": 50}),
    Claim("stopped", 50, "test_stopped", {"MILLRACE_STOPS": 50, "MILLRACE_STOP_S": 60}, tests="stopped_for"),
    Claim("read only", 50, "test_disks", {"MILLRACE_EIO_CYCLES": 50}, tests="fails_for_a_while"),
    Claim("exhausted", 50, "test_stopped", {"MILLRACE_STARVED": 50}, tests="no_descriptors"),
    Claim("set back", 40, "test_set_back", {"MILLRACE_SET_BACKS": 20}),
    Claim("versions", 1, "test_upgrade"),
    Claim("soak", 1, "test_soak", {"MILLRACE_SOAK_MINUTES": 60}),
    Claim("flood", 20, "test_flood", {"MILLRACE_FLOODS": 20}),
    Claim("poison", 100_000, "test_poison", {"MILLRACE_POISON_EVENTS": 100_000}),
    Claim(PEERS, PEER_KILLS, "test_side_by_side", {"MILLRACE_PEER_KILLS": PEER_KILLS}, "Millrace"),
)


def main(only: Sequence[str] = ()) -> int:
    """Run what is claimed and not yet done, of the faults of these names or of all; return how many failed."""
    chosen = [claim for claim in CLAIMED if not only or claim.fault in only]
    if not chosen:
        raise SystemExit(f"no such campaign: {only}; there are {', '.join(dict.fromkeys(c.fault for c in CLAIMED))}")
    failed = 0
    for claim in chosen:
        while not claim.is_kept(recorded(), path_digest()):
            before = len(recorded())
            size = {name: str(value) for name, value in claim.size.items()}
            sys.stdout.write(
                f"{' '.join([*(f'{name}={value}' for name, value in size.items()), *claim.command()[1:]])}\n"
            )
            sys.stdout.flush()
            done = subprocess.run(claim.command(), cwd=ROOT, env={**os.environ, "MILLRACE_RECORD": "1", **size})
            if done.returncode != 0 or len(recorded()) == before:  # it failed, or was skipped
                failed += 1
                break
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
