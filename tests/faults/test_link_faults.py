"""The link as it is: false answers, lost answers, resets, drips, flaps; every row reaches the cloud, each once.

The real `millrace sync` drains the real gateway's database to the real reference cloud, with a fault between them.
MILLRACE_LINK_REQUESTS and MILLRACE_LINK_FLAPS set the size of a run, MILLRACE_SEED repeats its choices.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from faults.campaign import Campaign, sized
from faults.faulty_cloud import ACTS, PASS, FaultyCloud
from faults.proxy import FAIR, FaultProxy, Weather
from integration.brokers import wait_until
from integration.test_reference_cloud import Cloud as ReferenceCloud
from integration.test_sync import Line, Uplink, Worker

from bench.measures import Measure, at_most
from cloud_sync.settings import CloudSettings
from millrace.chaos.oracle import Account
from millrace.chaos.reckoning import Outcome
from millrace.entries import Lane
from millrace.settled import SettledReader

pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]
REQUESTS = sized("MILLRACE_LINK_REQUESTS", 400)
FLAPS = sized("MILLRACE_LINK_FLAPS", 60)
FAULT_SHARE = 0.5
RARE = {"silence": 0.1, "drip": 0.1, "429": 0.1, "429 until a date": 0.1}
"""What takes a second or so by its nature is chosen the less often."""
BACKLOG_ROWS = 60
UPLOADS: int = CloudSettings.model_fields["uploads"].default
"""How many connections for pictures it may keep, each made when it is first needed."""
QUIET_S = 120.0
"""How long a drain may settle nothing before it counts as stuck: many times the longest pause and deadline."""


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[ReferenceCloud]:
    home = tmp_path / "cloud"
    home.mkdir()
    running = ReferenceCloud(home)
    yield running
    running.stop(signal.SIGTERM)


class Uphill:
    """A line with a worker of its own, its rows made from the seed, and the account at the end."""

    def __init__(self, folder: Path, cloud: ReferenceCloud, port: int, chance: random.Random) -> None:
        self._chance = chance
        self.line = Line(folder, Uplink(f"http://127.0.0.1:{port}", cloud))
        self.line.close()
        self.promised: set[int] = set()
        self._settled = SettledReader(folder / "state" / "sync.db")
        self._moved_s = time.monotonic()
        self._seen = 0
        self.worker = Worker(
            self.line,
            folder / "sync.log",
            cloud={
                "url": self.line.uplink.url,
                "token_file": str(self.line.token),
                "connect_timeout_s": 0.5,
                "answer_timeout_s": 0.5,
                "request_deadline_s": 1.0,
            },
            retry={"first_s": 0.002, "max_s": 0.2, "retry_after_max_s": 0.3},
            batch={"max_rows": 16},
            poll_s=0.01,
        )

    def feed(self) -> None:
        """Keep a backlog of all lanes waiting; the keys are written down before anything may be sent."""
        while self.waiting() < BACKLOG_ROWS:
            count = self._chance.randint(1, 20)
            if self._chance.random() < 0.2:
                self.promised.add(self.line.seq + 1)
                self.line.add_frame(self._chance.randint(100, 20_000))
                continue
            lane = self._chance.choice([Lane.ALARM, Lane.RESULT, Lane.BULK])
            self.promised |= set(range(self.line.seq + 1, self.line.seq + 1 + count))
            self.line.add(count, lane)

    def waiting(self) -> int:
        """Return how many rows are not settled."""
        settled = self._settled.read(self.line.outbox.epoch)
        while (row := next(iter(self.line.outbox.read(self._seen, 1)), None)) and row.position in settled.get(
            row.lane, ()
        ):
            self._seen, self._moved_s = row.position, time.monotonic()
        left = self.line.outbox.read(self._seen, 100_000)
        return sum(row.position not in settled.get(row.lane, ()) for row in left)

    def is_stuck(self) -> bool:
        """Say whether nothing was settled for far too long, or the worker is gone."""
        self.waiting()
        return self.worker.process.poll() is not None or time.monotonic() - self._moved_s > QUIET_S

    def held(self) -> tuple[int, int]:
        """Return the worker's descriptors and threads."""
        proc = Path(f"/proc/{self.worker.process.pid}")
        return len(list((proc / "fd").iterdir())), len(list((proc / "task").iterdir()))

    def drain(self) -> float:
        """Wait until all is settled; return for how many seconds."""
        begun_s = time.monotonic()
        while self.waiting() and not self.is_stuck():
            time.sleep(0.02)
        return time.monotonic() - begun_s

    def reckon(self) -> Account:
        """Compare what was promised with what the cloud gives out in its order, and with its audit."""
        found: list[int] = []
        after = ""
        while True:
            page = self.line.cloud.get(f"/v1/events?origin=device/{self.line.device}&limit=1000{after}")
            if not page["events"]:
                break
            found += [int(event["id"].split("-")[1]) for event in page["events"]]
            after = f"&epoch={page['next']['epoch']}&after={page['next']['after']}"
        account = Account(promised=len(self.promised), missing=len(self.promised - set(found)))
        account.doubled = len(found) - len(set(found) & self.promised)
        account.out_of_order = sum(later < earlier for earlier, later in pairwise(found))
        audit = self.line.audit()
        if account.missing or account.doubled or account.out_of_order:
            account.complaints.append(f"missing {sorted(self.promised - set(found))[:20]} of {len(self.promised)}")
        if audit != {"held": len(self.promised), "declared": {}, "missing": [], "unproven": []}:
            account.complaints.append(f"the audit says {audit}")
        return account

    def last_words(self) -> str:
        """Return the end of the worker's log."""
        return "\n".join((self.line.folder / "sync.log").read_text(encoding="utf-8").splitlines()[-5:])

    def close(self) -> None:
        """End the worker."""
        if self.worker.process.poll() is None:
            self.worker.end(signal.SIGTERM)
        self.line.outbox.close()


