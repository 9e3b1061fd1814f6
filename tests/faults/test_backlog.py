"""A backlog of very many rows: gateway, sync worker and agent start with it as they start without, and drain it all.

MILLRACE_BACKLOG_ROWS sets its size; 1,000,000 are claimed.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
import yaml
from faults.campaign import Campaign, sized

from bench.measures import Measure, at_most, equal
from edge_gateway.store import Store
from millrace import clock, events, topics
from millrace.blobs import BlobStore
from millrace.clock import Instant
from millrace.database import Viewer
from millrace.demo.account import CloudView
from millrace.demo.stage import wait_until
from millrace.entries import Draft, Lane
from millrace.outbox import Outbox

CLAIMED_ROWS = 1_000_000
ROWS = sized("MILLRACE_BACKLOG_ROWS", 100_000)
DRAIN_TIMEOUT_S = 300 + ROWS / 200
pytestmark = [pytest.mark.faults, pytest.mark.timeout(int(3 * DRAIN_TIMEOUT_S))]
DEVICE, GATEWAY, EPOCH = "press-1", "gw-1", "k3v9x0pa"
INSTANT = Instant(1_790_000_000_000_000_000, "f00d", 5)
AT_ONCE = 5000
STARTS = 4


class Program:
    """`millrace NAME` as systemd runs it: it says when it is ready, and its memory can be read."""

    def __init__(self, home: Path, name: str) -> None:
        self.log = home / f"{name}.log"
        address = home / "n"
        address.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard, self.log.open("ab") as log:
            os.chdir(home)  # a Unix address is short
            heard.bind("n")
            heard.settimeout(120)
            begun_s = time.monotonic()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "millrace", name, "--config", f"{name}.yaml"],
                env={**os.environ, "NOTIFY_SOCKET": str(address)},
                stdout=log,
                stderr=log,
            )
            try:
                said = heard.recv(4096)
            except TimeoutError:
                self.stop()
                raise
            self.ready_s = time.monotonic() - begun_s
        assert said == b"READY=1", said

    def memory_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(status.partition("VmRSS:")[2].split()[0])

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    before = Path.cwd()
    yield tmp_path
    os.chdir(before)


def _ports(wanted: int) -> list[int]:
    found: list[int] = []
    while len(found) < wanted:
        port = random.SystemRandom().randrange(15000, 32000)
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
    return found


def _write(home: Path, name: str, value: dict[str, Any]) -> None:
    (home / f"{name}.yaml").write_text(yaml.safe_dump(value))


def _readings(first: int, epoch: str) -> Iterator[Draft]:
    source = topics.device_source("millrace", DEVICE, "force")
    for seq in count(first):
        event = events.new_event(events.READING, events.Key(source, epoch, seq), INSTANT, data={"force_kn": seq % 97})
        yield Draft(Lane.BULK, epoch, seq, events.encode_json(event))


def _fill(outbox: Outbox, drafts: Iterator[Draft]) -> None:
    left = ROWS
    while left:
        part = list(islice(drafts, min(left, AT_ONCE)))
        left -= len(part)
        with outbox.transaction():
            outbox.append(part, 0.0)


def _campaign(measures: list[Measure], whose: str) -> Campaign:
    """Begin one; a backlog smaller than the one that is claimed counts for none."""
    return Campaign(measures, "backlog", whose, int(ROWS >= CLAIMED_ROWS), f"{ROWS} rows")


@dataclass(frozen=True, slots=True)
class Starts:
    """The shortest of some starts with an empty folder and with `full`, and the program that runs on that."""

    empty_s: float
    full_s: float
    empty_bytes: int
    program: Program


def _start(home: Path, name: str, settings: dict[str, Any]) -> Starts:
    seen: dict[str, list[float]] = {"empty": [], "full": []}
    for start in range(2 * STARTS):  # in turn, so that what else the machine does befalls both
        place = ("empty", "full")[start % 2]
        _write(home, name, settings | {"state_dir": place})
        program = Program(home, name)
        seen[place].append(program.ready_s)
        if place == "empty":
            empty_bytes = program.memory_bytes()
        if start < 2 * STARTS - 1:
            program.stop()
    return Starts(min(seen["empty"]), min(seen["full"]), empty_bytes, program)


def _tell(measures: list[Measure], what: str, starts: Starts, peak_bytes: int) -> list[Measure]:
    """Add what a backlog costs `what`: time to be ready, and memory beyond that of an empty start."""
    later_s, grown_bytes = max(0.0, starts.full_s - starts.empty_s), peak_bytes - starts.empty_bytes
    told = [
        at_most(f"backlog of {ROWS} rows: {what}, s to be ready beyond an empty start", later_s, 1.0),
        at_most(f"backlog of {ROWS} rows: {what}, MB of memory grown", grown_bytes / 1e6, 50.0),
    ]
    measures += told
    return told


def _peak(program: Program, is_done: Callable[[], bool], timeout_s: float) -> int:
    """Wait until it is done; return the most memory seen on the way."""
    peak = program.memory_bytes()

    def watch() -> bool:
        nonlocal peak
        assert program.process.poll() is None, program.log.read_text()[-2000:]
        peak = max(peak, program.memory_bytes())
        return is_done()

    assert wait_until(watch, timeout_s), program.log.read_text()[-2000:]
    return peak


def test_a_gateways_backlog_delays_no_start_needs_no_memory_and_drains_to_the_last_row(
    home: Path, measures: list[Measure]
) -> None:
    campaign = _campaign(measures, "gateway")
    broker_port, cloud_port, http_port = _ports(3)
    store = Store(home / "full", clock.machine_id(), 1 << 40)
    _fill(store.outbox, _readings(1, EPOCH))
    with store.outbox.transaction():
        stream = store.open_stream(DEVICE, EPOCH)
        stream.account(1, ROWS)
        store.save_stream(stream)
    store.close()
    gateway = {
        "gateway": GATEWAY,
        "broker": {"port": broker_port},
        "http": {"port": http_port},
        "store": {"max_bytes": 1 << 40},
    }
    starts = _start(home, "gateway", gateway)
    peak = starts.program.memory_bytes()
    starts.program.stop()
    found = _tell(measures, "gateway", starts, peak)

    for name in ("gateway-token", "reader-token"):
        (home / name).touch(mode=0o600)
        (home / name).write_text(name)
    gateways = [{"site": "plant-1", "gateway": GATEWAY, "token_file": "gateway-token"}]
    readers = [{"site": "plant-1", "token_file": "reader-token"}]
    _write(home, "cloud", {"port": cloud_port, "state_dir": "cloud", "gateways": gateways, "readers": readers})
    cloud = Program(home, "cloud")
    url = f"http://127.0.0.1:{cloud_port}"
    starts = _start(home, "sync", {"gateway": GATEWAY, "cloud": {"url": url, "token_file": "gateway-token"}})
    view = CloudView(cloud_port, "reader-token")

    def finding() -> dict[str, Any]:
        about = (one for one in view.audit()["origins"] if one["origin"] == f"device/{DEVICE}")
        return next(about, {"held": 0})

    begun_s = time.monotonic()
    peak = _peak(starts.program, lambda: finding()["held"] >= ROWS, DRAIN_TIMEOUT_S)
    drained_s = time.monotonic() - begun_s
    last, totals = finding(), view.audit()["totals"]
    starts.program.stop()
    cloud.stop()
    found += _tell(measures, "sync worker", starts, peak)
    measures += [
        equal(f"backlog of {ROWS} rows: held by the cloud in the end", last["held"], ROWS),
        at_most(f"backlog of {ROWS} rows: s to drain", drained_s, DRAIN_TIMEOUT_S),
    ]
    campaign.count(ROWS, ROWS - last["held"])
    assert (last["missing"], last["minted"], totals["conflicts"]) == ([], ROWS, 0)
    assert [measure for measure in found if not measure.ok] == []


def test_a_devices_backlog_delays_no_start_and_needs_no_memory(home: Path, measures: list[Measure]) -> None:
    campaign = _campaign(measures, "device")
    broker_port, http_port = _ports(2)
    spool = Outbox(home / "full" / "spool.db", BlobStore(home / "full" / "frames"), clock.machine_id())
    drafts = _readings(1, spool.epoch)
    for _ in range(ROWS):
        spool.mint()
    _fill(spool, drafts)
    spool.close()
    (home / "press.csv").write_text("force_kn\n1.5\n")
    broker = subprocess.Popen(
        [sys.executable, "-m", "millrace", "broker", "embedded", "--port", str(broker_port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    at = {"broker": {"port": broker_port, "reconnect_max_s": 1.0}}
    gateway = {"gateway": GATEWAY, "state_dir": "gateway", "http": {"port": http_port}, **at}
    _write(home, "gateway", gateway)
    there = Program(home, "gateway")
    source = {"kind": "readings", "path": "press.csv", "count": 1}
    starts = _start(home, "agent", {"device": DEVICE, "channels": {"force": {"source": source}}, **at})
    streams = Viewer(home / "gateway" / "gateway.db", "SELECT 1 FROM stream")
    wanted = min(ROWS, 5000)
    try:
        peak = _peak(starts.program, lambda: _taken(streams) >= wanted, 120)
    finally:
        streams.close()
        for program in (starts.program, there):
            program.stop()
        broker.kill()
        broker.wait()
    found = _tell(measures, "agent", starts, peak)
    campaign.count(wanted)
    assert [measure for measure in found if not measure.ok] == []


def _taken(streams: Viewer) -> int:
    """Return how many of the device's events the gateway has accepted."""
    return sum(row[0] for row in streams.all("SELECT watermark FROM stream"))
