"""One trial of this machine: the limit and a real gateway by turns, then a lone frame; a minute in all."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_gateway.bench import pictures
from edge_gateway.bench.advice import Found
from edge_gateway.bench.limit import Limit, Pace
from edge_gateway.bench.load import Load
from edge_gateway.bench.private_line import private_broker, private_gateway
from edge_gateway.bench.processor import busy_s, cpu_s, resident_mb
from edge_gateway.settings import StoreSettings
from millrace.demo.stage import BrokerKind

ROUNDS = 5
IN_FLIGHT_PER_CORE = 4
WARM_UP = 64
SYNCS = 30
PAGE = b"x" * 4096


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and for how many seconds about."""

    bundle: Path
    broker: BrokerKind
    picture_px: tuple[int, int]
    seconds: float


@dataclass(frozen=True, slots=True)
class _Round:
    """One turn of both: the limit's pace, ours, and milliseconds of processor time a frame."""

    limit: Pace
    ours_per_s: float
    gateway_cpu_ms: float
    around_cpu_ms: float
    others_cores: float

    @property
    def share_per_s(self) -> float:
        return self.limit.per_s * self.limit.cpu_ms / (self.limit.cpu_ms + self.around_cpu_ms)


def run(plan: Plan, home: Path, say: Callable[[str], None]) -> Found:
    """Return what was found. Errors: StageFailed, NoResult, ConfigError, EngineFailed."""
    cores = len(os.sched_getaffinity(0))
    limit = Limit(plan.bundle, cores)
    frames = pictures.make(*plan.picture_px)
    sync_ms = _sync_ms(home)
    say(f"Starting a {plan.broker} broker and a gateway with {limit.bundle.name} on this machine …")
    with (
        private_broker(home / "broker", plan.broker) as (port, broker_pid),
        private_gateway(home / "gateway", port, {"models": [{"bundle": str(plan.bundle.resolve())}]}) as gateway_pid,
        Load(port, frames) as load,
    ):
        load.closed(WARM_UP, cores)
        count = _count(limit, frames, plan.seconds / (2 * ROUNDS + 2))
        rounds = []
        for number in range(ROUNDS):
            say(f"round {number + 1} of {ROUNDS}")
            rounds.append(_round(limit, load, frames, count, broker_pid, gateway_pid, cores))
        lone = limit.lone(frames, max(50, count // (2 * cores)))
        alone = load.closed(max(50, count // (2 * cores)), 1)
        manifest = limit.bundle.manifest.picture
        return Found(
            model=limit.bundle.name,
            picture_px=plan.picture_px,
            input_px=(manifest.width, manifest.height),
            is_float=limit.is_float,
            broker=plan.broker,
            cores=cores,
            workers=cores,
            commit_rows=StoreSettings().commit_rows,
            limit_per_s=statistics.median(one.limit.per_s for one in rounds),
            share_per_s=statistics.median(one.share_per_s for one in rounds),
            ours_per_s=statistics.median(one.ours_per_s for one in rounds),
            limit_cpu_ms=statistics.median(one.limit.cpu_ms for one in rounds),
            gateway_cpu_ms=statistics.median(one.gateway_cpu_ms for one in rounds),
            decode_ms=lone.decode_ms,
            invoke_ms=lone.invoke_ms,
            lone_p50_ms=statistics.median(alone.latencies_ms),
            sync_ms=sync_ms,
            resident_mb=resident_mb(gateway_pid),
            others_cores=statistics.median(one.others_cores for one in rounds),
        )


def _round(
    limit: Limit, load: Load, frames: list[bytes], count: int, broker_pid: int, gateway_pid: int, cores: int
) -> _Round:
    pace = limit.run(frames, count)
    own_s, broker_s, gateway_s, all_s = time.process_time(), cpu_s(broker_pid), cpu_s(gateway_pid), busy_s()
    flow = load.closed(count, IN_FLIGHT_PER_CORE * cores)
    own_s, broker_s = time.process_time() - own_s, cpu_s(broker_pid) - broker_s
    gateway_s, all_s = cpu_s(gateway_pid) - gateway_s, busy_s() - all_s
    around_s = own_s + broker_s
    others_cores = max(0.0, all_s - around_s - gateway_s) / flow.spent_s
    return _Round(pace, flow.per_s, gateway_s / count * 1000, around_s / count * 1000, others_cores)


def _count(limit: Limit, frames: list[bytes], seconds: float) -> int:
    """Return how many frames take about so long at the limit."""
    return max(100, int(limit.run(frames, 100).per_s * seconds))


def _sync_ms(home: Path) -> float:
    """Return the milliseconds that this disk takes to have one page of SQLite's on it for certain; median."""
    spent_ms = []
    with (home / "sync").open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            file.write(PAGE)
            begun_s = time.perf_counter()
            os.fdatasync(file.fileno())
            spent_ms.append((time.perf_counter() - begun_s) * 1000)
    return statistics.median(spent_ms)
