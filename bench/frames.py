"""A frame's way over MQTT to its durable result: frames/s, processor time, latency, and other systems beside it."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.bare import Infer, Limit, Pace, litert
from bench.measures import (
    Measure,
    excess_at_most,
    interleaved,
    known,
    ratio_at_least,
    ratio_at_most,
    value_at_most,
)
from bench.models import Bench
from bench.peers import ready_peers
from bench.profile import Profile
from edge_gateway.bench import pictures
from edge_gateway.bench.load import Load
from edge_gateway.bench.private_line import private_broker, private_gateway
from edge_gateway.bench.processor import cpu_s, resident_mb
from millrace.demo.stage import BrokerKind

CORES = len(os.sched_getaffinity(0))
IN_FLIGHT = 4 * CORES
WARM_UP = 64
EMBEDDED_EXCESS_MS = 25.0  # amqtt itself takes some milliseconds for each frame


@dataclass(frozen=True, slots=True)
class Turn:
    """One round of ours: frames/s, and milliseconds of processor time a frame, the gateway's and what is around it."""

    per_s: float
    gateway_cpu_ms: float
    around_cpu_ms: float


@dataclass(slots=True)
class Line:
    """A broker, a gateway, a device and the limit beside them."""

    load: Load
    broker_pid: int
    gateway_pid: int
    limit: Limit
    count: int

    def ours(self) -> Turn:
        """Run one round through the gateway."""
        own_s, broker_s, gateway_s = time.process_time(), cpu_s(self.broker_pid), cpu_s(self.gateway_pid)
        flow = self.load.closed(self.count, IN_FLIGHT)
        around_s = time.process_time() - own_s + cpu_s(self.broker_pid) - broker_s
        gateway_s = cpu_s(self.gateway_pid) - gateway_s
        return Turn(flow.per_s, gateway_s / self.count * 1000, around_s / self.count * 1000)


def measures(home: Path, profile: Profile, bench: Bench, left_out: list[str]) -> list[Measure]:
    """Return what frames take at Mosquitto. What peers are not here is added to `left_out`."""
    frames = pictures.make(640, 480)
    with ExitStack() as stack:
        line = _open(stack, home, bench, profile.frames, partial(litert, bench.model), frames, "mosquitto")
        peers = ready_peers(stack, home / "peers", profile, line.load.port, bench, left_out)
        for peer in peers:
            peer.run(frames, 2 * IN_FLIGHT, IN_FLIGHT)
        limits, turns, *others = interleaved(
            profile.rounds,
            partial(line.limit.pace, line.count),
            line.ours,
            *(partial(peer.run, frames, peer.count(line.count), IN_FLIGHT) for peer in peers),
        )
        found = _against_limit(bench, limits, turns)
        found += [
            ratio_at_least("frames/s beside another system", peer.name, [turn.per_s for turn in turns], paces, peer.bar)
            for peer, paces in zip(peers, others, strict=True)
        ]
        for peer in peers:
            peer.rest()
        found += _lone(line, profile, "Mosquitto", 2.5)
        found += _paced(line, profile, statistics.median(turn.per_s for turn in turns))
        found.append(value_at_most("MB resident, gateway, after these frames", [resident_mb(line.gateway_pid)], 130))
    return found


def embedded(home: Path, profile: Profile, bench: Bench) -> list[Measure]:
    """Return what frames take at the embedded broker, which is for demonstrations."""
    with ExitStack() as stack:
        make = partial(litert, bench.model)
        line = _open(stack, home, bench, profile.frames // 2, make, pictures.make(640, 480), "embedded")
        limits, turns = interleaved(profile.rounds, partial(line.limit.pace, line.count), line.ours)
        label = f"frames/s, {bench.name}, 640x480, embedded broker"
        return [
            _by_share(label, limits, turns, 0.5),
            *_lone(line, profile, "the embedded broker", EMBEDDED_EXCESS_MS),
        ]


def by_runtime(home: Path, profile: Profile, bench: Bench, make: Callable[[], Infer], runtime: str) -> Measure:
    """Return what frames take with another runtime, or model, beside that runtime's own limit."""
    with ExitStack() as stack:
        line = _open(stack, home, bench, profile.frames, make, pictures.make(640, 480), "mosquitto")
        limits, turns = interleaved(profile.rounds, partial(line.limit.pace, line.count), line.ours)
        return _by_share(f"frames/s, {bench.name}, {runtime} through the whole pipeline", limits, turns, 0.85)


def _open(
    stack: ExitStack,
    home: Path,
    bench: Bench,
    count: int,
    make: Callable[[], Infer],
    frames: list[bytes],
    broker: BrokerKind,
) -> Line:
    """Start a broker, a gateway and a device; `make` gives what decodes and invokes a frame by itself."""
    port, broker_pid = stack.enter_context(private_broker(home / "broker", broker))
    settings = {"models": [{"bundle": str(bench.bundle.resolve())}]}
    gateway_pid = stack.enter_context(private_gateway(home / "gateway", port, settings))
    load = stack.enter_context(Load(port, frames))
    load.closed(WARM_UP, IN_FLIGHT)
    return Line(load, broker_pid, gateway_pid, Limit(make, CORES, frames), count)


def _against_limit(bench: Bench, limits: list[Pace], turns: list[Turn]) -> list[Measure]:
    return [
        _by_share(f"frames/s, {bench.name}, 640x480 JPEG, MQTT, durable results, {CORES} cores", limits, turns, 0.90),
        known("frames/s, decode + invoke on all cores", [limit.per_s for limit in limits]),
        known("CPU ms a frame, publisher and broker", [turn.around_cpu_ms for turn in turns]),
        ratio_at_most(
            "CPU ms a frame, gateway",
            "decode + invoke",
            [turn.gateway_cpu_ms for turn in turns],
            [limit.cpu_ms for limit in limits],
            1.10,
        ),
    ]


def _by_share(label: str, limits: list[Pace], turns: list[Turn], bar: float) -> Measure:
    """Return our frames/s by those of the limit on the processor time that publisher and broker leave."""
    share = [limit.beside(turn.around_cpu_ms) for limit, turn in zip(limits, turns, strict=True)]
    what = "decode + invoke on what publisher and broker leave"
    return ratio_at_least(label, what, [turn.per_s for turn in turns], share, bar)


def _lone(line: Line, profile: Profile, broker: str, excess_ms: float) -> list[Measure]:
    count = max(50, line.count // 4)
    bare, ours = interleaved(
        profile.rounds,
        partial(line.limit.lone_ms, count),
        lambda: statistics.median(line.load.closed(count, 1).latencies_ms),
    )
    label = f"p50 ms of a lone frame, published to result received, {broker}"
    return [excess_at_most(label, "the same frame's decode + invoke", ours, bare, excess_ms)]


def _paced(line: Line, profile: Profile, full_per_s: float) -> list[Measure]:
    p50s, p99s = [], []
    for _ in range(profile.rounds):
        flow = line.load.paced(int(full_per_s / 2 * profile.paced_s), full_per_s / 2)
        cuts = statistics.quantiles(flow.latencies_ms, n=100)
        p50s.append(cuts[49])
        p99s.append(cuts[98])
    return [ratio_at_most("p99 ms at half of our frames/s, evenly paced", "its p50", p99s, p50s, 3)]
