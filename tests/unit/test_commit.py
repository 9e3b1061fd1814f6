"""Accepting, against a real store: one transaction makes rows, watermarks and answers, and a repeat hears the same."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from unit.failing_calls import calls_fail
from unit.fake_clock import FakeClock

from cloud_sync.batches import Batches
from cloud_sync.progress import Progress
from edge_gateway.admission import Arrived, DeviceStatus, GatewayStatus, Malformed, Outcome, admit
from edge_gateway.bad_folders import PATIENCE_S
from edge_gateway.commit import Committer, Finished
from edge_gateway.company import Gateways
from edge_gateway.line import Item, Line
from edge_gateway.metrics import Metrics
from edge_gateway.own_events import ALARM_EVERY_S
from edge_gateway.prediction import Prediction
from edge_gateway.settings import GatewaySettings
from edge_gateway.status import Uplink
from edge_gateway.store import PURGE_ROWS, Store
from edge_gateway.taken import MARK_BYTES
from edge_gateway.work import Committed, NoRoomNow, NotAnswered
from edge_gateway.writer import Writer
from millrace import events, images, topics
from millrace.blobs import BadFolder, NoRoom, StorageFailed
from millrace.entries import Entry, Lane
from millrace.inbox import Inbox
from millrace.mqtt import Connection, Will
from millrace.settled import SCHEMA as SYNC_SCHEMA
from millrace.settled import SILENT_AFTER_S, life_file

EPOCH = "k3v9x0pa"
SESSION = "ours"
PICTURES = [cv2.imencode(".jpg", np.full((8, 8, 3), shade, np.uint8))[1].tobytes() for shade in range(0, 250, 10)]
SURE, UNSURE, DEFECT = ("ok", 0.97, False), ("ok", 0.4, False), ("scratch", 0.97, True)


@dataclass
class Gateway:
    """The accepting half of a gateway over a store in a folder; `settings` are fields of GatewaySettings."""

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        loaded = GatewaySettings.model_validate({"gateway": "g1", "state_dir": self.folder} | self.settings)
        self.metrics = Metrics()
        self.store = Store(self.folder, "machine-1", loaded.store.max_bytes)
        gateways = Gateways(loaded.gateway, SESSION)
        self.committer = Committer(loaded, self.store, self.metrics, self.clock, gateways=gateways)
        self.loaded = loaded

    def reopen(self) -> None:
        self.store.close()
        self.open()

    def take(self, *batch: Finished) -> Committed:
        return self.committer.commit(batch)

    def rows(self, lane: Lane | None = None) -> list[Entry]:
        return self.store.outbox.read(0, 10_000, lane)

    def said(self, type_: str) -> list[dict[str, Any]]:
        """Return the data of what is held of a type, the gateway's own words and the devices'."""
        bodies = [json.loads(row.body) for row in self.rows()]
        return [body["data"] for body in bodies if body["type"] == type_]

    def ledger(self) -> list[tuple[str, int, int, str]]:
        found = self.said(events.LEDGER)
        return [(data["epoch"], data["from"], data["to"], data["disposition"]) for data in found]

    def quarantined(self) -> list[tuple[str, str, bytes]]:
        return self.store.outbox.connection.execute("SELECT topic, reason, payload FROM quarantine").fetchall()

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def pictures(self) -> set[str]:
        return set(self.store.blobs.digests())


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(tmp_path / "state")
    yield made
    made.store.close()


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway whose quota its first event has used up."""
    made = Gateway(tmp_path / "state", {"store": {"max_bytes": 1, "retention_s": 0}, "uplink": "none"})
    made.take(reading(1))
    assert made.store.full
    yield made
    made.store.close()


def arrive(kind: str, payload: bytes, device: str = "cam-1", *, redelivered: bool = False) -> Arrived:
    topic = f"millrace/device/{device}/{kind}"
    found = admit("millrace", topic, payload, (), FakeClock().now(), redelivered=redelivered)
    assert isinstance(found, list)
    return found[0]


def event(type_: str, seq: int, data: Any, base: int | None, channel: str, epoch: str) -> events.Event:
    key = events.Key(topics.device_source("millrace", "cam-1", channel), epoch, seq)
    made = events.new_event(type_, key, FakeClock().now(), data=data)
    return made if base is None else made.with_base(base)


def reading(
    seq: int, value: float = 41.2, base: int | None = None, channel: str = "belt", epoch: str = EPOCH
) -> Arrived:
    made = event(events.READING, seq, {"temperature_c": value}, base, channel, epoch)
    return arrive(f"reading/{channel}", events.encode_json(made))


def answered(arrived: Arrived, *answers: tuple[str, float, bool], malformed: str | None = None) -> Arrived:
    """Return a frame of which the workers have made this; no answer: no model serves it."""
    if answers or malformed:
        outcome = Outcome(malformed=malformed)
        outcome.predictions = [
            (Prediction(f"parts@{number}", label, score, defect), 0.8, 3.9)
            for number, (label, score, defect) in enumerate(answers, 1)
        ]
        arrived.outcome = Future()
        arrived.outcome.set_result(outcome)
    return arrived


def frame(seq: int, *answers: tuple[str, float, bool], malformed: str | None = None, picture: int = 0) -> Arrived:
    payload = events.encode_frame(event(events.FRAME, seq, None, None, "top", EPOCH), PICTURES[picture])
    return answered(arrive("frame/top", payload), *answers, malformed=malformed)


def bare(picture: int = 0, device: str = "esp32-7", channel: str = "top", *, redelivered: bool = False) -> Arrived:
    return answered(arrive(f"frame/{channel}", PICTURES[picture], device, redelivered=redelivered), SURE)


CLOCK = {"bootid": "f00d", "uptimens": "100000000000"}


def receipt(done: Committed, device: str = "cam-1", epoch: str = EPOCH) -> dict[str, Any]:
    message = done.receipts[device, epoch]
    assert message.topic == f"millrace/device/{device}/receipt"
    value: dict[str, Any] = json.loads(message.payload)
    return value


def subjects(done: Committed) -> list[str]:
    return [json.loads(message.payload)["subject"] for message in done.results]


# --- what is accepted


def test_a_frame_becomes_a_result_a_row_and_a_receipt(gateway: Gateway) -> None:
    done = gateway.take(frame(1, SURE))
    (message,) = done.results
    assert message.topic == "millrace/device/cam-1/result/top"
    body = json.loads(message.payload)
    assert body["source"] == "/millrace/gateway/g1"
    assert body["subject"] == f"cam-1/top/{EPOCH}-1"
    assert {name: body["data"][name] for name in ("label", "score", "model", "decision")} == {
        "label": "ok",
        "score": 0.97,
        "model": "parts@1",
        "decision": "edge",
    }
    assert [row.body for row in gateway.rows(Lane.RESULT)] == [message.payload]
    assert receipt(done) == {"gateway": "g1", "epoch": EPOCH, "ranges": [[1, 1]], "window_bytes": 2 << 20} | CLOCK


def test_a_result_says_so_if_its_answer_was_there_already(gateway: Gateway) -> None:
    inferred, equal = frame(1, SURE), frame(2, SURE)
    assert equal.outcome is not None
    answers = equal.outcome.result().predictions
    answers[0] = (*answers[0][:2], None)
    datas = [json.loads(message.payload)["data"] for message in gateway.take(inferred, equal).results]
    assert [(data["infer_ms"], data.get("cached")) for data in datas] == [(3.9, None), (0.0, True)]
    assert gateway.count("millrace_inference_duration_seconds_count", model="parts@1") == 1


def test_each_model_that_serves_a_frame_answers(gateway: Gateway) -> None:
    done = gateway.take(frame(1, SURE, DEFECT))
    assert [json.loads(message.payload)["data"]["model"] for message in done.results] == ["parts@1", "parts@2"]
    assert [len(datas) for _, datas in done.replies if isinstance(datas, list)] == [2]


def test_a_batch_is_one_commit_and_one_receipt_for_each_device(gateway: Gateway) -> None:
    done = gateway.take(reading(1), reading(2), bare(), reading(4))
    assert gateway.count("millrace_commits_total") == 1
    assert set(done.receipts) == {("cam-1", EPOCH)}
    assert receipt(done)["ranges"] == [[1, 2], [4, 4]]


