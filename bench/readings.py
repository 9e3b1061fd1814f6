"""Readings that are on the disk, a second: the gateway's against the least that a receiver in Python can do.

One device sends one value in a keyed event at QoS 1, by libmosquitto, never more than a window beyond what is committed
as a look into the receiver's database shows it: nobody has to throw anything away. The window is what the gateway
allows a device.
"""

from __future__ import annotations

import mmap
import os
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from bench import native
from bench.measures import Measure, interleaved, known, ratio_at_least, value_at_least
from bench.profile import Profile
from edge_gateway.bench.private_line import private_broker, private_gateway
from edge_gateway.bench.processor import cpu_s
from millrace import events, topics
from millrace.clock import SystemClock

DEVICE, CHANNEL = "bench", "c0"
TOPIC = topics.topic(topics.DEFAULT_PREFIX, topics.Kind.READING, DEVICE, CHANNEL)
WINDOW = 4096
CORES = len(os.sched_getaffinity(0))
POLL_S = 0.004
TIMEOUT_S = 120.0
EPOCHS = iter(range(10**6))
COMMITTED_GATEWAY = "SELECT watermark FROM stream WHERE epoch = ?"
COMMITTED_BARE = "SELECT coalesce(max(position), 0) FROM reading WHERE ? <> ''"
BARE = Path(__file__).with_name("bare_receiver.py")


@dataclass(frozen=True, slots=True)
class Turn:
    """One round: readings/s, and microseconds of the receiver's processor time for each."""

    per_s: float
    cpu_us: float


def measures(home: Path, profile: Profile) -> list[Measure]:
    """Return readings/s and their ratio, on this disk and on one that takes 8 ms more to sync. Errors: LeftOut."""
    publisher = native.publisher()
    size = len(_template("x" * 8))
    found = []
    for slow, at_least_per_s in ((False, 20_000), (True, 12_000)):
        environment = native.slow_disk() if slow else {}
        here = home / ("slow" if slow else "fast")
        ours, bare = interleaved(
            profile.rounds,
            partial(_ours, here, publisher, profile.readings, environment),
            partial(_bare, here, publisher, profile.readings, environment),
        )
        rates = [[turn.per_s for turn in turns] for turns in (ours, bare)]
        label = f"readings/s durable, one value in an envelope of {size} bytes"
        label += f", {native.SYNC_DELAY_MS} ms added to each sync" if slow else ""
        found += [
            ratio_at_least(label, "bare paho receiver, json, group commit", *rates, 0.85),
            value_at_least(f"the same, a second on {CORES} cores", rates[0], at_least_per_s),
            known("CPU us a reading, gateway", [turn.cpu_us for turn in ours]),
            known("CPU us a reading, bare paho receiver", [turn.cpu_us for turn in bare]),
        ]
    return found


def _ours(home: Path, publisher: Path, count: int, environment: Mapping[str, str]) -> Turn:
    number = next(EPOCHS)
    folder = home / f"gateway-{number}"
    settings = {"limits": {"device_events_s": 1e6}, "workers": 1}
    with (
        private_broker(home / f"broker-{number}", "mosquitto") as (port, _),  # an old one keeps what others were sent
        private_gateway(folder, port, settings, environment) as pid,
    ):
        return _turn(pid, folder / "state" / "gateway.db", COMMITTED_GATEWAY, port, publisher, count, number)


def _bare(home: Path, publisher: Path, count: int, environment: Mapping[str, str]) -> Turn:
    number = next(EPOCHS)
    database = home / f"bare-{number}.db"
    with (
        private_broker(home / f"broker-{number}", "mosquitto") as (port, _),
        _process([sys.executable, str(BARE), str(port), TOPIC, str(database)], environment) as pid,
    ):
        return _turn(pid, database, COMMITTED_BARE, port, publisher, count, number)


def _turn(pid: int, database: Path, committed: str, port: int, publisher: Path, count: int, number: int) -> Turn:
    """Return what a receiver does from a tenth of all readings to the last, as its database has them."""
    epoch = f"bench{number:03d}"
    gate_file = database.with_name(f"gate-{number}")
    gate_file.write_bytes(bytes(8))
    template = database.with_name(f"template-{number}")
    template.write_bytes(_template(epoch))
    view = sqlite3.connect(f"file:{database}?mode=ro", uri=True, isolation_level=None)
    arguments = [str(publisher), "127.0.0.1", str(port), TOPIC, str(count), str(gate_file)]
    with (
        template.open("rb") as text,
        gate_file.open("r+b") as file,
        mmap.mmap(file.fileno(), 8) as gate,
        _process(arguments, {}, text),
    ):
        begun, deadline_s = None, time.monotonic() + TIMEOUT_S
        while True:
            row = view.execute(committed, (epoch,)).fetchone()
            done, now_s = (row[0] if row else 0), time.monotonic()
            gate[:8] = struct.pack("=Q", done + WINDOW)
            if begun is None and done >= count / 10:
                begun = (done, now_s, cpu_s(pid))
            if done >= count and begun is not None:
                view.close()
                took = done - begun[0]
                return Turn(took / (now_s - begun[1]), (cpu_s(pid) - begun[2]) / took * 1e6)
            assert now_s < deadline_s, f"{done} of {count} readings are committed after {TIMEOUT_S} s"
            time.sleep(POLL_S)


@contextmanager
def _process(arguments: list[str], environment: Mapping[str, str], given: IO[bytes] | None = None) -> Iterator[int]:
    """Run a program inside, from its first line on; give its process."""
    all_of_it = {**os.environ, **environment}
    with subprocess.Popen(arguments, stdin=given, stdout=subprocess.PIPE, env=all_of_it) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline(), f"{arguments[0]} said nothing"
            yield process.pid
        finally:
            process.kill()


def _template(epoch: str) -> bytes:
    """Return a reading as an agent sends it, with @SEQ@ for its number."""
    key = events.Key(topics.device_source(topics.DEFAULT_PREFIX, DEVICE, CHANNEL), epoch, 1)
    event = events.new_event(events.READING, key, SystemClock().now(), data={"temperature_c": 21.5}).with_base(1)
    return events.encode_json(event).replace(f'"{epoch}-1"'.encode(), f'"{epoch}-@SEQ@"'.encode())