@contextmanager
def uphill(folder: Path, cloud: ReferenceCloud, port: int, chance: random.Random) -> Iterator[Uphill]:
    made = Uphill(folder, cloud, port, chance)
    try:
        yield made
    finally:
        made.close()


def end(campaign: Campaign, line: Uphill, before: tuple[int, int], complaints: list[str]) -> None:
    """Drain in fair weather, and settle the account."""
    drain_s = line.drain()
    if line.waiting():
        complaints.append(f"stuck with {line.waiting()} rows; {line.last_words()}")
    account = line.reckon()
    after = line.held()
    further = [
        at_most(f"{campaign.title}: descriptors of the worker after it", after[0], before[0] + 1 + UPLOADS),
        at_most(f"{campaign.title}: threads of the worker after it", after[1], before[1]),
    ]
    refused = line.line.refused()[0]
    campaign.end(Outcome(account, 0, refused, drain_s, f"{refused} duplicates refused"), complaints, further)


def test_no_answer_that_is_false_late_or_lost_loses_or_doubles_a_row(
    tmp_path: Path, cloud: ReferenceCloud, measures: list[Measure]
) -> None:
    campaign = Campaign(measures, "link answers", "", REQUESTS)
    chance, fair = random.Random(campaign.seed), [True]
    weights = [RARE.get(act, 1.0) for act in ACTS]
    due = chance.sample(ACTS, len(ACTS))

    def choose() -> str:
        if fair[0] or chance.random() > FAULT_SHARE:
            return PASS
        if due:
            return due.pop()
        return chance.choices(ACTS, weights)[0]

    faulty = FaultyCloud(cloud.port, choose)
    with uphill(tmp_path / "line", cloud, faulty.port, random.Random(campaign.seed + 1)) as line:
        line.feed()
        wait_until(lambda: line.waiting() == 0, "the first rows are settled", 30)
        before, first = line.held(), faulty.requests
        fair[0] = False
        while faulty.requests - first < REQUESTS and not line.is_stuck():
            line.feed()
            time.sleep(0.005)
        fair[0] = True
        ungiven = sorted(set(ACTS) - set(faulty.acted))
        end(campaign, line, before, [f"answers that never came up: {ungiven}"] if ungiven else [])
    faulty.close()


WEATHERS: dict[str, tuple[Callable[[FaultProxy], None], Weather]] = {
    "cut": (FaultProxy.cut, Weather(refuse=True)),
    "reset": (FaultProxy.reset, FAIR),
    "reset and refused": (FaultProxy.reset, Weather(refuse=True)),
    "half open": (FaultProxy.half_open, FAIR),
    "black hole": (lambda _proxy: None, Weather(black_hole=True)),
    "delay": (lambda _proxy: None, Weather(delay_ms=60)),
    "throttle": (lambda _proxy: None, Weather(throttle_bytes_per_s=20_000)),
    "drip": (lambda _proxy: None, Weather(drip=True)),
    "duplicate": (FaultProxy.cut, Weather(duplicate=True)),
}


def test_no_flap_of_the_link_loses_or_doubles_a_row(
    tmp_path: Path, cloud: ReferenceCloud, measures: list[Measure]
) -> None:
    campaign = Campaign(measures, "link flaps", "", FLAPS)
    chance = random.Random(campaign.seed)
    proxy = FaultProxy(cloud.port)
    with uphill(tmp_path / "line", cloud, proxy.port, random.Random(campaign.seed + 1)) as line:
        line.feed()
        wait_until(lambda: line.waiting() == 0, "the first rows are settled", 30)
        before = line.held()
        for number in range(FLAPS):
            line.feed()
            name = list(WEATHERS)[number] if number < len(WEATHERS) else chance.choice(list(WEATHERS))
            act, weather = WEATHERS[name]
            proxy.set(weather)
            act(proxy)
            time.sleep(chance.uniform(0.02, 0.3))
            proxy.set(FAIR)
            time.sleep(chance.uniform(0.0, 0.2))
            if line.is_stuck():
                break
        duplicated = proxy.duplicated
        end(campaign, line, before, [] if duplicated else ["no request came twice"])
    proxy.close()