def test_of_a_batch_each_reading_is_a_row_as_it_came_and_in_order(gateway: Gateway) -> None:
    batch = [reading(1), bare(), reading(2), frame(3, SURE), reading(4)]
    gateway.take(*batch)
    rows = gateway.rows(Lane.BULK)
    assert [(row.seq, row.body) for row in rows] == [
        (seq, events.encode_json(item.event)) for seq, item in zip((1, 2, 4), batch[::2], strict=True) if item.event
    ]
    positions = [row.position for row in gateway.rows()]
    assert positions == list(range(1, len(positions) + 1))


def test_a_key_that_comes_twice_in_a_batch_is_taken_once_and_a_conflict_is_seen(gateway: Gateway) -> None:
    gateway.take(reading(1, 20.0), reading(1, 20.0), reading(2), reading(1, 21.0))
    assert [row.seq for row in gateway.rows(Lane.BULK)] == [1, 2]
    assert gateway.count("millrace_events_deduplicated_total", device="cam-1") == 2
    assert gateway.count("millrace_key_conflicts_total") == 1


def test_what_a_batch_has_taken_counts_for_the_quota_within_it(tmp_path: Path) -> None:
    two = 2 * len(reading(1).body or b"") - 1
    gateway = Gateway(tmp_path / "state", {"store": {"max_bytes": two, "retention_s": 0}, "uplink": "none"})
    done = gateway.take(*(reading(seq) for seq in range(1, 6)))
    assert [row.seq for row in gateway.rows(Lane.BULK)] == [1, 2]
    assert receipt(done)["ranges"] == [[1, 2]]
    gateway.store.close()


def test_of_a_batch_that_the_disk_refuses_nothing_is_written_later(gateway: Gateway) -> None:
    with no_room(gateway), pytest.raises(StorageFailed):
        gateway.take(reading(1), reading(2), Malformed("t", b"x" * 60_000, "poison"))
    gateway.take(reading(7, base=7))
    assert [row.seq for row in gateway.rows(Lane.BULK)] == [7]
    assert tables(gateway)["answer"] == 1


def test_the_gateways_own_numbers_have_no_gap(gateway: Gateway) -> None:
    gateway.take(frame(1, SURE, DEFECT), frame(2, malformed="cut short"), bare())
    gateway.take(frame(3, UNSURE))
    own = gateway.store.outbox.epoch
    seqs = [row.seq for row in gateway.rows() if json.loads(row.body)["source"] == "/millrace/gateway/g1"]
    assert seqs == list(range(1, len(seqs) + 1))
    assert gateway.store.outbox.minted()[own] == len(seqs)


def test_how_far_a_device_has_minted_is_noted_from_its_status_and_from_what_came(gateway: Gateway) -> None:
    gateway.take(reading(3), DeviceStatus("cam-2", online=True, epoch=EPOCH, minted=9))
    found = gateway.store.outbox.connection.execute("SELECT origin, epoch, seq FROM minted").fetchall()
    assert sorted(found) == [("device/cam-1", EPOCH, 3), ("device/cam-2", EPOCH, 9)]


def test_of_a_device_whose_events_came_in_order_the_cloud_is_told_how_far_it_has_minted(gateway: Gateway) -> None:
    gateway.take(reading(1), reading(2), DeviceStatus("cam-2", online=True, epoch=EPOCH, minted=9))
    progress = Progress(gateway.folder / "sync.db")
    batches = Batches(gateway.folder, progress)
    told = batches.minted()
    batches.close()
    progress.close()
    assert told == {"device/cam-1": {EPOCH: 2}, "device/cam-2": {EPOCH: 9}}


def test_epochs_that_began_while_nobody_heard_are_met_in_the_order_in_which_they_began(gateway: Gateway) -> None:
    gateway.take(reading(1))
    gateway.take(
        DeviceStatus("cam-1", True, "aaaaaaaa", 7, older_minted=((EPOCH, 2), ("zzzzzzzz", 1), ("mmmmmmmm", 0)))
    )
    progress = Progress(gateway.folder / "sync.db")
    batches = Batches(gateway.folder, progress)
    told = batches.minted()
    batches.close()
    progress.close()
    assert list(told["device/cam-1"].items()) == [(EPOCH, 2), ("zzzzzzzz", 1), ("mmmmmmmm", 0), ("aaaaaaaa", 7)]


def test_a_device_of_more_epochs_than_are_known_at_once_is_heard_and_gets_all_of_them_in(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, {"limits": {"epochs_per_device": 3}})
    held = {f"epoch{number:03}": 1 for number in range(6)}

    def status(present: str) -> DeviceStatus:
        return DeviceStatus("cam-1", True, present, 1, held_epochs=frozenset(held), older_minted=tuple(held.items()))

    assert receipt(gateway.take(status("zzzzzzzz")), epoch="zzzzzzzz")["ranges"] == []
    assert [stream.epoch for stream in gateway.store.epochs_of("cam-1")] == ["epoch000", "epoch001", "zzzzzzzz"]
    wanted = set(held)
    while held:
        gateway.clock.seconds += 30.0
        # Another epoch than the one that has its place: there is none for it yet, and it is heard all the same.
        assert receipt(gateway.take(status("yyyyyyyy")), epoch="yyyyyyyy")["ranges"] == []
        epoch = next(iter(held))
        if gateway.take(reading(1, epoch=epoch)).receipts:
            del held[epoch]
    assert not wanted & {epoch for epoch, *_ in gateway.ledger()}
    gateway.store.close()


def test_a_device_that_comes_online_is_told_what_is_here_of_its_epoch(gateway: Gateway) -> None:
    gateway.take(reading(1), reading(2))
    known = gateway.take(DeviceStatus("cam-1", online=True, epoch=EPOCH, minted=2))
    assert receipt(known)["ranges"] == [[1, 2]]
    new = gateway.take(DeviceStatus("cam-1", online=True, epoch="zzzzzzzz", minted=2))
    assert receipt(new, epoch="zzzzzzzz")["ranges"] == []
    assert gateway.take(DeviceStatus("cam-1", online=False, epoch=EPOCH, minted=2)).receipts == {}


def test_what_is_owed_of_an_epoch_that_a_device_has_left_and_holds_nothing_of_is_unproven(gateway: Gateway) -> None:
    gateway.take(reading(1), reading(4), DeviceStatus("cam-1", online=True, epoch=EPOCH, minted=9))
    gone = DeviceStatus("cam-1", online=True, epoch="zzzzzzzz", minted=1, held_epochs=frozenset({EPOCH, "zzzzzzzz"}))
    gateway.take(gone)
    assert gateway.ledger() == []
    gateway.take(replace(gone, held_epochs=None))
    assert gateway.ledger() == []
    for _ in range(2):
        gateway.take(replace(gone, held_epochs=frozenset({"zzzzzzzz"})))
        assert gateway.ledger() == [(EPOCH, 2, 3, "unproven"), (EPOCH, 5, 9, "unproven")]


def pack_of_readings(moments: int, *, redelivered: bool) -> list[Arrived]:
    pack = json.dumps([{"bn": "belt/", "n": "temperature", "u": "Cel", "t": -n, "v": n} for n in range(1, moments + 1)])
    found = admit(
        "millrace",
        "millrace/device/esp32-7/reading/belt",
        pack.encode(),
        (),
        FakeClock().now(),
        redelivered=redelivered,
    )
    assert isinstance(found, list)
    assert len(found) == moments
    return list(found)


def test_a_large_pack_of_readings_that_comes_again_has_the_keys_it_had(gateway: Gateway) -> None:
    for redelivered in (False, True):
        gateway.take(*pack_of_readings(40, redelivered=redelivered))
    assert len(gateway.rows(Lane.BULK)) == 40


