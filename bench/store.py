"""The gateway's store against sqlite3 itself: commits of 32 rows a second, and how fast a large backlog is opened."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from os import environ
from pathlib import Path

from bench import native
from bench.measures import Measure, at_most, interleaved, ratio_at_least
from bench.profile import Profile
from millrace.blobs import BlobStore
from millrace.entries import Draft, Lane
from millrace.outbox import Outbox

BODY = b"x" * 300
ROOT = Path(__file__).resolve().parents[1]
NUMBERS = itertools.count()


def measures(home: Path, profile: Profile, left_out: list[str]) -> list[Measure]:
    """Return commits/s, on this disk and on one that takes 8 ms more to sync, and seconds to open a backlog."""
    label, what = "store commits/s, FULL, groups of 32 readings", "sqlite3, the same rows in the same tables"
    found = [ratio_at_least(label, what, *_rates(home, profile.rounds, profile.groups, {}), 0.80)]
    try:
        slow = native.slow_disk()
        rates = _rates(home, profile.rounds, max(50, profile.groups // 4), slow)
        if max(rates[1]) > 1000 / native.SYNC_DELAY_MS:
            raise native.LeftOut("syncs are not slower here: the library is not taken")
        found.append(ratio_at_least(f"{label}, {native.SYNC_DELAY_MS} ms added to each sync", what, *rates, 0.80))
    except native.LeftOut as reason:
        left_out.append(f"store with a slow disk: {reason}")
    rows = profile.backlog_rows
    found.append(at_most(f"seconds to open a backlog of {rows:,} rows", _open_backlog_s(home / "backlog", rows), 1.0))
    return found


def _rates(home: Path, rounds: int, groups: int, slow: Mapping[str, str]) -> tuple[list[float], list[float]]:
    folder = home / f"store-{next(NUMBERS)}"
    _writer("ours", folder, groups, {})  # what raw copies
    mine, theirs = interleaved(
        rounds,
        lambda: _writer("ours", home / f"store-{next(NUMBERS)}", groups, slow),
        partial(_raw, folder, groups, slow),
    )
    return mine, theirs


def _raw(folder: Path, groups: int, slow: Mapping[str, str]) -> float:
    try:
        return _writer("raw", folder, groups, slow)
    finally:
        for file in folder.glob("raw.db*"):
            file.unlink()


def _writer(side: str, folder: Path, groups: int, slow: Mapping[str, str]) -> float:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "bench.store_writer", side, str(folder), str(groups)]
    done = subprocess.run(command, cwd=ROOT, env={**environ, **slow}, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout)["per_s"])


def _open_backlog_s(folder: Path, rows: int) -> float:
    outbox = Outbox(folder / "bench.db", BlobStore(folder / "frames"), "bench")
    chunk = 20_000
    for _ in range(rows // chunk):
        with outbox.transaction():
            outbox.append([Draft(Lane.BULK, outbox.epoch, outbox.mint(), BODY) for _ in range(chunk)], 0.0)
    outbox.close()
    begun_s = time.perf_counter()
    outbox = Outbox(folder / "bench.db", BlobStore(folder / "frames"), "bench")
    outbox.read(0, 256)
    spent_s = time.perf_counter() - begun_s
    outbox.close()
    return spent_s
