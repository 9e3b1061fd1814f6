"""Clocks a day or three years off, at 1970, back and forth, at each process: order kept, all there, times mended.

MILLRACE_CLOCK_RUNS sets the number of jumps, MILLRACE_SEED repeats a run's choice of them.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from faults.campaign import Campaign, sized
from faults.wrong_clock import WrongLine, can_fake, mending

from bench.measures import Measure, at_most, equal
from millrace.chaos.plan import Plan
from millrace.chaos.reckoning import reckon

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(not can_fake(), reason="no C compiler is here"),
]


def test_order_is_kept_nothing_expires_and_times_are_mended_whatever_clocks_say(
    tmp_path: Path, measures: list[Measure]
) -> None:
    campaign = Campaign(measures, "clock", "embedded", sized("MILLRACE_CLOCK_RUNS", 12))
    # All on disk: what was in memory is rightly given up where the machine says that it booted.
    with WrongLine(tmp_path, Plan("embedded", "power"), campaign.seed) as line:
        for _ in range(campaign.runs):
            begun_s = time.monotonic()
            line.jump()
            campaign.recoveries_s.append(time.monotonic() - begun_s)
        line.set_wall("cloud", 0)  # the last clock of the chain is right when one asks
        outcome = reckon(line)
        found = mending(line)
    sys.stdout.write(f"{'; '.join(line.story)}\n{found}\n")
    further = [
        equal("clock: events whose truth is outside what was stated", len(found.wrong), 0),
        at_most("clock: share of events without a mended time", found.absent / max(1, found.events), 0.05),
        at_most("clock: share of events that only a former boot of the cloud met", found.believed / found.events, 0.05),
        at_most("clock: ms stated, median", found.within_ms, 30_000),
        equal("clock: jumps were felt, some event is a day off and more", found.off_days > 0.99, True),
    ]
    campaign.end(outcome, found.wrong[:5], further)