@pytest.mark.parametrize("stored", [0, 20])
def test_of_a_pack_that_comes_again_and_again_only_what_is_not_stored_is_news(gateway: Gateway, stored: int) -> None:
    """Also where it comes twice in one transaction, and the gateway was killed in the midst of it."""
    gateway.take(*pack_of_readings(40, redelivered=False)[:stored])
    again = pack_of_readings(40, redelivered=True)
    gateway.take(*again, *again)
    assert len(gateway.rows(Lane.BULK)) == 40
    assert gateway.count("millrace_events_deduplicated_total", device="esp32-7") == 40 + stored


def test_what_a_devices_last_events_were_is_read_once_for_a_pack_that_comes_again(gateway: Gateway) -> None:
    gateway.take(*pack_of_readings(40, redelivered=False))
    asked: list[str] = []
    gateway.store.outbox.connection.set_trace_callback(asked.append)
    gateway.take(*pack_of_readings(40, redelivered=True))
    assert sum("SELECT seq, digest" in statement for statement in asked) == 1


def said_by(session: str, epoch: str, said_ns: int, **more: Any) -> DeviceStatus:
    """Return a live status of one agent of cam-1."""
    held = frozenset({epoch})
    return DeviceStatus("cam-1", True, epoch, 9, held_epochs=held, session=session, said_ns=said_ns, **more)


def test_two_agents_of_one_name_are_an_alarm_and_neither_closes_the_others_epoch(gateway: Gateway) -> None:
    gateway.take(said_by("a", EPOCH, 10), reading(1), said_by("b", "zzzzzzzz", 500), said_by("a", EPOCH, 40))
    (alarm,) = gateway.said(events.ALARM)
    assert (alarm["alarm"], alarm["device"]) == ("two_agents", "cam-1")
    assert f"session a (epoch {EPOCH}) and session b (epoch zzzzzzzz)" in alarm["text"]
    gateway.clock.seconds += 600
    gateway.take(said_by("b", "zzzzzzzz", 900))
    assert gateway.ledger() == []
    assert len(gateway.said(events.ALARM)) == 1


def test_the_epoch_of_an_agent_that_was_heard_of_late_and_did_not_end_is_left_open(gateway: Gateway) -> None:
    gateway.take(said_by("a", EPOCH, 10), reading(1), said_by("b", "zzzzzzzz", 500))
    assert gateway.ledger() == []
    gateway.take(DeviceStatus("cam-1", online=False, epoch=None, minted=0, ended=True), said_by("b", "zzzzzzzz", 600))
    assert gateway.ledger() == [(EPOCH, 2, 9, "unproven")]


def test_another_gateway_under_this_name_is_an_alarm(gateway: Gateway) -> None:
    gateway.take(GatewayStatus("g1", "other", 5), GatewayStatus("g1", SESSION, 1), GatewayStatus("g2", "third", 5))
    assert gateway.said(events.ALARM) == []
    gateway.take(GatewayStatus("g1", "other", 9), GatewayStatus("g1", "other", 12))
    (alarm,) = gateway.said(events.ALARM)
    assert alarm["alarm"] == "another_gateway"
    assert "session other" in alarm["text"]


# --- repeats


def test_a_repeat_is_answered_with_what_was_stored_and_stores_nothing(gateway: Gateway) -> None:
    first = gateway.take(frame(1, SURE, DEFECT))
    held = gateway.store.outbox.held_rows
    again = gateway.take(frame(1, UNSURE))
    assert again.results == first.results
    assert receipt(again)["ranges"] == [[1, 1]]
    assert gateway.store.outbox.held_rows == held
    assert gateway.count("millrace_events_deduplicated_total", device="cam-1") == 1


def test_a_repeat_in_the_same_batch_is_one_too(gateway: Gateway) -> None:
    done = gateway.take(frame(1, SURE), frame(1, SURE))
    assert len(gateway.rows(Lane.RESULT)) == 1
    assert subjects(done) == [f"cam-1/top/{EPOCH}-1"] * 2


def test_a_repeat_after_a_restart_hears_the_same(gateway: Gateway) -> None:
    first = gateway.take(frame(1, SURE), reading(2))
    gateway.reopen()
    again = gateway.take(frame(1, DEFECT), reading(2))
    assert again.results == first.results
    assert receipt(again)["ranges"] == [[1, 2]]


def test_a_repeat_whose_answer_is_purged_is_receipted_all_the_same(gateway: Gateway) -> None:
    gateway.take(frame(1, SURE))
    gateway.clock.seconds += 10
    gateway.store.purge(uplink=False, retention_s=5, retention_bytes=1 << 40, uptime_s=gateway.clock.seconds)
    assert gateway.rows() == []
    again = gateway.take(frame(1, SURE))
    assert again.results == []
    assert receipt(again)["ranges"] == [[1, 1]]


def test_the_same_key_with_another_content_is_an_alarm_once_and_the_first_is_kept(gateway: Gateway) -> None:
    first = gateway.take(frame(1, SURE))
    done = gateway.take(frame(1, DEFECT, picture=1))
    alarm, result = sorted(done.results, key=lambda message: not message.retain)
    assert (alarm.topic, alarm.retain) == ("millrace/gateway/g1/alarm", True)
    assert [result] == first.results
    again = gateway.take(frame(1, DEFECT, picture=2), reading(1))
    assert not any(message.retain for message in again.results)
    assert [data["alarm"] for data in gateway.said(events.ALARM)] == ["key_conflict"]
    assert [row.lane for row in gateway.rows() if row.lane is Lane.ALARM] == [Lane.ALARM]
    assert len(gateway.quarantined()) == 3
    assert gateway.count("millrace_key_conflicts_total") == 3
    assert len(gateway.rows(Lane.RESULT)) == 1


def test_an_alarm_sounds_again_when_it_has_been_quiet_for_long(gateway: Gateway) -> None:
    gateway.take(reading(1))
    for _ in range(2):
        gateway.take(reading(1, value=9))
        gateway.clock.seconds += ALARM_EVERY_S
    assert len(gateway.said(events.ALARM)) == 2


def test_an_alarm_of_a_commit_that_failed_is_not_taken_for_said(gateway: Gateway) -> None:
    gateway.take(reading(1))
    batch = [reading(1, value=9), Malformed("t", b"x" * 60_000, "poison")]
    with no_room(gateway), pytest.raises(StorageFailed):
        gateway.take(*batch)
    gateway.take(*batch)
    assert len(gateway.said(events.ALARM)) == 1


# --- gaps


def test_what_lies_below_the_base_is_unproven_and_no_receipt_lists_it(gateway: Gateway) -> None:
    gateway.take(reading(3, base=1))
    done = gateway.take(reading(8, base=6))
    assert gateway.ledger() == [(EPOCH, 1, 2, "unproven"), (EPOCH, 4, 5, "unproven")]
    assert receipt(done)["ranges"] == [[3, 3], [8, 8]]
    stream = gateway.store.stream("cam-1", EPOCH)
    assert stream
    assert stream.watermark == 5


def close(gateway: Gateway) -> Committed:
    """Another agent of the name speaks up: what is owed of the epoch is declared."""
    return gateway.take(
        DeviceStatus("cam-1", online=True, epoch="zzzzzzzz", minted=1, held_epochs=frozenset({"zzzzzzzz"}))
    )


@pytest.mark.parametrize("restart", [False, True])
def test_what_was_only_declared_is_taken_when_it_comes_after_all(gateway: Gateway, restart: bool) -> None:
    gateway.take(frame(1, SURE), reading(4), DeviceStatus("cam-1", online=True, epoch=EPOCH, minted=6))
    close(gateway)
    assert gateway.ledger() == [(EPOCH, 2, 3, "unproven"), (EPOCH, 5, 6, "unproven")]
    if restart:
        gateway.reopen()
    held = DeviceStatus("cam-1", online=True, epoch=EPOCH, minted=6)
    assert receipt(gateway.take(held))["ranges"] == [[1, 1], [4, 4]]  # whoever holds the others keeps them
    done = gateway.take(reading(2), frame(3, SURE, picture=1), reading(5), reading(4))
    assert receipt(done)["ranges"] == [[1, 5]]
    assert [row.seq for row in gateway.rows(Lane.BULK) if row.epoch == EPOCH] == [4, 2, 5]
    assert len(gateway.said(events.RESULT)) == 2
    again = gateway.take(reading(2), frame(3, SURE, picture=1))
    assert len(gateway.said(events.RESULT)) == 2
    assert again.results
    assert gateway.count("millrace_key_conflicts_total") == 0
    assert len(gateway.ledger()) == 2


