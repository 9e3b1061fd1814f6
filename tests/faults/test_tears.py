"""Files of a line that stood still are damaged; it starts, and each key is in the cloud or declared, once, unaltered.

MILLRACE_TEARS sets how many, MILLRACE_SEED repeats a run's choice of them.
"""

from __future__ import annotations

import os
import pickle
import random
import shutil
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from faults.campaign import Campaign, sized
from faults.near_line import Capture, Key, NearLine
from faults.tears import KINDS, victims

from bench.measures import Measure, at_most, equal
from millrace.blobs import StorageFailed
from millrace.chaos.kills import chosen_seed
from millrace.database import Damaged

SLICE_TEARS = 8
START_S = 5.0
DATABASES = ("spool.db", "gateway.db", "sync.db")


@dataclass
class Filled:
    """What a line had promised when it stopped, with something in each of its places."""

    keys: set[Key]
    captures: set[Capture]


@dataclass
class Tear:
    """What one damage came to."""

    name: str
    started_s: float = 0.0
    promised: int = 0
    lost: list[Key] = field(default_factory=list)
    doubled: int = 0
    complaints: list[str] = field(default_factory=list)


def filled(home: Path, seed: int) -> Filled:
    """Have a process of its own run a line by chance and end well, or die with its files open as a kill leaves them."""
    told, tells = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            line, found = _run(home, random.Random(seed))
            with os.fdopen(tells, "wb") as pipe:
                pipe.write(pickle.dumps(found))
            if seed % 2:
                line.close()
        finally:  # whatever happens, this copy of the test's process goes no further
            os._exit(0)
    os.close(tells)
    with os.fdopen(told, "rb") as pipe:
        content = pipe.read()
    os.waitpid(child, 0)
    assert content, "the line to be damaged could not be filled"
    before: Filled = pickle.loads(content)
    return before


def _run(home: Path, chance: random.Random) -> tuple[NearLine, Filled]:
    line, captures = NearLine(home), set[Capture]()
    line.greet()
    for _ in range(chance.randint(3, 8)):
        captures |= set(line.capture(chance, chance.randint(1, 20)))
        line.send(chance.randint(1, 20))
        line.drain(chance.randint(0, 4))
        if chance.random() < 0.3:
            line.purge()
        if chance.random() < 0.3:  # what was in the logs is then in the files themselves
            line.close()
            line = NearLine(home)
            line.greet()
    return line, Filled(line.minted(), captures)


def torn(home: Path, seed: int, chance: random.Random) -> Tear:
    """Fill a line, damage one of its files, start it, let it run dry, start it again, and settle the account."""
    before = filled(home, seed)
    places = victims(home)
    what, kind = chance.choice(sorted(places)), chance.choice(sorted(KINDS))
    victim = chance.choice(places[what])
    tear, inode = Tear(f"{what} {kind}"), victim.stat().st_ino
    KINDS[kind](victim, chance)
    try:
        begun_s = time.perf_counter()
        line = NearLine(home)
        tear.started_s = time.perf_counter() - begun_s
        after = set(line.capture(chance, 1))  # life goes on; the next event says where the device now begins
        line.run_dry()
        line.close()
        line = NearLine(home)
        line.run_dry()
        held = line.held()
        line.close()
    except (Damaged, StorageFailed, sqlite3.Error, LookupError, ValueError, TypeError, AssertionError) as error:
        tear.complaints.append(f"does not go on: {error!r}")
        return tear
    tear.promised = len(before.keys)
    tear.lost = sorted(key for key in before.keys if not held.knows(key))
    tear.doubled = sum(times - 1 for times in Counter(when for when, _ in held.captures).values())
    tear.complaints += [f"lost in silence: {key}" for key in tear.lost]
    tear.complaints += [f"altered or invented: {capture}" for capture in set(held.captures) - before.captures - after]
    if tear.doubled:
        tear.complaints.append(f"{tear.doubled} captures twice")
    if what in DATABASES and kind != "gone" and inode not in {file.stat().st_ino for file in home.rglob("*")}:
        tear.complaints.append(f"the damaged file is gone: {sorted(file.name for file in home.glob('*/*'))}")
    return tear


def tears(home: Path, seed: int, count: int) -> Iterator[Tear]:
    """Damage so many lines, one after the other."""
    for number in range(count):
        folder = home / f"torn-{number}"
        tear = torn(folder, seed + number, random.Random(f"{seed} {number}"))
        tear.complaints = [f"seed {seed}, tear {number}, {tear.name}: {complaint}" for complaint in tear.complaints]
        yield tear
        shutil.rmtree(folder)


def test_whatever_file_is_damaged_the_line_starts_and_accounts_for_each_key(quick_path: Path) -> None:
    seed = chosen_seed()
    sys.stdout.write(f"MILLRACE_SEED={seed}\n")
    assert [complaint for tear in tears(quick_path / "line", seed, SLICE_TEARS) for complaint in tear.complaints] == []


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_no_damage_of_a_long_campaign_loses_a_key_in_silence(quick_path: Path, measures: list[Measure]) -> None:
    campaign = Campaign(measures, "tears", "", sized("MILLRACE_TEARS", 100))
    seed, count = campaign.seed, campaign.runs
    found = list(tears(quick_path / "line", seed, count))
    complaints = [complaint for tear in found for complaint in tear.complaints]
    lost, doubled = sum(len(tear.lost) for tear in found), sum(tear.doubled for tear in found)
    slowest_s = max(tear.started_s for tear in found)
    measures += [
        equal(f"{count} damaged files, seed {seed}: keys lost in silence", lost, 0),
        equal(f"{count} damaged files, seed {seed}: captures twice", doubled, 0),
        equal(f"{count} damaged files, seed {seed}: complaints", len(complaints), 0),
        at_most(f"{count} damaged files, seed {seed}: s of the slowest start of all programs", slowest_s, START_S),
    ]
    campaign.count(sum(tear.promised for tear in found), lost, doubled, recovery_p99_s=round(slowest_s, 2))
    assert complaints[:20] == []
    assert slowest_s <= START_S
