"""What programs cost while nothing happens: a sensor-only agent on the disk and in memory, a gateway that waits."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.metadata import distribution, requires
from pathlib import Path

from packaging.requirements import Requirement

from bench.measures import Measure, at_most, known
from bench.models import Bench
from bench.profile import Profile
from edge_gateway.bench.private_line import private_broker, private_gateway
from edge_gateway.bench.processor import cpu_s, resident_mb
from millrace.demo.stage import BrokerKind

MAX_INSTALLED_MB = 20.0
MAX_RESIDENT_MB = 50.0
MAX_IDLE_RATIO = 0.02
SETTLE_S = 3.0


def measures(home: Path) -> list[Measure]:
    """Return installed size (this project's packages and the core's dependencies) and resident memory of an agent."""
    return [
        at_most("MB installed, sensor-only agent", _installed_mb(), MAX_INSTALLED_MB),
        at_most("MB resident, sensor-only agent", _resident_mb(home), MAX_RESIDENT_MB),
    ]


def gateway(home: Path, profile: Profile, bench: Bench, broker: BrokerKind) -> list[Measure]:
    """Return what a gateway with a model takes to import, to start, and to wait at the broker."""
    settings = {"models": [{"bundle": str(bench.bundle.resolve())}]}
    starts_s, resident = [], []
    with private_broker(home / "broker", broker) as (port, _):
        for number in range(profile.rounds):
            begun_s = time.perf_counter()
            with private_gateway(home / f"gateway-{number}", port, settings) as pid:
                starts_s.append(time.perf_counter() - begun_s)
                resident.append(resident_mb(pid))
                if number == profile.rounds - 1:
                    idle_ratio = _idle_ratio(pid, profile.idle_s)
    return [
        known("s to import the gateway", [_import_s("edge_gateway.app") for _ in range(profile.rounds)]),
        known("s to start a gateway, connected and its model warm", starts_s),
        at_most(f"MB resident, gateway with {bench.name}, before the first frame", max(resident), 130.0),
        at_most(f"share of a core that an idle gateway takes, over {profile.idle_s:g} s", idle_ratio, MAX_IDLE_RATIO),
    ]


def _idle_ratio(pid: int, span_s: float) -> float:
    time.sleep(SETTLE_S)
    begun_s = cpu_s(pid)
    time.sleep(span_s)
    return (cpu_s(pid) - begun_s) / span_s


def _import_s(module: str) -> float:
    begun_s = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return time.perf_counter() - begun_s


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
        return resident_mb(process.pid)
    finally:
        process.terminate()
        process.wait(15)