def test_what_lay_below_the_base_is_taken_when_it_comes_after_all(gateway: Gateway) -> None:
    gateway.take(reading(8, base=6))
    assert receipt(gateway.take(reading(2, base=2)))["ranges"] == [[2, 2], [8, 8]]
    assert [row.seq for row in gateway.rows(Lane.BULK)] == [8, 2]


def test_what_a_device_could_not_prove_is_taken_when_another_of_its_name_holds_it(gateway: Gateway) -> None:
    data = {"device": "cam-1", "epoch": EPOCH, "from": 1, "to": 3, "disposition": "unproven", "reason": "set back"}
    gateway.take(arrive("ledger", events.encode_json(event(events.LEDGER, 1, data, None, "ledger", "zzzzzzzz"))))
    assert receipt(gateway.take(reading(2)))["ranges"] == [[2, 2]]
    assert [row.seq for row in gateway.rows(Lane.BULK)] == [2]


def test_poison_in_what_was_declared_is_not_buried_over_it(gateway: Gateway) -> None:
    gateway.take(reading(8, base=6))
    gateway.take(Malformed("millrace/device/cam-1/reading/belt", b"{", "no JSON", "cam-1", reading(2).event.key))
    assert gateway.ledger() == [(EPOCH, 1, 5, "unproven")]
    assert receipt(gateway.take(reading(2)))["ranges"] == [[2, 2], [8, 8]]


def test_without_a_base_nothing_is_declared(gateway: Gateway) -> None:
    done = gateway.take(reading(8))
    assert gateway.ledger() == []
    assert receipt(done)["ranges"] == [[8, 8]]


def test_a_devices_ledger_record_steps_over_its_gap(gateway: Gateway) -> None:
    gateway.take(reading(1))
    data = {"device": "cam-1", "epoch": EPOCH, "from": 2, "to": 4, "disposition": "lost", "reason": "page corrupt"}
    record = arrive("ledger", events.encode_json(event(events.LEDGER, 5, data, None, "ledger", EPOCH)))
    done = gateway.take(record)
    assert receipt(done)["ranges"] == [[1, 5]]
    assert gateway.ledger() == [(EPOCH, 2, 4, "lost")]
    assert [row.lane for row in gateway.rows()][-1] is Lane.RESULT


def test_a_ledger_record_of_an_older_epoch_gets_that_epochs_receipt(gateway: Gateway) -> None:
    data = {"device": "cam-1", "epoch": "oldepoch", "from": 1, "to": 3, "disposition": "lost", "reason": "set back"}
    record = arrive("ledger", events.encode_json(event(events.LEDGER, 1, data, None, "ledger", EPOCH)))
    done = gateway.take(record)
    assert receipt(done, epoch="oldepoch")["ranges"] == [[1, 3]]
    assert receipt(done)["ranges"] == [[1, 1]]


# --- what cannot be believed


def test_poison_with_a_key_is_receipted_and_buried_in_words(gateway: Gateway) -> None:
    done = gateway.take(Malformed("millrace/device/cam-1/reading/belt", b"{", "no JSON", "cam-1", reading(2).event.key))
    assert receipt(done)["ranges"] == [[2, 2]]
    assert gateway.ledger() == [(EPOCH, 2, 2, "buried")]
    assert gateway.quarantined() == [("millrace/device/cam-1/reading/belt", "no JSON", b"{")]
    again = gateway.take(Malformed("t", b"{", "no JSON", "cam-1", reading(2).event.key))
    assert receipt(again)["ranges"] == [[2, 2]]
    assert len(gateway.ledger()) == 1


def test_poison_without_a_key_is_counted_and_nothing_else(gateway: Gateway) -> None:
    done = gateway.take(Malformed("millrace/device/cam-1/reading/belt", b"{", "no JSON", "cam-1"))
    assert (done.results, done.receipts, gateway.rows()) == ([], {}, [])
    assert gateway.count("millrace_events_quarantined_total") == 1


@pytest.mark.parametrize("made", [frame(1, malformed="cut short"), answered(bare(), malformed="cut short")])
def test_a_picture_that_cannot_be_decoded_is_buried_and_receipted(gateway: Gateway, made: Arrived) -> None:
    done = gateway.take(made)
    assert done.results == []
    ((_, reply),) = done.replies
    assert isinstance(reply, NotAnswered)
    assert [(first, last, why) for _, first, last, why in gateway.ledger()] == [(1, 1, "buried")]
    assert len(gateway.quarantined()) == 1
    if made.event is not None:
        assert receipt(done)["ranges"] == [[1, 1]]


def test_the_quarantine_keeps_the_last_few_and_no_payload_in_full(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "state", {"store": {"quarantine_rows": 3}})
    for number in range(10):
        gateway.take(Malformed(f"t{number}", b"x" * 200_000, "no JSON"))
    assert [topic for topic, _, _ in gateway.quarantined()] == ["t7", "t8", "t9"]
    assert {len(payload) for _, _, payload in gateway.quarantined()} == {65536}
    assert gateway.count("millrace_events_quarantined_total") == 10
    gateway.store.close()


# --- bare events


def test_bare_frames_get_keys_without_gaps(gateway: Gateway) -> None:
    gateway.take(bare(0), bare(1))
    done = gateway.take(bare(2, channel="side"), arrive("reading/belt", b'{"a": 1}', "esp32-7"))
    own = gateway.store.outbox.epoch
    assert subjects(done) == [f"esp32-7/side/{own}-3"]
    assert (done.receipts, gateway.store.stream("esp32-7", own).watermark) == ({}, 4)
    (kept,) = gateway.rows(Lane.BULK)
    assert json.loads(kept.body)["id"] == f"{own}-4"
    assert json.loads(kept.body)["source"] == "/millrace/device/esp32-7/belt"


def test_a_gateway_that_has_said_less_than_a_bare_device_is_not_damaged(gateway: Gateway) -> None:
    own = gateway.store.outbox.epoch
    for number in range(1, 4):
        gateway.take(arrive("reading/belt", b'{"temperature_c": %d}' % number, "esp32-7"))
        gateway.reopen()
    assert [(row.epoch, row.seq) for row in gateway.rows()] == [(own, 1), (own, 2), (own, 3)]
    assert gateway.store.outbox.epoch == own


def test_the_keys_of_bare_frames_go_on_after_a_restart(gateway: Gateway) -> None:
    gateway.take(bare(0))
    gateway.reopen()
    assert subjects(gateway.take(bare(1))) == [f"esp32-7/top/{gateway.store.outbox.epoch}-2"]


@pytest.mark.parametrize("restart", [False, True])
def test_a_bare_frame_that_comes_again_has_the_key_it_had(gateway: Gateway, restart: bool) -> None:
    first = gateway.take(bare(0))
    gateway.take(bare(1))
    if restart:
        gateway.reopen()
    again = gateway.take(bare(0, redelivered=True))
    assert again.results == first.results
    assert len(gateway.rows(Lane.RESULT)) == 2


def test_an_equal_picture_that_is_not_redelivered_is_another_event(gateway: Gateway) -> None:
    gateway.take(bare(0))
    own = gateway.store.outbox.epoch
    assert subjects(gateway.take(bare(0))) == [f"esp32-7/top/{own}-2"]


def test_a_redelivery_is_no_repeat_of_an_equal_event_on_another_topic(gateway: Gateway) -> None:
    """Two thermometers that read the same, and the broker redelivers what the second one said first."""
    gateway.take(arrive("reading/inlet", b'{"t": 20}', "esp32-7"))
    gateway.take(arrive("reading/outlet", b'{"t": 20}', "esp32-7", redelivered=True))
    sources = [json.loads(row.body)["source"] for row in gateway.rows(Lane.BULK)]
    assert sources == ["/millrace/device/esp32-7/inlet", "/millrace/device/esp32-7/outlet"]
    gateway.take(arrive("reading/outlet", b'{"t": 20}', "esp32-7", redelivered=True))
    assert len(gateway.rows(Lane.BULK)) == 2


