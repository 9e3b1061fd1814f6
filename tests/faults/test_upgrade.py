"""Version 0.1.0, this program, 0.1.0 again, over the same files with a backlog in each: carried over, or refused.

The old program is taken from this repository's history.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from faults.campaign import Campaign

from bench.measures import Measure, equal
from millrace import events
from millrace.database import SCHEMA_VERSION, Viewer
from millrace.demo.account import CloudView
from millrace.demo.ports import free_port
from millrace.demo.stage import wait_until
from millrace.entries import Lane
from millrace.outbox_reader import Reader
from millrace.settled import SettledReader

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]
OLD_COMMIT = "097558d"
COUNT = 300
DEVICE, GATEWAY = "press-1", "gw-1"
DATABASES = {
    "agent": "agent/spool.db",
    "gateway": "gateway/gateway.db",
    "sync": "gateway/sync.db",
    "cloud": "cloud/cloud.db",
}


@pytest.fixture(scope="module")
def old_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 0.1.0 as it was."""
    folder = tmp_path_factory.mktemp("old")
    archive = folder / "old.tar"
    made = subprocess.run(
        ["git", "-C", str(ROOT), "archive", "-o", str(archive), OLD_COMMIT], capture_output=True, text=True
    )
    if made.returncode != 0:
        pytest.skip(f"the history with {OLD_COMMIT} (version 0.1.0) is not here: {made.stderr.strip()}")
    with tarfile.open(archive) as packed:
        packed.extractall(folder / "tree", filter="data")
    return folder / "tree"


