"""A gateway's store above high water: unsent rows go as policies say, each is declared, and nothing else goes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_gateway.admission import Arrived, Outcome, admit
from edge_gateway.commit import Committer
from edge_gateway.metrics import Metrics
from edge_gateway.overflow import SPARED_ROWS
from edge_gateway.prediction import Prediction
from edge_gateway.settings import GatewaySettings
from edge_gateway.store import Store
from millrace import clock, events, topics
from millrace.blobs import StorageFailed
from millrace.entries import Entry, Lane
from millrace.ranges import RangeSet
from millrace.settled import SCHEMA as SYNC_SCHEMA
from millrace.topics import Kind

EPOCH = "k3v9x0pa"
FRAMES_BYTES, READINGS_BYTES = 1_200_000, 120_000
YEAR_S = 366 * 86400.0


class Time:
    """Time that stands still until a test moves it."""

    seconds = 100.0

    def now(self) -> clock.Instant:
        return clock.Instant(1_790_000_000_000_000_000, "f00d", int(self.seconds * 1e9))

    def uptime_s(self) -> float:
        return self.seconds


class Gateway:
    """The writing half of a gateway with one policy for all channels, and the promises that it made."""

    def __init__(self, folder: Path, max_bytes: int, overflow: dict[str, str]) -> None:
        loaded = GatewaySettings.model_validate(
            {
                "gateway": "g1",
                "state_dir": folder,
                "policies": [{"frames": "all", "overflow": overflow}],
                "store": {"max_bytes": max_bytes},
            }
        )
        self.time = Time()
        self.store = Store(folder, "machine-1", loaded.store.max_bytes)
        self.committer = Committer(loaded, self.store, Metrics(), self.time)
        self.promised: dict[str, RangeSet] = {}

    def take(self, *batch: Arrived) -> None:
        """Accept a batch, then make room as the writer does, and note what was promised."""
        done = self.committer.commit(batch)
        while self.committer.make_room():
            continue
        for (device, _), receipt in done.receipts.items():
            self.promised.setdefault(f"device/{device}", RangeSet()).update(json.loads(receipt.payload)["ranges"])

    def rows(self, lane: Lane | None = None) -> list[Entry]:
        return self.store.outbox.read(0, 100_000, lane)

    def account(self) -> tuple[dict[str, RangeSet], dict[str, RangeSet], set[str]]:
        """Return by origin what is held and what is declared shed, and the policies that the records name."""
        held: dict[str, RangeSet] = {}
        declared: dict[str, RangeSet] = {}
        reasons = set()
        for entry in self.rows():
            event = events.decode_json(entry.body)
            if event.type == events.LEDGER:
                assert entry.lane is Lane.RESULT, "it goes up"
                data = events.LedgerData.model_validate(event.data)
                assert data.disposition == "shed"
                declared.setdefault(f"device/{data.device}", RangeSet()).add(data.first, data.last)
                reasons.add(data.reason.split(":")[0])
            elif event.key.source != "/millrace/gateway/g1":
                held.setdefault(topics.origin_of(event.key.source), RangeSet()).add(event.key.seq)
        return held, declared, reasons


def event_of(kind: Kind, seq: int, device: str, data: Any = None) -> events.Event:
    key = events.Key(topics.device_source("millrace", device, "top"), EPOCH, seq)
    return events.new_event(events.TYPE_OF_KIND[kind], key, Time().now(), data=data)


def arrive(kind: Kind, device: str, payload: bytes) -> Arrived:
    topic = topics.topic("millrace", kind, device, "top")
    found = admit("millrace", topic, payload, (), Time().now(), redelivered=False)
    assert isinstance(found, list)
    return found[0]


def frame(seq: int, device: str = "cam-1") -> Arrived:
    pixels = np.random.default_rng(seq).integers(0, 255, (64, 64, 3), np.uint8)
    picture = cv2.imencode(".png", pixels)[1].tobytes()
    arrived = arrive(Kind.FRAME, device, events.encode_frame(event_of(Kind.FRAME, seq, device), picture))
    arrived.outcome = Future()
    arrived.outcome.set_result(Outcome([(Prediction("parts@1", "ok", 0.97, defect=False), 0.8, 3.9)]))
    return arrived


def reading(seq: int, device: str = "press-1") -> Arrived:
    made = event_of(Kind.READING, seq, device, {"flow_l_s": seq})
    return arrive(Kind.READING, device, events.encode_json(made))


def settle(folder: Path, epoch: str, lane: Lane, first: int, last: int) -> None:
    """Do as the sync worker does."""
    with closing(sqlite3.connect(folder / "sync.db")) as connection, connection:
        connection.executescript(SYNC_SCHEMA)
        connection.execute("INSERT INTO settled VALUES (?, ?, ?, ?)", (epoch, int(lane), first, last))


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    gateways: list[Gateway] = []

    def open_gateway(max_bytes: int = READINGS_BYTES, **overflow: str) -> Gateway:
        gateways.append(Gateway(tmp_path / "state", max_bytes, overflow))
        return gateways[-1]

    yield open_gateway
    for gateway in gateways:
        gateway.store.close()


def assert_exact(gateway: Gateway) -> None:
    """Each promised event is either held or declared, and never both."""
    held, declared, _ = gateway.account()
    for origin, promised in gateway.promised.items():
        ours, theirs = held.get(origin, RangeSet()), declared.get(origin, RangeSet())
        assert RangeSet([*ours, *theirs]) == promised
        assert ours.count() + theirs.count() == promised.count()


@pytest.mark.parametrize("policy", ["drop_oldest", "thin"])
def test_unsent_frames_go_by_policy_each_is_declared_and_every_result_stays(
    opened: Callable[..., Gateway], policy: str
) -> None:
    gateway = opened(FRAMES_BYTES, frame=policy)
    for first in range(1, 200, 10):
        gateway.take(*(frame(seq) for seq in range(first, first + 10)))
        assert not gateway.store.full
    _, declared, reasons = gateway.account()
    assert reasons == {policy}
    assert declared["device/cam-1"].count() > 40
    assert_exact(gateway)
    results = [entry for entry in gateway.rows(Lane.RESULT) if b"io.millrace.result" in entry.body]
    assert len(results) == 200
    seqs = [entry.seq for entry in gateway.rows(Lane.FRAME)]
    assert set(range(1, SPARED_ROWS + 1)) <= set(seqs), "what may be under way to the cloud stays"
    assert len(set(gateway.store.blobs.digests())) == len(seqs)


def test_thinned_frames_cover_the_whole_time_of_each_camera(opened: Callable[..., Gateway]) -> None:
    gateway = opened(FRAMES_BYTES, frame="thin")
    for first in range(1, 91, 3):
        gateway.take(*(frame(seq, device) for seq in range(first, first + 3) for device in ("cam-1", "cam-2")))
    held, _, _ = gateway.account()
    for device in ("device/cam-1", "device/cam-2"):
        widest = max(last - first + 1 for first, last in held[device].gaps(1, 90))
        assert widest <= 7, "no long span is without a picture"
    assert_exact(gateway)


@pytest.mark.parametrize("policy", ["drop_oldest", "thin"])
def test_readings_go_in_runs_and_the_ledger_stays_small(opened: Callable[..., Gateway], policy: str) -> None:
    gateway = opened(reading=policy)
    for first in range(1, 1201, 50):
        gateway.take(*(reading(seq) for seq in range(first, first + 50)))
        assert not gateway.store.full
    _, declared, reasons = gateway.account()
    assert reasons == {policy}
    records = gateway.rows(Lane.RESULT)
    assert declared["device/press-1"].count() > 10 * len(records)
    assert_exact(gateway)


def test_with_reject_nothing_that_is_held_goes_and_devices_keep_what_comes(opened: Callable[..., Gateway]) -> None:
    gateway = opened(frame="reject")
    for seq in range(1, 41, 5):
        gateway.take(*(arrived for near in range(seq, seq + 5) for arrived in (frame(near), reading(near))))
    held, declared, _ = gateway.account()
    assert gateway.store.full
    assert (declared, len(gateway.rows(Lane.FRAME))) == ({}, held["device/cam-1"].count())
    assert held == gateway.promised


def test_what_was_sent_ahead_while_it_was_live_protects_nothing_that_waits(
    opened: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = opened(FRAMES_BYTES, frame="drop_oldest")
    gateway.take(*(frame(seq) for seq in range(1, 41)))
    live = gateway.rows(Lane.FRAME)[-3:]
    settle(tmp_path / "state", gateway.store.outbox.epoch, Lane.FRAME, live[0].position, live[-1].position)
    for first in range(41, 241, 10):
        gateway.take(*(frame(seq) for seq in range(first, first + 10)))
    _, declared, _ = gateway.account()
    assert min(first for first, _ in declared["device/cam-1"]) == SPARED_ROWS + 1, "the oldest but those under way"
    assert_exact(gateway)


def test_what_the_cloud_has_is_not_declared_lost(opened: Callable[..., Gateway], tmp_path: Path) -> None:
    gateway = opened(reading="drop_oldest")
    gateway.take(*(reading(seq) for seq in range(1, 101)))
    settle(tmp_path / "state", gateway.store.outbox.epoch, Lane.BULK, 1, 100)
    for first in range(101, 601, 50):
        gateway.take(*(reading(seq) for seq in range(first, first + 50)))
    _, declared, _ = gateway.account()
    assert min(first for first, _ in declared["device/press-1"]) == 101
    assert_exact(gateway)


def test_a_drop_that_the_disk_refuses_did_not_happen(opened: Callable[..., Gateway]) -> None:
    gateway = opened(reading="drop_oldest")
    gateway.committer.commit([reading(seq) for seq in range(1, 601)])
    before = gateway.account()
    connection = gateway.store.outbox.connection
    connection.execute("CREATE TEMP TRIGGER refusal BEFORE INSERT ON entry BEGIN SELECT raise(ABORT, 'no room'); END")
    with pytest.raises((StorageFailed, sqlite3.Error)):
        gateway.committer.make_room()
    connection.execute("DROP TRIGGER refusal")
    assert gateway.account() == before
    assert gateway.committer.make_room() > 0


def test_unsent_rows_never_expire(opened: Callable[..., Gateway]) -> None:
    gateway = opened()
    gateway.take(frame(1), reading(1))
    before = gateway.rows()
    for year in range(1, 11):
        uptime_s = gateway.time.seconds + year * YEAR_S
        assert not gateway.store.purge(True, 7 * 86400.0, 1 << 30, uptime_s)
    assert gateway.rows() == before