# --- policies


@pytest.mark.parametrize(
    ("policy", "answer", "lane"),
    [
        ({"frames": "none", "keep_frames": "none"}, DEFECT, None),
        ({"frames": "none", "keep_frames": "all"}, SURE, Lane.LOCAL),
        ({"frames": "none"}, DEFECT, Lane.LOCAL),
        ({"frames": "none"}, SURE, None),
        ({"frames": "escalated"}, UNSURE, Lane.FRAME),
        ({"frames": "escalated"}, SURE, None),
        ({"frames": "escalated"}, DEFECT, Lane.LOCAL),
        ({"frames": "defects"}, DEFECT, Lane.FRAME),
        ({"frames": "defects"}, UNSURE, None),
        ({"frames": "sample", "sample_ratio": 1.0}, SURE, Lane.FRAME),
        ({"frames": "sample", "sample_ratio": 0.0}, SURE, None),
        ({"frames": "all"}, SURE, Lane.FRAME),
        ({"frames": "all", "keep_frames": "none"}, SURE, Lane.FRAME),
    ],
)
def test_the_policy_says_which_frames_go_up_which_stay_and_which_go(
    tmp_path: Path, policy: dict[str, Any], answer: tuple[str, float, bool], lane: Lane | None
) -> None:
    gateway = Gateway(tmp_path / "state", {"policies": [policy]})
    gateway.take(frame(1, answer, picture=3))
    assert len(gateway.rows(Lane.RESULT)) == 1
    kept = [row for row in gateway.rows() if row.lane is not Lane.RESULT]
    assert [row.lane for row in kept] == ([] if lane is None else [lane])
    assert gateway.pictures() == ({images.digest(PICTURES[3])} if kept else set())
    if kept:
        assert kept[0].blob is not None
        assert gateway.store.blobs.get(kept[0].blob) == PICTURES[3]
    gateway.store.close()


@pytest.mark.parametrize(
    ("policy", "declared", "lanes"),
    [
        ({"frames": "all"}, [], [Lane.FRAME]),
        ({"keep_frames": "all"}, [(EPOCH, 1, 1, "local")], [Lane.LOCAL, Lane.RESULT]),
        ({}, [(EPOCH, 1, 1, "shed")], [Lane.RESULT]),
    ],
)
def test_a_frame_that_no_model_serves_is_accounted_for(
    tmp_path: Path, policy: dict[str, Any], declared: list[Any], lanes: list[Lane]
) -> None:
    gateway = Gateway(tmp_path / "state", {"policies": [policy]})
    done = gateway.take(frame(1))
    assert receipt(done)["ranges"] == [[1, 1]]
    assert (gateway.ledger(), [row.lane for row in gateway.rows()]) == (declared, lanes)
    gateway.store.close()


def test_readings_that_stay_here_are_declared_local(tmp_path: Path) -> None:
    policies = [{"channels": "*/belt", "readings": "none"}]
    gateway = Gateway(tmp_path / "state", {"policies": policies})
    gateway.take(reading(1), reading(2), reading(3, channel="oven"))
    assert [row.lane for row in gateway.rows()] == [Lane.LOCAL, Lane.LOCAL, Lane.BULK, Lane.RESULT]
    assert gateway.ledger() == [(EPOCH, 1, 2, "local")]
    gateway.store.close()


# --- a full store


def test_a_full_gateway_takes_nothing_new_and_shuts_the_window(full: Gateway) -> None:
    done = full.take(reading(2), frame(3, SURE))
    assert receipt(done) == {"gateway": "g1", "epoch": EPOCH, "ranges": [[1, 1]], "window_bytes": 0} | CLOCK
    assert len(full.rows()) == 1
    assert full.count("millrace_events_withheld_total", device="cam-1") == 2
    assert full.ledger() == []


def test_a_full_gateway_still_answers_repeats(full: Gateway) -> None:
    assert receipt(full.take(reading(1)))["ranges"] == [[1, 1]]
    assert full.count("millrace_events_deduplicated_total", device="cam-1") == 1


def test_a_full_gateway_commits_an_alarm(full: Gateway) -> None:
    full.take(reading(1, value=99.0))
    assert [alarm["alarm"] for alarm in full.said(events.ALARM)] == ["key_conflict"]


def test_a_full_gateway_sheds_what_nobody_holds_and_says_so(full: Gateway) -> None:
    done = full.take(bare(0), bare(1), bare(2, device="esp32-8"))
    assert full.ledger() == []
    full.take()
    own = full.store.outbox.epoch
    assert sorted(full.ledger()) == [(own, 1, 1, "shed"), (own, 1, 2, "shed")]
    assert (done.results, full.count("millrace_events_shed_total")) == ([], 3)
    assert {type(reply) for _, reply in done.replies} == {NoRoomNow}


def test_what_was_withheld_is_taken_once_there_is_room(full: Gateway) -> None:
    full.take(reading(2))
    assert full.committer.reopened() == []
    full.clock.seconds += 5
    full.store.purge(uplink=False, retention_s=0, retention_bytes=1, uptime_s=full.clock.seconds)
    assert not full.store.full
    (told,) = full.committer.reopened()
    assert json.loads(told.payload)["window_bytes"] > 0
    assert full.committer.reopened() == []
    assert receipt(full.take(reading(2)))["ranges"] == [[1, 2]]


@pytest.mark.parametrize(("frames", "declared"), [("all", [(EPOCH, 2, 2, "shed")]), ("none", [])])
def test_above_the_high_water_the_result_is_kept_and_the_frame_is_not(
    tmp_path: Path, frames: str, declared: list[Any]
) -> None:
    store = {"max_bytes": 1_000_000, "high_water_ratio": 0.0008}
    gateway = Gateway(tmp_path / "state", {"store": store, "policies": [{"frames": frames, "keep_frames": "all"}]})
    gateway.take(frame(1, SURE, picture=1))
    before = gateway.pictures()
    assert (len(before), gateway.store.full) == (1, False)
    done = gateway.take(frame(2, SURE, picture=2))
    assert subjects(done) == [f"cam-1/top/{EPOCH}-2"]
    assert (gateway.pictures(), gateway.ledger()) == (before, declared)
    assert gateway.count("millrace_frames_dropped_total") == 1
    gateway.store.close()


# --- a disk that refuses


class no_room:  # noqa: N801  (reads as a phrase where it is used)
    """Inside, the database may not grow by a page, as on a full disk."""

    def __init__(self, gateway: Gateway) -> None:
        self._connection = gateway.store.outbox.connection

    def __enter__(self) -> None:
        (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
        self._connection.execute(f"PRAGMA max_page_count = {pages}")

    def __exit__(self, *_: object) -> None:
        self._connection.execute("PRAGMA max_page_count = 1000000000")


def test_a_commit_that_the_disk_refuses_leaves_nothing_and_succeeds_later(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "state", {"policies": [{"frames": "all"}]})
    gateway.take(reading(1))
    before = (gateway.rows(), gateway.pictures(), gateway.store.outbox.next_seq, gateway.store.outbox.held_bytes)
    batch = [frame(2, SURE, picture=1), bare(2), Malformed("t", b"x" * 60_000, "poison", "cam-1", reading(7).event.key)]
    with no_room(gateway), pytest.raises(StorageFailed):
        gateway.take(*batch)
    after = (gateway.rows(), gateway.pictures(), gateway.store.outbox.next_seq, gateway.store.outbox.held_bytes)
    assert after == before
    assert gateway.quarantined() == []
    assert receipt(gateway.take(reading(1)))["ranges"] == [[1, 1]]
    assert gateway.count("millrace_events_quarantined_total") == 0
    assert gateway.count("millrace_storage_failures_total") == 1
    done = gateway.take(*batch)
    assert receipt(done)["ranges"] == [[1, 2], [7, 7]]
    own = gateway.store.outbox.epoch
    assert subjects(done) == [f"cam-1/top/{EPOCH}-2", f"esp32-7/top/{own}-1"]
    assert len(gateway.pictures()) == 2
    gateway.store.close()


class Floor(Connection):
    """A connection that stands and notes what is published."""

    def __init__(self, settings: GatewaySettings) -> None:
        will = Will("millrace/gateway/g1/status", b"{}")
        super().__init__(
            settings.broker, "g1", will, [], persistent=True, max_payload_bytes=1 << 20, inbox=Inbox(1 << 20)
        )
        self.said: list[tuple[str, bytes, bool]] = []

    @property
    def connected(self) -> bool:
        return True

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, **_: Any) -> bool:
        self.said.append((topic, payload, retain))
        return True


