"""What people use today under the same kills as ours: each peer's processes, the schedule, and the account."""

from __future__ import annotations

import itertools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from faults import peer_programs
from integration.brokers import HOST, free_port

from broker_config.accounts import program

PAUSE_S = (1.0, 3.0)
QUIET_S, DRAIN_S = 8.0, 60.0
BRIDGE_QUIET_S = 35.0  # its own pause before it connects again is up to 30 s
THINGSBOARD = "thingsboard-gateway==3.8.5"


class Kill(NamedTuple):
    """After so many seconds, one of the processes: the share tells which."""

    pause_s: float
    share: float


def schedule(seed: int, kills: int) -> list[Kill]:
    """Return the kills; the same seed gives the same ones to each."""
    chance = random.Random(seed)
    return [Kill(chance.uniform(*PAUSE_S), chance.random()) for _ in range(kills)]


@dataclass(frozen=True, slots=True)
class Reckoned:
    """What came of it, in keys."""

    promised: int
    lost: int
    duplicated: int
    out_of_order: int


class Peer:
    """Processes that are killed and started again, a producer's ledger, and a place where things arrive.

    `mortal` are those that the schedule kills, `producer` the one that is asked to end first, `quiet_s` for how long
    nothing must have arrived before the rest counts as lost.
    """

    def __init__(
        self,
        home: Path,
        commands: Mapping[str, Sequence[str]],
        mortal: Sequence[str],
        producer: str,
        quiet_s: float = QUIET_S,
    ) -> None:
        self.home, self.mortal, self._producer, self._commands = home, list(mortal), producer, commands
        self._quiet_s = quiet_s
        self.ledger = home / "ledger"
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        for name in self._commands:
            self._start(name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for running in self._running.values():
            running.kill()
            running.wait()

    def _start(self, name: str) -> None:
        with (self.home / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                self._commands[name], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self, name: str) -> None:
        """SIGKILL one and start it again at once."""
        self._running[name].kill()
        self._running[name].wait()
        self._start(name)

    def end(self) -> None:
        """Ask the producer to end, and wait until nothing arrives any more."""
        self._running[self._producer].send_signal(signal.SIGTERM)
        self._running[self._producer].wait(DRAIN_S)
        begun_s = quiet_s = time.monotonic()
        count = len(self.arrived())
        while time.monotonic() - quiet_s < self._quiet_s and time.monotonic() - begun_s < DRAIN_S:
            time.sleep(0.2)
            if (now := len(self.arrived())) != count:
                count, quiet_s = now, time.monotonic()

    def arrived(self) -> list[str]:
        """Return the keys at the far end, in the order in which they are there."""
        far = self.home / "far"
        if far.exists():
            return far.read_text().split()
        with sqlite3.connect(f"file:{self.home / 'collector.db'}?mode=ro", uri=True) as connection:
            rows = connection.execute("SELECT key FROM reading ORDER BY number").fetchall()
        connection.close()
        return [key for (key,) in rows]

    def reckon(self) -> Reckoned:
        """Compare the producer's ledger with what has arrived."""
        promised, arrived = self.ledger.read_text().split(), self.arrived()
        times = Counter(arrived)
        places = [tuple(map(int, key.split("-"))) for key in arrived]
        return Reckoned(
            len(promised),
            sum(key not in times for key in promised),
            sum(count - 1 for count in times.values()),
            sum(later < earlier for earlier, later in itertools.pairwise(places)),
        )


def usual_paho(home: Path) -> Peer:
    """Device and collector with paho, and a Mosquitto without persistence between; each of them is killed."""
    port = free_port()
    commands = {
        "broker": _mosquitto(home, "broker", port),
        "collector": _own("collector", port, home / "collector.db"),
        "device": _own("device", HOST, port, home / "ledger"),
    }
    return Peer(home, commands, list(commands), "device")


def mosquitto_bridge(home: Path) -> Peer:
    """The same device and collector, never killed, and between them two Mosquittos and a bridge at their defaults."""
    near, far = free_port(), free_port()
    bridge = f"connection far\naddress {HOST}:{far}\ntopic # out 1\n"
    commands = {
        "far": _mosquitto(home, "far-broker", far, _persistence(home, "far-broker")),
        "near": _mosquitto(home, "near-broker", near, _persistence(home, "near-broker") + bridge),
        "collector": _own("collector", far, home / "collector.db"),
        "device": _own("device", HOST, near, home / "ledger"),
    }
    return Peer(home, commands, ["near", "far"], "device", BRIDGE_QUIET_S)


def thingsboard_storage(home: Path) -> Peer | None:
    """ThingsBoard gateway's SQLite storage, driven directly; None where its package cannot be had."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(home / "packages")]
    if subprocess.run([*command, THINGSBOARD], capture_output=True).returncode != 0:
        return None
    (home / "storage").mkdir()
    environment = f"PYTHONPATH={os.pathsep.join([str(home / 'packages'), os.environ.get('PYTHONPATH', '')])}"
    own = _own("thingsboard", home / "storage", home / "ledger", home / "far")
    return Peer(home, {"storage": ["env", environment, *own]}, ["storage"], "storage")


def _own(*arguments: object) -> list[str]:
    return [sys.executable, str(peer_programs.__file__), *map(str, arguments)]


def _persistence(home: Path, name: str) -> str:
    return f"persistence true\npersistence_location {home / name}/\n"


def _mosquitto(home: Path, name: str, port: int, more: str = "") -> list[str]:
    (home / name).mkdir()
    config = home / f"{name}.conf"
    config.write_text(f"listener {port} {HOST}\nallow_anonymous true\nuser root\n{more}")
    return [program("mosquitto"), "-c", str(config)]
