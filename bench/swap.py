"""A model's other version takes over under full load: frames lost, and the longest time in which no result came."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

from bench.bare import Limit, litert
from bench.frames import CORES, IN_FLIGHT, WARM_UP
from bench.measures import Measure, equal, known, ratio_at_most
from bench.models import Bench
from bench.profile import Profile
from edge_gateway.bench import pictures
from edge_gateway.bench.load import Load
from edge_gateway.bench.private_line import private_broker, private_gateway

BINDING = "bench"
BEFORE_S = 4.0
AFTER_S = 0.5


def measures(home: Path, profile: Profile, bench: Bench) -> list[Measure]:
    """Swap between two versions of one model, once a round."""
    frames = pictures.make(640, 480)
    bundles = [_version(home / f"version-{version}", bench, version) for version in (1, 2)]
    settings = {"models": [{"name": BINDING, "bundle": str(bundles[0])}]}
    lost, over, without = 0, [], []
    with (
        private_broker(home / "broker", "mosquitto") as (port, _),
        private_gateway(home / "gateway", port, settings),
        Load(port, frames) as load,
    ):
        load.closed(WARM_UP, IN_FLIGHT)
        for number in range(profile.rounds):
            round_lost, gap_ms, usual_ms = _swap(load, home / "gateway" / "state", bundles[(number + 1) % 2])
            lost += round_lost
            over.append(gap_ms)
            without.append(usual_ms)
    inference_ms = Limit(partial(litert, bench.model), CORES, frames).pace(profile.frames).cpu_ms
    label = f"ms in which no result came while {bench.name} was swapped under load, at most"
    return [
        equal(f"frames lost in {profile.rounds} swaps under load", lost, 0),
        ratio_at_most(label, "one decode + invoke", over, [inference_ms] * len(over), 2),
        known("the same in as long a time before the swap", without),
    ]


def _swap(load: Load, state: Path, bundle: Path) -> tuple[int, float, float]:
    """Return frames lost, and the longest gap in ms over the swap and in as long a time before it."""
    at_s: list[float] = []
    over = threading.Event()
    failed: list[str] = []

    def order() -> None:
        time.sleep(BEFORE_S)
        at_s.append(time.perf_counter())
        words = ["model", "swap", BINDING, str(bundle), "--state-dir", str(state)]
        done = subprocess.run([sys.executable, "-m", "millrace", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            failed.append(done.stdout + done.stderr)
        time.sleep(AFTER_S)
        at_s.append(time.perf_counter())
        over.set()

    thread = threading.Thread(target=order)
    thread.start()
    sent, came = load.until(over.is_set, IN_FLIGHT)
    thread.join()
    assert not failed, failed
    assert came[0][1] != came[-1][1], f"{came[-1][1]} serves before and after"
    begun_s, ended_s = at_s
    span_s = min(ended_s - begun_s, BEFORE_S - AFTER_S)
    results_s = [result_s for result_s, _ in came]
    return (
        sent - len(came),
        _longest_gap_ms(results_s, begun_s, ended_s),
        _longest_gap_ms(results_s, begun_s - span_s, begun_s),
    )


def _longest_gap_ms(results_s: list[float], from_s: float, to_s: float) -> float:
    within = [result_s for result_s in results_s if from_s <= result_s <= to_s]
    return max(later - earlier for earlier, later in itertools.pairwise(within)) * 1000


def _version(folder: Path, bench: Bench, version: int) -> Path:
    shutil.copytree(bench.bundle, folder)
    manifest = folder / "manifest.yaml"
    manifest.write_text(manifest.read_text().replace("version: 1", f"version: {version}"))
    return folder
