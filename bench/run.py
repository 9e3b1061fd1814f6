"""`make bench`: what the README claims, measured here; one table, build/bench.json, ratios within one run.

run.py [--profile quick|full] [--only ROW ...]: what cannot be measured here is named in the table and in the file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import (
    answers,
    batching,
    footprint,
    frame_path,
    frames,
    hearing,
    isolation,
    readings,
    runtimes,
    store,
    swap,
    uplink,
    wear,
)
from bench.measures import BUILD, Measure, table
from bench.models import main_model
from bench.native import LeftOut
from bench.profile import PROFILES, Profile
from edge_gateway.bench.private_line import best_broker, private_broker

PACKAGES = ("ai-edge-litert", "onnxruntime", "opencv-python-headless", "paho-mqtt", "numpy")
Row = Callable[[Path, Profile, list[str]], list[Measure]]


def main() -> None:
    """Run every row, or those that are named; exit 1 if a bar does not hold."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--profile", choices=PROFILES, default="quick", help="quick: under 3 minutes (default)")
    parser.add_argument("--only", choices=ROWS, nargs="+", default=list(ROWS), metavar="ROW", help=" ".join(ROWS))
    asked = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    found: list[tuple[str, Measure]] = []
    left_out: list[str] = []
    begun_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=BUILD) as folder:
        for name in asked.only:
            print(f"{name} …", file=sys.stderr, flush=True)
            try:
                row = ROWS[name](Path(folder) / name, PROFILES[asked.profile], left_out)
                found += [(name, measure) for measure in row]
            except LeftOut as reason:
                left_out.append(f"{name}: {reason}")
    written = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "profile": asked.profile,
        "rows": asked.only,
        "seconds": round(time.monotonic() - begun_s),
        "machine": machine(),
        "measures": [{"row": name, **asdict(measure)} for name, measure in found],
        "left_out": left_out,
    }
    (BUILD / "bench.json").write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    measures = [measure for _, measure in found]
    print("", table(measures) if found else "nothing was measured", *(f"left out: {why}" for why in left_out), sep="\n")
    print(f"written to build/bench.json after {written['seconds']} s")
    sys.exit(0 if all(measure.ok for measure in measures) else 1)


def machine() -> dict[str, object]:
    """Return what the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def _frames(home: Path, profile: Profile, left_out: list[str]) -> list[Measure]:
    _need_mosquitto()
    return frames.measures(home, profile, main_model(home), left_out)


def _embedded(home: Path, profile: Profile, _left_out: list[str]) -> list[Measure]:
    return frames.embedded(home, profile, main_model(home))


def _readings(home: Path, profile: Profile, _left_out: list[str]) -> list[Measure]:
    _need_mosquitto()
    return readings.measures(home, profile)


def _hearing(home: Path, profile: Profile, _left_out: list[str]) -> list[Measure]:
    _need_mosquitto()
    with private_broker(home / "broker", "mosquitto") as (port, _):
        return hearing.measures(port, profile)


def _runtimes(home: Path, profile: Profile, left_out: list[str]) -> list[Measure]:
    _need_mosquitto()
    return runtimes.measures(home, profile, left_out)


def _isolation(home: Path, profile: Profile, _left_out: list[str]) -> list[Measure]:
    home.mkdir()
    return isolation.measures(profile, main_model(home))


def _swap(home: Path, profile: Profile, _left_out: list[str]) -> list[Measure]:
    _need_mosquitto()
    return swap.measures(home, profile, main_model(home))


def _footprint(home: Path, profile: Profile, _left_out: list[str]) -> list[Measure]:
    home.mkdir()
    return footprint.gateway(home, profile, main_model(home), best_broker()) + footprint.measures(home)


def _need_mosquitto() -> None:
    if best_broker() != "mosquitto":
        raise LeftOut("Mosquitto is not installed")


ROWS: dict[str, Row] = {
    "frames": _frames,
    "path": lambda _home, profile, _left_out: frame_path.measures(profile),
    "batching": lambda _home, profile, _left_out: batching.measures(profile),
    "readings": _readings,
    "store": store.measures,
    "swap": _swap,
    "isolation": _isolation,
    "runtimes": _runtimes,
    "answers": lambda _home, _profile, _left_out: answers.measures(),
    "footprint": _footprint,
    "wear": lambda home, profile, _left_out: wear.measures(home, profile),
    "hearing": _hearing,
    "uplink": lambda home, _profile, _left_out: uplink.measures(home),
    "embedded": _embedded,
}


if __name__ == "__main__":
    main()