def settled_by_a_writer(gateway: Gateway, *batch: Finished) -> Floor:
    """Have a writer acknowledge all of a batch and end; return what it said."""
    line, floor, acknowledged = Line(len(batch)), Floor(gateway.loaded), threading.Semaphore(0)
    for item in batch:
        assert line.offer([Item(item, acknowledged.release)], 1.0)
    writer = Writer(gateway.loaded, line, gateway.store, gateway.committer, floor, gateway.metrics, gateway.clock)
    thread = threading.Thread(target=writer.run)
    thread.start()
    for _ in batch:
        assert acknowledged.acquire(timeout=60)
    writer.interrupt()
    thread.join(60)
    return floor


def test_a_damaged_folder_of_pictures_holds_nobody_and_nothing_of_it_goes_in_silence(tmp_path: Path) -> None:
    """What was stored before stays too: room is not what the disk lacks."""
    gateway = Gateway(tmp_path / "state", {"policies": [{"keep_frames": "all"}], "uplink": "none"})
    gateway.take(*(reading(seq) for seq in range(1, 11)))
    folder = gateway.store.blobs.path(images.digest(PICTURES[0])).parent
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("damaged")
    floor = settled_by_a_writer(gateway, frame(11, SURE), bare(0), reading(12), reading(13))
    own = gateway.store.outbox.epoch
    assert [row.seq for row in gateway.rows(Lane.BULK)] == [*range(1, 11), 12, 13]
    assert gateway.ledger() == [(own, 1, 1, "shed")]
    receipts = [json.loads(payload)["ranges"] for topic, payload, _ in floor.said if topic.endswith("cam-1/receipt")]
    assert receipts[-1] == [[1, 10], [12, 13]]
    assert {(alarm["alarm"], alarm["device"]) for alarm in gateway.said(events.ALARM)} == {
        ("event_refused", "cam-1"),
        ("event_refused", "esp32-7"),
    }
    folder.unlink()
    assert receipt(gateway.take(frame(11, SURE)))["ranges"] == [[1, 13]]
    assert subjects(gateway.take(bare(0))) == [f"esp32-7/top/{own}-2"]
    gateway.store.close()


@pytest.mark.parametrize("answers", [(SURE,), ()], ids=["with a result", "without"])
@pytest.mark.parametrize("policy", [{"frames": "all"}, {"keep_frames": "all"}], ids=["goes up", "stays here"])
def test_a_frame_whose_folder_refuses_its_picture_waits_and_is_at_last_taken_without_it(
    tmp_path: Path, policy: dict[str, str], answers: tuple[tuple[str, float, bool], ...]
) -> None:
    gateway = Gateway(tmp_path / "state", {"policies": [policy], "limits": {"ahead_ranges": 2}})
    folder = gateway.store.blobs.path(images.digest(PICTURES[0])).parent
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("damaged")
    until_s = gateway.clock.seconds + PATIENCE_S
    while gateway.clock.seconds < until_s:
        with pytest.raises(BadFolder):
            gateway.take(frame(1, *answers))
        assert receipt(gateway.take(frame(2, *answers, picture=1), reading(4), reading(6)))["ranges"] == [
            [2, 2],
            [4, 4],
        ]
        gateway.clock.seconds += 60
    done = gateway.take(frame(1, *answers), reading(3), reading(5), reading(6))
    assert receipt(done)["ranges"] == [[1, 6]]
    refused = f"the picture could not be stored: {folder}: File exists"
    assert [data["reason"] for data in gateway.said(events.LEDGER) if data["from"] == 1] == [refused]
    assert (EPOCH, 1, 1, "shed") in gateway.ledger()
    assert [row.seq for row in gateway.rows(Lane.FRAME if "frames" in policy else Lane.LOCAL)] == [2]
    assert [data["alarm"] for data in gateway.said(events.ALARM)] == ["picture_refused"]
    assert gateway.store.bad_folders.said(gateway.clock.uptime_s()) == [f"{folder}: File exists"]
    assert subjects(gateway.take(frame(1, *answers))) == [f"cam-1/top/{EPOCH}-1" for _ in answers]
    folder.unlink()
    gateway.take(frame(7, *answers))
    assert gateway.store.bad_folders.said(gateway.clock.uptime_s()) == []
    assert gateway.store.blobs.get(images.digest(PICTURES[0])) == PICTURES[0]
    gateway.store.close()


def test_a_disk_that_is_only_full_gives_no_picture_up(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "state", {"policies": [{"frames": "all"}]})
    gateway.take(frame(1, SURE))
    folder = gateway.store.blobs.path(images.digest(PICTURES[0])).parent
    with calls_fail("fsync", "ENOSPC", folder):
        for _ in range(20):
            with pytest.raises(NoRoom):
                gateway.take(frame(2, SURE))
            gateway.clock.seconds += PATIENCE_S / 10
    assert receipt(gateway.take(frame(2, SURE)))["ranges"] == [[1, 2]]
    assert gateway.ledger() == []
    gateway.store.close()


def test_what_is_given_up_is_declared_before_it_is_acknowledged(gateway: Gateway) -> None:
    ((_, reply),) = gateway.committer.withhold(bare(0), "Input/output error").replies
    assert isinstance(reply, NotAnswered)
    gateway.reopen()  # as after a kill: nothing of it was in memory alone
    assert gateway.ledger() == [(gateway.store.outbox.epoch, 1, 1, "shed")]


def test_an_event_is_withheld_only_by_a_disk_that_takes_something(gateway: Gateway) -> None:
    gateway.take(reading(1))
    for item in (reading(2), bare(0), DeviceStatus("cam-1", online=True, epoch=EPOCH, minted=9)):
        gateway.committer.withhold(item, "Input/output error")
        with calls_fail("pwrite64", "EIO", gateway.folder / "gateway.db-wal"), pytest.raises(StorageFailed):
            gateway.committer.withhold(item, "Input/output error")
    assert receipt(gateway.take(reading(1)))["ranges"] == [[1, 1]]


# --- keeping house


def settle(gateway: Gateway, lane: Lane, first: int, last: int, epoch: str | None = None) -> None:
    """Write what a sync worker would have settled."""
    with sqlite3.connect(gateway.folder / "sync.db") as connection:
        if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            connection.executescript(SYNC_SCHEMA)
        values = (epoch or gateway.store.outbox.epoch, int(lane), first, last)
        connection.execute("INSERT INTO settled VALUES (?, ?, ?, ?)", values)
    connection.close()


def purge(gateway: Gateway, retention_s: float = 0.0, retention_bytes: int = 1 << 40) -> bool:
    gateway.clock.seconds += 10
    return gateway.store.purge(True, retention_s, retention_bytes, gateway.clock.seconds)


def test_only_what_the_cloud_has_or_need_not_have_is_purged(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "state", {"policies": [{"frames": "all"}]})
    gateway.take(frame(1, SURE, picture=1), frame(2, SURE, picture=2))
    lanes = [(row.position, row.lane) for row in gateway.rows()]
    assert lanes == [(1, Lane.RESULT), (2, Lane.FRAME), (3, Lane.RESULT), (4, Lane.FRAME)]
    purge(gateway)
    assert len(gateway.rows()) == 4
    settle(gateway, Lane.FRAME, 1, 2)
    settle(gateway, Lane.RESULT, 3, 3)
    settle(gateway, Lane.RESULT, 1, 1, epoch="otherone")
    purge(gateway)
    assert [row.position for row in gateway.rows()] == [1, 4]
    assert gateway.pictures() == {images.digest(PICTURES[2])}
    gateway.store.close()


