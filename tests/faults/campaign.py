"""What every campaign ends in: its measures in the table, its line in docs/fault-runs.jsonl, and then the assertion."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

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

    def __post_init__(self) -> None:
        sys.stdout.write(f"{self.title}: MILLRACE_SEED={self.seed}\n")

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
        record(
            Run(
                fault=self.fault,
                seed=self.seed,
                runs=self.runs,
                outcome="failed" if wrong else "ok",
                seconds=round(time.monotonic() - self._begun_s, 1),
                variant=self.variant,
                promised=account.promised,
                lost=account.missing,
                duplicated=account.doubled,
                out_of_order=account.out_of_order,
                recovery_p99_s=p99_s,
                note=self.note,
            )
        )
        assert not wrong, f"seed {self.seed}: {outcome.story}; {wrong}"


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) if ordered else None
