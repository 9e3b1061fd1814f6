"""What a sensor-only agent takes: bytes of its packages on the disk, and resident memory while it runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.metadata import distribution, requires
from pathlib import Path

from packaging.requirements import Requirement

from bench.measures import Measure, at_most

MAX_INSTALLED_MB = 20.0
MAX_RESIDENT_MB = 50.0


def measures(home: Path) -> list[Measure]:
    """Return installed size (this project's packages and the core's dependencies) and resident memory of an agent."""
    return [
        at_most("MB installed, sensor-only agent", _installed_mb(), MAX_INSTALLED_MB),
        at_most("MB resident, sensor-only agent", _resident_mb(home), MAX_RESIDENT_MB),
    ]


def _installed_mb() -> float:
    wanted, seen = ["millrace"], set()
    total = 0
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        for text in requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.append(requirement.name)
        if name != "millrace":
            total += sum(_size(distribution(name).locate_file(file)) for file in distribution(name).files or [])
    here = Path(__file__).resolve().parents[1]
    for package in ["millrace", "broker_config", "device_agent", "edge_gateway", "cloud_sync", "models"]:
        total += sum(_size(file) for file in (here / package).rglob("*") if file.is_file())
    return total / 1e6


def _size(file: object) -> int:
    path = Path(str(file))
    return path.stat().st_size if path.is_file() else 0


def _resident_mb(home: Path) -> float:
    """Return the memory of an agent that replays a series, after some seconds, with no broker in reach."""
    csv = home / "series.csv"
    csv.write_text("time,temperature_c\n" + "".join(f"{second},{20 + second % 7}\n" for second in range(3600)))
    config = home / "sensor.yaml"
    config.write_text(
        f"device: sensor-1\nstate_dir: {home}/sensor\nbroker: {{port: 1}}\n"
        f"channels: {{room: {{source: {{kind: readings, path: {csv}, time_column: time, speed: 100}}}}}}\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "millrace", "agent", "--config", str(config)], stderr=subprocess.DEVNULL
    )
    try:
        time.sleep(6)
        assert process.poll() is None, "the agent ended"
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    finally:
        process.terminate()
        process.wait(15)
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