def test_what_is_settled_stays_for_the_retention(gateway: Gateway) -> None:
    gateway.take(reading(1))
    settle(gateway, Lane.BULK, 1, 1)
    purge(gateway, retention_s=60)
    assert len(gateway.rows()) == 1
    gateway.clock.seconds += 60
    purge(gateway, retention_s=60)
    assert gateway.rows() == []


def test_over_its_bytes_a_store_drops_the_oldest_settled_and_no_more_than_it_must(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "state", {"policies": [{"frames": "all"}]})
    for seq in range(1, 9):
        gateway.take(frame(seq, picture=seq))
    settle(gateway, Lane.FRAME, 1, 8)
    held = gateway.store.outbox.held_bytes
    purge(gateway, retention_s=1e6, retention_bytes=held - 1)
    assert [row.position for row in gateway.rows()] == [2, 3, 4, 5, 6, 7, 8]
    gateway.store.close()


def test_a_store_smaller_than_its_retention_does_not_stay_full_of_settled_rows(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "state", {"store": {"max_bytes": 4000}})
    seq = 0
    while not gateway.store.full:
        seq += 1
        gateway.take(reading(seq))
    settle(gateway, Lane.BULK, 1, seq)
    purge(gateway, retention_s=1e6, retention_bytes=1 << 40)
    assert 2000 < gateway.store.outbox.held_bytes <= 3600
    gateway.store.close()


@pytest.mark.parametrize("born_s", [1 << 40, "damage"])
def test_a_row_whose_age_is_damaged_does_not_keep_those_behind_it_from_being_purged(
    tmp_path: Path, born_s: int | str
) -> None:
    gateway = Gateway(tmp_path / "state")
    gateway.take(*(reading(seq) for seq in range(1, 6)))
    gateway.store.outbox.connection.execute("UPDATE entry SET born_s = ? WHERE seq = 2", (born_s,))
    settle(gateway, Lane.BULK, 1, 5)
    gateway.clock.seconds += 60
    purge(gateway, retention_s=60)
    assert gateway.rows() == []
    gateway.store.close()


def test_a_long_backlog_is_purged_slice_by_slice_and_says_when_more_is_due(gateway: Gateway) -> None:
    count = PURGE_ROWS * 2 + 10
    gateway.take(*(reading(seq) for seq in range(1, count + 1)))
    settle(gateway, Lane.BULK, 1, count)
    assert [purge(gateway) for _ in range(3)] == [True, True, False]
    assert gateway.rows() == []


def test_on_a_full_disk_what_is_settled_makes_room_and_the_line_goes_on(gateway: Gateway) -> None:
    gateway.take(*(reading(seq) for seq in range(1, 301)))
    settle(gateway, Lane.BULK, 1, 300)
    connection = gateway.store.outbox.connection
    connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0]}")
    settled_by_a_writer(gateway, Malformed("millrace/device/cam-1/frame/top", bytes(60_000), "no picture"))
    assert gateway.rows() == []


def test_what_was_sent_ahead_does_not_hide_the_backlog(gateway: Gateway) -> None:
    gateway.take(*(reading(seq) for seq in range(1, 11)))
    settle(gateway, Lane.BULK, 1, 2)
    settle(gateway, Lane.BULK, 9, 10)
    assert Uplink(gateway.loaded, gateway.clock).facts()["backlog"]["bulk"] == 8


# --- a restart


def test_a_worker_that_shows_no_life_leaves_no_link_up(gateway: Gateway) -> None:
    settle(gateway, Lane.BULK, 1, 1)
    sync = gateway.folder / "sync.db"
    with sqlite3.connect(sync) as account:
        account.execute("UPDATE link SET state = 'up'")
    account.close()
    life_file(sync).touch()
    uplink = Uplink(gateway.loaded, gateway.clock)
    assert uplink.link() == {"link": "up", "link_said": ""}
    gateway.clock.seconds += SILENT_AFTER_S + 5
    assert uplink.facts()["link"] == "unknown"
    assert uplink.link()["link_said"].startswith("sync worker silent for 185 s")
    os.utime(life_file(sync), ns=(1, 1))  # a clock that was set back is a sign of life too
    assert uplink.link()["link"] == "up"


def republished(gateway: Gateway) -> list[tuple[str, bytes, bool]]:
    """Let a writer run for a moment and return what it said."""
    floor = Floor(gateway.loaded)
    writer = Writer(gateway.loaded, Line(4), gateway.store, gateway.committer, floor, gateway.metrics, gateway.clock)
    writer.beat.beat = writer.interrupt  # type: ignore[method-assign]  # one pass of its loop
    thread = threading.Thread(target=writer.run)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    return floor.said


def test_a_restart_says_again_what_was_committed_and_perhaps_never_said(gateway: Gateway) -> None:
    said = gateway.take(frame(1, SURE), bare(1))
    gateway.store.mark_published(said.last_position)
    unsaid = gateway.take(frame(2, SURE), frame(1, DEFECT, picture=4), reading(3))
    gateway.reopen()
    expected = [m for m in unsaid.results if m not in said.results]  # the repeated answer is an old row
    assert len(expected) == 2
    assert republished(gateway) == [(m.topic, m.payload, m.retain) for m in expected]
    gateway.take(reading(4))
    gateway.reopen()
    assert republished(gateway) == []


def test_a_flipped_bit_in_how_far_results_were_said_leaves_none_unsaid(gateway: Gateway) -> None:
    said = gateway.take(frame(1, SURE))
    gateway.store.mark_published(said.last_position)
    unsaid = gateway.take(frame(2, SURE))
    assert gateway.store.outbox.note("published") == str(said.last_position) == "1"
    gateway.store.outbox.connection.execute("UPDATE meta SET value = '5' WHERE key = 'published'")
    gateway.reopen()
    assert {(m.topic, m.payload, m.retain) for m in unsaid.results} <= set(republished(gateway))


def test_a_database_that_was_set_back_begins_a_new_epoch(gateway: Gateway) -> None:
    gateway.take(reading(1))
    old = gateway.store.outbox.epoch
    settle(gateway, Lane.BULK, 1, 99)
    gateway.reopen()
    assert gateway.store.outbox.epoch != old
    purge(gateway)
    assert len(gateway.rows()) == 1


# Damage


def zero_page_of(gateway: Gateway, table: str) -> None:
    """Close the gateway, zero a table's first page, and open it again."""
    gateway.store.close()
    file = gateway.folder / "gateway.db"
    with sqlite3.connect(file) as look:
        (root,) = look.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    look.close()
    with file.open("r+b") as spoil:
        spoil.seek((root - 1) * 4096)
        spoil.write(bytes(4096))
    gateway.open()


@pytest.mark.parametrize(
    "table", ["stream", "answer", "taken", "quarantine", "minted", "own_epoch", "counter", "meta", "tie", "declared"]
)
def test_after_damage_nothing_is_taken_twice_and_nothing_new_for_a_repeat(gateway: Gateway, table: str) -> None:
    gateway.take(frame(1, SURE), frame(2, UNSURE, picture=1), reading(3))
    gateway.take(reading(5))
    old, before = gateway.store.outbox.epoch, [(row.epoch, row.seq, row.position) for row in gateway.rows()]
    zero_page_of(gateway, table)
    assert gateway.store.outbox.epoch != old
    assert [(row.epoch, row.seq, row.position) for row in gateway.rows()][: len(before)] == before
    results = gateway.said(events.RESULT)
    done = gateway.take(frame(1, SURE), frame(2, UNSURE, picture=1), reading(3), reading(5))
    assert gateway.said(events.RESULT) == results
    assert gateway.count("millrace_events_deduplicated_total", device="cam-1") == 4
    assert gateway.count("millrace_key_conflicts_total") == 0
    assert receipt(done)["ranges"] == [[1, 3], [5, 5]]
    taken = len(gateway.rows())
    gateway.take(reading(4))
    assert [row.seq for row in gateway.rows()[taken:]] == [4]
    assert not [record for record in gateway.ledger() if record[0] == EPOCH]


