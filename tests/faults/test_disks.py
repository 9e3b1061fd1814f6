"""Disks that are full, in bytes or in files, and disks that fail: every program lives, nothing is lost, it goes on.

MILLRACE_FULL_CYCLES and MILLRACE_EIO_CYCLES set how often, MILLRACE_SEED repeats a run's choices.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from faults.campaign import Campaign, sized
from faults.small_disk import mounted

from bench.measures import Measure
from millrace.chaos.line import Line
from millrace.chaos.plan import Plan, usual_broker
from millrace.chaos.reckoning import reckon

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]
PLACES = {"gateway": 32 << 20, "line-1": 12 << 20, "line-2": 12 << 20}
FILES = 3000
FULL_S, FLOW = (0.2, 2.5), 20
ERRORS = ("EIO", "EROFS", "ENOSPC")
WRITES = "pwrite64,write,ftruncate,fsync,fdatasync"


def test_every_program_lives_through_full_disks_and_goes_on_when_there_is_room(
    tmp_path: Path, measures: list[Measure]
) -> None:
    campaign = Campaign(measures, "full disk", "", sized("MILLRACE_FULL_CYCLES", 20))
    chance = random.Random(campaign.seed)
    with contextlib.ExitStack() as stack:
        disks = {name: stack.enter_context(mounted(tmp_path / name, size, FILES)) for name, size in PLACES.items()}
        if None in disks.values():
            pytest.skip("cannot mount a small disk here: it needs root")
        line = stack.enter_context(Line(tmp_path, Plan(usual_broker(), min_free_bytes=1 << 20)))
        line.wait_for_flow(FLOW)
        for _ in range(campaign.runs):
            chosen = [disk for disk in disks.values() if disk and chance.random() < 0.5]
            for disk in chosen or filter(None, disks.values()):
                if chance.random() < 0.3:
                    disk.fill_with_files()
                else:
                    disk.fill(chance)
            time.sleep(chance.uniform(*FULL_S))
            line.check()
            for disk in filter(None, disks.values()):
                disk.free()
            freed_s = time.monotonic()
            line.wait_for_flow(FLOW)
            campaign.recoveries_s.append(time.monotonic() - freed_s)
        campaign.end(reckon(line), _unnoticed(line, "No space left", "disk is full"))


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed here")
def test_every_program_lives_through_a_disk_that_fails_for_a_while(tmp_path: Path, measures: list[Measure]) -> None:
    campaign = Campaign(measures, "read only", "", sized("MILLRACE_EIO_CYCLES", 12), "EIO, EROFS, ENOSPC from writes")
    chance = random.Random(campaign.seed)
    with Line(tmp_path, Plan(usual_broker())) as line:
        line.wait_for_flow(FLOW)
        for _ in range(campaign.runs):
            name = chance.choice(["gateway", "sync", "cloud", *line.plan.names])
            _fail_writes(line.programs[name].pid, tmp_path, chance.choice(ERRORS), chance.uniform(*FULL_S))
            line.check()
            healed_s = time.monotonic()
            line.wait_for_flow(FLOW)
            campaign.recoveries_s.append(time.monotonic() - healed_s)
        campaign.end(reckon(line), _unnoticed(line, "I/O error", "Read-only", "No space left", "is full"))


def _unnoticed(line: Line, *words: str) -> list[str]:
    """Return a complaint if no program ever said one of these words: then the fault was none."""
    said = "".join(program.log.read_text(errors="replace") for program in line.programs.values())
    return [] if any(word in said for word in words) else [f"no program ever said {words}: was there a fault?"]


def _fail_writes(pid: int, home: Path, error: str, seconds: float) -> None:
    """Have the kernel refuse what a running program writes and syncs below `home` for so long; sockets go on."""
    inject = f"inject={WRITES}:error={error}"
    paths = [word for folder in ("gateway", "cloud", "line-1", "line-2") for word in _paths(home / folder)]
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(pid), "-e", f"trace={WRITES}", "-e", inject, *paths]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
    time.sleep(seconds)
    if tracer.poll() is not None:
        assert tracer.stderr is not None
        pytest.skip(f"strace may not trace here: {tracer.stderr.read().decode()[:200]}")
    tracer.terminate()
    tracer.communicate()


def _paths(folder: Path) -> list[str]:
    """Return strace's options for the files of a program that it has open or may open."""
    names = [file.name for file in folder.glob("*.db*") if not file.name.endswith((".lock", "-shm"))]
    return [word for name in names for word in ("-P", str(folder / name))]