class Site:
    """One device of readings, broker, gateway, sync worker and cloud in one folder; each from the tree asked for."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.broker_port, self.cloud_port = free_port(), free_port()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._write()
        self.cloud = CloudView(self.cloud_port, "reader-token")
        self.spool = Reader(home / "agent" / "spool.db")
        self.store = Reader(home / "gateway" / "gateway.db")
        self.streams = Viewer(home / "gateway" / "gateway.db", "SELECT 1 FROM stream")
        self.settled = SettledReader(home / "gateway" / "sync.db")

    def start(self, tree: Path, *names: str) -> None:
        for name in names:
            self._running[name] = self._popen(tree, name)

    def stop(self, *names: str) -> None:
        for name in names:
            process = self._running.pop(name)
            process.send_signal(signal.SIGTERM)
            process.wait(30)

    def close(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()
        for reader in (self.spool, self.store, self.streams, self.settled):
            reader.close()

    def try_to_start(self, tree: Path, name: str) -> tuple[int, str]:
        """Run a program that is expected to end at once; return its exit status and what it said."""
        process = self._popen(tree, name)
        status = process.wait(30)
        return status, (self.home / f"{name}.log").read_text()[-2000:]

    def capture(self, tree: Path) -> None:
        """Have the device take COUNT readings, which end by themselves."""
        wanted = self.promised() + COUNT
        self.start(tree, "agent")
        self.wait(lambda: self.promised() >= wanted, "the device has taken its readings")

    def promised(self) -> int:
        return sum(self.spool.epochs().values())

    def taken(self) -> int:
        return sum(row[0] for row in self.streams.all("SELECT watermark FROM stream"))

    def held(self) -> list[tuple[str, int]]:
        try:
            return [events.parse_id(event["id"]) for event in self.cloud.events(f"device/{DEVICE}")]
        except OSError:
            return []

    def wait(self, condition: Any, what: str) -> None:
        assert wait_until(condition, 60), f"not within 60 s: {what}\n{self.last_words()}"

    def last_words(self) -> str:
        return "\n".join(f"--- {log.name}\n{log.read_text()[-1500:]}" for log in self.home.glob("*.log"))

    def files(self) -> dict[str, bytes]:
        """Return every database with its log, as bytes."""
        paths = [self.home / (name + tail) for name in DATABASES.values() for tail in ("", "-wal")]
        return {str(path): path.read_bytes() for path in paths if path.exists() and path.stat().st_size}

    def _popen(self, tree: Path, name: str) -> subprocess.Popen[bytes]:
        words = ["broker", "embedded", "--port", str(self.broker_port)]
        if name != "broker":
            words = [name, "--config", str(self.home / f"{name}.yaml")]
        with (self.home / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "millrace", *words],
                cwd=tree,
                env={**os.environ, "PYTHONPATH": str(tree)},
                stdout=log,
                stderr=log,
            )

    def _write(self) -> None:
        for name in ("gateway-token", "reader-token"):
            (self.home / name).touch(mode=0o600)
            (self.home / name).write_text(name)
        (self.home / "press.csv").write_text("force_kn\n" + "".join(f"{n}.5\n" for n in range(COUNT)))
        broker = {"host": "127.0.0.1", "port": self.broker_port, "reconnect_max_s": 1.0}
        source = {"kind": "readings", "path": "press.csv", "loop": True, "speed": 500, "count": COUNT}
        settings: dict[str, dict[str, Any]] = {
            "agent": {
                "device": DEVICE,
                "broker": broker,
                "state_dir": "agent",
                "publish": {"resend_after_s": 1.0, "resend_max_s": 2.0},
                "channels": {"force": {"source": source}},
            },
            "gateway": {
                "gateway": GATEWAY,
                "broker": broker,
                "state_dir": "gateway",
                "policies": [{"channels": "*/*", "readings": "all"}],
                "http": {"enabled": False},
            },
            "sync": {
                "gateway": GATEWAY,
                "state_dir": "gateway",
                "cloud": {"url": f"http://127.0.0.1:{self.cloud_port}", "token_file": "gateway-token"},
                "retry": {"first_s": 0.1, "max_s": 1.0},
            },
            "cloud": {
                "port": self.cloud_port,
                "state_dir": "cloud",
                "gateways": [{"site": "plant-1", "gateway": GATEWAY, "token_file": "gateway-token"}],
                "readers": [{"site": "plant-1", "token_file": "reader-token"}],
            },
        }
        for name, value in settings.items():
            (self.home / f"{name}.yaml").write_text(yaml.safe_dump(value))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def make_backlogs(site: Site, tree: Path) -> None:
    """Have rows in every file: some settled, some that wait for the cloud, some for the gateway; then stop."""
    before = site.promised()
    site.start(tree, "cloud", "gateway", "sync")
    site.capture(tree)
    site.wait(lambda: len(site.held()) >= before + COUNT, "the cloud has the first readings")
    site.stop("agent", "cloud")
    site.capture(tree)
    site.wait(lambda: site.taken() >= before + 2 * COUNT, "the gateway has the second readings")
    site.stop("agent", "gateway", "sync")
    site.capture(tree)
    site.stop("agent")
    assert site.spool.read(Lane.BULK, 0, 10 * COUNT)[COUNT - 1 :], "the device holds the third readings"
    epoch = list(site.store.epochs())[-1]
    done = {lane: ranges.last() or 0 for lane, ranges in site.settled.read(epoch).items()}
    assert site.store.backlog(done)[Lane.BULK] >= COUNT, "the gateway holds the second readings"


def drain(site: Site, tree: Path) -> None:
    site.start(tree, "cloud", "gateway", "sync", "agent")
    wanted = site.promised() + COUNT  # the device takes readings once more
    site.wait(lambda: site.promised() >= wanted and len(site.held()) >= wanted, "all is in the cloud")


def test_a_backlog_of_version_0_1_0_is_carried_over_and_an_older_program_refuses_what_is_newer(
    site: Site, old_tree: Path, measures: list[Measure]
) -> None:
    campaign = Campaign(measures, "versions", "", 1)
    site.start(ROOT, "broker")
    make_backlogs(site, old_tree)
    drain(site, ROOT)
    site.stop("agent", "gateway", "sync", "cloud")
    make_backlogs(site, ROOT)
    before = site.files()
    refusals = {name: site.try_to_start(old_tree, name) for name in DATABASES}
    after = site.files()
    drain(site, ROOT)
    held, audit = site.held(), site.cloud.audit()
    promised = [(epoch, seq) for epoch, last in site.spool.epochs().items() for seq in range(1, last + 1)]
    refused = {
        name
        for name, (status, said) in refusals.items()
        if status == 78
        and all(word in said for word in (DATABASES[name], f"schema {SCHEMA_VERSION}", "knows 1", "run that"))
    }
    measures += [
        equal(f"upgrade: kept once of {len(promised)} promised", len(set(held) & set(promised)), len(promised)),
        equal("upgrade: doubled", len(held) - len(set(held)), 0),
        equal("upgrade: programs of 0.1.0 that refuse newer files in clear words", len(refused), len(DATABASES)),
        equal(
            "upgrade: files that a refusal changed",
            len([name for name in before if after.get(name) != before[name]]),
            0,
        ),
    ]
    lost, doubled = len(set(promised) - set(held)), len(held) - len(set(held))
    campaign.count(len(promised), lost, doubled, sum(later < earlier for earlier, later in pairwise(held)))
    assert held == promised
    assert (audit["totals"]["missing"], audit["totals"]["conflicts"], audit["totals"]["unproven"]) == (0, 0, 0)
    assert refused == set(DATABASES), refusals
    assert after == before