@pytest.mark.parametrize(
    "flipped",
    [
        "UPDATE stream SET ahead = '[[4, 4Y]'",
        "UPDATE stream SET ahead = '[[4, 1e999]]'",
        "UPDATE stream SET watermark = 'r'",
        "INSERT INTO declared SELECT no, '[[2' FROM stream",
        "UPDATE meta SET value = '1r' WHERE key = 'published'",
    ],
)
def test_what_damage_made_unreadable_keeps_no_gateway_from_starting(gateway: Gateway, flipped: str) -> None:
    gateway.take(frame(1, SURE), reading(2), reading(4))
    gateway.store.outbox.connection.execute(flipped)
    gateway.reopen()
    done = gateway.take(frame(1, SURE), reading(2), reading(3), reading(4))
    assert receipt(done)["ranges"] == [[1, 4]]
    assert gateway.count("millrace_events_deduplicated_total", device="cam-1") == 3


@pytest.mark.parametrize("bit", [0, 1, 2, 5, 20, 40])
def test_a_watermark_with_a_flipped_bit_is_found_out_by_its_rows(gateway: Gateway, bit: int) -> None:
    """Raised, it would give receipts for what never came; lowered, it would take again what did."""
    gateway.take(*(reading(seq) for seq in range(1, 7)))
    gateway.store.outbox.connection.execute(
        "UPDATE stream SET watermark = (watermark | ?1) - (watermark & ?1)", (1 << bit,)
    )
    gateway.reopen()
    taken = len(gateway.rows())
    assert receipt(gateway.take(reading(6), reading(8)))["ranges"] == [[1, 6], [8, 8]]
    assert [row.seq for row in gateway.rows()[taken:]] == [8]
    gateway.reopen()
    assert receipt(gateway.take(reading(7)))["ranges"] == [[1, 8]]


@pytest.mark.parametrize(
    "flipped",
    [
        "no = no + 4",
        "epoch = replace(epoch, 'k', 'c')",
        "device = replace(device, '1', '3')",
        "ahead = replace(ahead, '4', '5')",
    ],
)
def test_what_a_flipped_bit_says_of_a_stream_gives_no_receipt(gateway: Gateway, flipped: str) -> None:
    gateway.take(reading(1), reading(4))
    stream = gateway.store.streams()[0]
    with gateway.store.outbox.transaction():
        stream.declare(2, 2)
        gateway.store.save_stream(stream)
    gateway.store.outbox.connection.execute(f"UPDATE stream SET {flipped}")
    gateway.reopen()
    done = gateway.take(reading(1), reading(4))
    assert receipt(done)["ranges"] == [[1, 1], [4, 4]]
    assert gateway.count("millrace_events_deduplicated_total", device="cam-1") == 2
    assert len(gateway.store.streams()) == 1


def test_rows_that_are_lost_are_declared_for_the_gateway_and_its_devices(gateway: Gateway) -> None:
    gateway.take(frame(1, SURE), reading(2), reading(3))
    old = gateway.store.outbox.epoch
    zero_page_of(gateway, "entry")
    declared = gateway.ledger()
    assert (EPOCH, 1, 3, "unproven") in declared
    assert next(last for epoch, first, last, how in declared if (epoch, first, how) == (old, 1, "unproven")) >= 1
    gateway.reopen()
    assert gateway.ledger() == declared


# --- bounds against one bad device


def bounded(tmp_path: Path, **limits: int) -> Gateway:
    return Gateway(tmp_path / "state", {"limits": limits})


def tables(gateway: Gateway) -> dict[str, int]:
    connection = gateway.store.outbox.connection
    return {
        name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
        for name in ("stream", "minted", "quarantine")
    } | {"answer": remembered(connection)}


def remembered(connection: sqlite3.Connection) -> int:
    """Return of how many events it is known what they were."""
    ((answers, marks),) = connection.execute(
        "SELECT (SELECT count(*) FROM answer), (SELECT coalesce(sum(length(marks)), 0) FROM taken)"
    )
    return int(answers + marks // MARK_BYTES)


def epoch_name(number: int) -> str:
    return f"e{number:07d}"


def test_a_device_that_invents_epochs_takes_no_more_room_and_an_alarm_names_it(tmp_path: Path) -> None:
    gateway = bounded(tmp_path, epochs_per_device=5)
    told: set[str] = set()
    for start in range(0, 3000, 250):
        batch: list[Finished] = []
        for number in range(start, start + 250):
            name = epoch_name(number)
            batch += [reading(1, epoch=name), DeviceStatus("cam-1", online=True, epoch=name, minted=number + 1)]
        done = gateway.take(*batch)
        told |= {epoch for device, epoch in done.receipts if receipt(done, device, epoch)["ranges"]}
    assert told == {epoch_name(number) for number in range(5)}
    assert tables(gateway) == {"stream": 5, "minted": 5, "answer": 5, "quarantine": 0}
    assert [data["alarm"] for data in gateway.said(events.ALARM)] == ["too_many_epochs"]
    assert gateway.count("millrace_events_crowded_out_total") == 2 * 2995
    assert receipt(gateway.take(reading(2, epoch=epoch_name(0))), epoch=epoch_name(0))["ranges"] == [[1, 2]]
    gateway.store.close()


def test_an_epoch_that_was_quiet_for_long_makes_room_and_what_it_owed_is_declared(tmp_path: Path) -> None:
    gateway = bounded(tmp_path, epochs_per_device=2)
    gateway.take(reading(1, epoch=epoch_name(0)), reading(3, epoch=epoch_name(0)))
    gateway.take(DeviceStatus("cam-1", online=True, epoch=epoch_name(0), minted=9))
    gateway.clock.seconds += 3000
    gateway.take(reading(1, epoch=epoch_name(1)))
    gateway.clock.seconds += 601
    done = gateway.take(reading(1, epoch=epoch_name(2)))
    assert receipt(done, epoch=epoch_name(2))["ranges"] == [[1, 1]]
    assert gateway.ledger() == [(epoch_name(0), 2, 2, "unproven"), (epoch_name(0), 4, 9, "unproven")]
    assert gateway.store.stream("cam-1", epoch_name(0)) is None
    assert tables(gateway)["minted"] == 0  # of the others the watermark tells it
    gateway.store.close()


def test_devices_beyond_the_bound_are_not_taken_and_the_known_go_on(tmp_path: Path) -> None:
    gateway = bounded(tmp_path, devices=3)
    gateway.take(reading(1))
    for start in range(0, 2000, 250):
        batch: list[Finished] = []
        for name in (f"invented-{number}" for number in range(start, start + 250)):
            batch += [bare(0, device=name), DeviceStatus(name, online=True, epoch=EPOCH, minted=5)]
        gateway.take(*batch)
    assert (tables(gateway)["stream"], tables(gateway)["minted"]) == (5, 2)
    assert [data["alarm"] for data in gateway.said(events.ALARM)] == ["too_many_devices"]
    assert receipt(gateway.take(reading(2)))["ranges"] == [[1, 2]]
    gateway.store.close()


def test_a_stream_full_of_holes_takes_nothing_new_ahead_until_a_hole_is_filled(tmp_path: Path) -> None:
    gateway = bounded(tmp_path, ahead_ranges=10)
    done = gateway.take(*(reading(seq) for seq in range(2, 4000, 2)))
    assert receipt(done)["ranges"] == [[seq, seq] for seq in range(2, 22, 2)]
    assert gateway.count("millrace_events_withheld_total", device="cam-1") == 1999 - 10
    assert receipt(gateway.take(reading(1), reading(3), reading(22)))["ranges"][0] == [1, 4]
    moved = gateway.take(reading(4001, base=4001))
    assert receipt(moved)["ranges"] == [[1, 4], *([seq, seq] for seq in range(6, 24, 2)), [4001, 4001]]
    stream = gateway.store.stream("cam-1", EPOCH)
    assert stream
    assert stream.watermark == 4001
    gateway.store.close()


def test_what_is_remembered_of_a_devices_events_is_bounded_whatever_its_numbers_are(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_gateway.store.ANSWERS_KEPT", 100)
    monkeypatch.setattr("edge_gateway.store.FORGET_EVERY", 50)
    for first in range(1, 2001, 500):
        gateway.take(*(reading(seq) for seq in range(first, first + 500) if seq % 1000))
    assert tables(gateway)["answer"] <= 150
