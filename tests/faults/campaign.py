"""What every campaign ends in: its measures in the table, the assertion, and then its line in docs/fault-runs.jsonl.

The line is written when its test has ended: one that failed, in whatever way, says so.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from faults.record import Run, record

from bench.measures import Measure, at_most, equal
from millrace.chaos.kills import chosen_seed
from millrace.chaos.reckoning import Outcome


def sized(name: str, default: int) -> int:
    """Return how large a campaign is to be, from the environment."""
    return int(os.environ.get(name, "0")) or default


@dataclass(slots=True)
class Campaign:
    """One campaign under way."""

    measures: list[Measure]
    fault: str
    variant: str
    runs: int
    note: str = ""
    seed: int = field(default_factory=chosen_seed)
    recoveries_s: list[float] = field(default_factory=list)
    _begun_s: float = field(default_factory=time.monotonic)
    _run: Run | None = None

    def __post_init__(self) -> None:
        sys.stdout.write(f"{self.title}: MILLRACE_SEED={self.seed}\n")
        _under_way.append(self)

    @property
    def title(self) -> str:
        """What it is called in the table."""
        return " ".join(word for word in (f"{self.runs} x {self.fault}", self.variant, self.note) if word)

    def end(self, outcome: Outcome, complaints: Sequence[str] = (), further: Sequence[Measure] = ()) -> None:
        """Tell what it came to, and assert that every promise was kept and nothing else was wrong."""
        account = outcome.account
        wrong = [*account.complaints, *complaints, *(f"{m.measure}: {m.value}" for m in further if not m.ok)]
        p99_s = _quantile(sorted(self.recoveries_s), 0.99)
        name = f"{self.title}, seed {self.seed}"
        kept = account.promised - account.missing
        self.measures += [
            equal(f"{name}: kept once of {account.promised} promised", kept, account.promised),
            equal(f"{name}: missing", account.missing, 0),
            equal(f"{name}: doubled", account.doubled, 0),
            equal(f"{name}: out of order", account.out_of_order, 0),
            equal(f"{name}: complaints", len(wrong), 0),
            at_most(f"{name}: s from the last capture until the cloud has all", outcome.drain_s or math.inf, 120.0),
            *further,
        ]
        if p99_s is not None:
            self.measures.append(at_most(f"{name}: s from a fault to the next answer in the cloud, p99", p99_s, 60.0))
        self.count(account.promised, account.missing, account.doubled, account.out_of_order, p99_s)
        assert not wrong, f"seed {self.seed}: {outcome.story}; {wrong}"

    def count(
        self,
        promised: int,
        lost: int = 0,
        duplicated: int = 0,
        out_of_order: int = 0,
        recovery_p99_s: float | None = None,
    ) -> None:
        """Note what it came to; without this it came to nothing, and failed."""
        seconds = round(time.monotonic() - self._begun_s, 1)
        self._run = replace(
            self._broken_off(),
            outcome="ok",
            seconds=seconds,
            promised=promised,
            lost=lost,
            duplicated=duplicated,
            out_of_order=out_of_order,
            recovery_p99_s=recovery_p99_s,
        )

    def run(self, *, failed: bool) -> Run:
        """Return its line, when its test has ended like this."""
        return self._broken_off() if self._run is None else replace(self._run, outcome="failed" if failed else "ok")

    def _broken_off(self) -> Run:
        seconds = round(time.monotonic() - self._begun_s, 1)
        return Run(self.fault, self.seed, self.runs, "failed", seconds, self.variant, note=self.note)


_under_way: list[Campaign] = []


def record_what_ran(*, failed: bool, skipped: bool) -> None:
    """Write the lines of a test's campaigns, when it has ended like this; one that was skipped ran none."""
    while _under_way:
        campaign = _under_way.pop(0)
        if not skipped:
            record(campaign.run(failed=failed))


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) if ordered else None
