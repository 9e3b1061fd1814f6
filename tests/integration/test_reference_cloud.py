"""The reference cloud as gateways meet it: a real process, a real port, a real file, and SIGKILL."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import itertools
import json
import re
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import urllib3
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from integration.brokers import WAIT_S

from cloud_sync.reference_cloud.batch import read_batch
from cloud_sync.reference_cloud.ledger import Ledger
from millrace import events, topics
from millrace.clock import Instant
from millrace.database import PAGE_BYTES
from millrace.ranges import RangeSet

INSTANT = Instant(1_790_000_000_000_000_000, "f00d", 5)
EPOCH = "k3v9x0pa"
GATEWAY_EPOCH = "q8w2mm1c"
PICTURE = b"\xff\xd8 a picture \xff\xd9"
TOKENS = {"g1": "g1-token", "g2": "g2-token", "far": "far-token", "reader": "reader-token"}
SETTINGS = """
port: 0
state_dir: state
max_body_bytes: 300000
max_blob_bytes: 100000
silence_s: 2.0
gateways:
  - {site: plant-1, gateway: g1, token_file: g1}
  - {site: plant-1, gateway: g2, token_file: g2}
  - {site: plant-2, gateway: far, token_file: far}
readers:
  - {site: plant-1, token_file: reader}
"""


class Cloud:
    """The program `millrace cloud` in a folder of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "cloud.yaml").write_text(SETTINGS)
        for name, token in TOKENS.items():
            (home / name).touch(mode=0o600)
            (home / name).write_text(token)
        self.pool = urllib3.PoolManager(retries=False, timeout=WAIT_S)
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command(), stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        ready = re.fullmatch(r"cloud ready url=(http://127\.0\.0\.1:(\d+))\n", self.process.stdout.readline())
        assert ready is not None
        self.url, self.port = ready[1], int(ready[2])

    def command(self) -> list[str]:
        return [sys.executable, "-m", "millrace", "cloud", "--config", str(self.home / "cloud.yaml")]

    def stop(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        status = self.process.wait(WAIT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.pool.clear()
        return status

    def ask(
        self, method: str, path: str, who: str = "g1", body: bytes | None = None, **headers: str
    ) -> urllib3.BaseHTTPResponse:
        wanted = {"Authorization": f"Bearer {TOKENS.get(who, who)}"}
        wanted |= {name.replace("_", "-"): value for name, value in headers.items()}
        return self.pool.request(method, self.url + path, body=body, headers=wanted)

    def get(self, path: str, who: str = "g1") -> Any:
        answer = self.ask("GET", path, who)
        assert answer.status == 200, answer.data
        return answer.json()

    def send(self, *rows: dict[str, Any], who: str = "g1", minted: dict[str, dict[str, int]] | None = None) -> Any:
        answer = self.ask("POST", "/v1/ingest", who, batch_of(rows, minted))
        assert answer.status == 200, answer.data
        return answer.json()


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    running = Cloud(tmp_path)
    yield running
    if running.process.poll() is None:
        running.stop(signal.SIGTERM)


def tally(answer: dict[str, Any]) -> dict[str, Any]:
    """Return what an answer says of its batch, without the cloud's clock."""
    return {name: value for name, value in answer.items() if name != "clock"}


def batch_of(rows: Sequence[dict[str, Any]], minted: dict[str, dict[str, int]] | None = None) -> bytes:
    return json.dumps({"batch": "b1", "events": rows, "minted": minted or {}}).encode()


def event(
    type_: str, source: str, seq: int, data: Any = None, subject: str | None = None, epoch: str = EPOCH
) -> dict[str, Any]:
    plain = None if type_ == events.FRAME else data
    made = events.new_event(type_, events.Key(source, epoch, seq), INSTANT, data=plain, subject=subject)
    return {**made.attributes(), "data": data}


def reading(seq: int, temperature_c: float = 41.2, device: str = "cam-1", epoch: str = EPOCH) -> dict[str, Any]:
    source = topics.device_source("millrace", device, "top")
    return event(events.READING, source, seq, {"temperature_c": temperature_c}, epoch=epoch)


def frame(seq: int, picture: bytes = PICTURE) -> dict[str, Any]:
    data = {"sha256": hashlib.sha256(picture).hexdigest(), "bytes": len(picture), "content_type": "image/jpeg"}
    return event(events.FRAME, topics.device_source("millrace", "cam-1", "top"), seq, data)


def result(seq: int, of: int, gateway: str = "g1") -> dict[str, Any]:
    subject = events.subject_of("cam-1", "top", f"{EPOCH}-{of}")
    source = topics.gateway_source("millrace", gateway)
    return event(events.RESULT, source, seq, {"label": "scratch", "score": 0.97}, subject, GATEWAY_EPOCH)


def ledger(seq: int, first: int, last: int, disposition: str, **about: str) -> dict[str, Any]:
    data = {"epoch": EPOCH, "from": first, "to": last, "disposition": disposition, "reason": "spool page corrupt"}
    source = topics.gateway_source("millrace", "g1")
    return event(events.LEDGER, source, seq, {**(about or {"device": "cam-1"}), **data}, epoch=GATEWAY_EPOCH)


def seqs(page: Any) -> list[int]:
    return [int(one["id"].split("-")[1]) for one in page["events"]]


def audit_of(cloud: Cloud, origin: str = "device/cam-1") -> Any:
    [finding] = cloud.get(f"/v1/audit?origin={origin}")["origins"]
    return finding


# --- who may come in


def test_health_needs_no_token_and_everything_else_does(cloud: Cloud) -> None:
    assert cloud.ask("GET", "/healthz", "nobody").json()["ok"] is True
    for method, path in (
        ("POST", "/v1/ingest"),
        ("GET", "/v1/audit"),
        ("GET", "/v1/events?origin=device/cam-1"),
        ("GET", "/v1/results"),
        ("GET", "/v1/origins"),
        ("PUT", "/v1/blobs/" + "0" * 64),
        ("GET", "/v1/blobs/" + "0" * 64),
    ):
        assert cloud.ask(method, path, "nobody").status == 401, path


def test_a_reader_reads_its_site_and_writes_nothing(cloud: Cloud) -> None:
    cloud.send(reading(1))
    assert seqs(cloud.get("/v1/events?origin=device/cam-1", "reader")) == [1]
    assert cloud.ask("POST", "/v1/ingest", "reader", batch_of([reading(2)])).status == 403
    assert cloud.ask("PUT", "/v1/blobs/" + "0" * 64, "reader", b"x").status == 403


def test_sites_with_the_same_device_names_never_meet(cloud: Cloud) -> None:
    digest = hashlib.sha256(PICTURE).hexdigest()
    cloud.ask("PUT", f"/v1/blobs/{digest}", body=PICTURE)
    cloud.send(reading(1, temperature_c=10))
    assert cloud.send(reading(1, temperature_c=20), who="far")["accepted"] == 1
    assert cloud.get("/v1/events?origin=device/cam-1", "far")["events"][0]["data"] == {"temperature_c": 20}
    assert cloud.get("/v1/audit", "far")["site"] == "plant-2"
    assert cloud.ask("HEAD", f"/v1/blobs/{digest}", "far").status == 404


def test_a_gateway_speaks_for_itself_alone(cloud: Cloud) -> None:
    answer = cloud.send(result(1, of=1, gateway="g2"), ledger(1, 1, 2, "lost", gateway="g2"))
    assert [one["index"] for one in answer["rejected"]] == [0, 1]
    assert cloud.ask("POST", "/v1/ingest", body=batch_of([], {"gateway/g2": {EPOCH: 9}})).status == 400
    assert cloud.send(result(1, of=1, gateway="g2"), who="g2")["accepted"] == 1


# --- what is taken, once


def test_the_same_batch_again_is_all_duplicates(cloud: Cloud) -> None:
    rows = [reading(seq) for seq in range(1, 6)]
    assert tally(cloud.send(*rows)) == {"batch": "b1", "accepted": 5, "duplicates": 0, "rejected": []}
    assert tally(cloud.send(*rows)) == {"batch": "b1", "accepted": 0, "duplicates": 5, "rejected": []}
    assert cloud.get("/v1/audit")["totals"] == {
        "held": 5,
        "declared": 0,
        "missing": 0,
        "unproven": 0,
        "duplicates_refused": 5,
        "conflicts": 0,
    }


def test_an_event_sent_again_with_a_later_base_is_a_duplicate_and_the_first_is_kept(cloud: Cloud) -> None:
    cloud.send({**reading(1), "base": "1"})
    assert cloud.send({**reading(1), "base": "7"})["duplicates"] == 1
    [stored] = cloud.get("/v1/events?origin=device/cam-1")["events"]
    assert stored.pop("arrived").endswith("Z")
    assert stored == {**reading(1), "base": "1"}


def test_the_same_key_with_other_content_is_refused_and_counted_never_overwritten(cloud: Cloud) -> None:
    cloud.send(reading(1, temperature_c=10))
    [refused] = cloud.send(reading(1, temperature_c=99), reading(2))["rejected"]
    assert refused["index"] == 0
    assert refused["reason"].startswith("conflict: ")
    page = cloud.get("/v1/events?origin=device/cam-1")
    assert [one["data"]["temperature_c"] for one in page["events"]] == [10, 41.2]
    assert cloud.get("/v1/audit")["totals"]["conflicts"] == 1


def test_poison_is_refused_by_index_and_its_neighbours_are_stored(cloud: Cloud) -> None:
    poison: list[Any] = [
        17,
        {**reading(2), "id": "no key"},
        {**reading(3), "data": {"a b": 1}},
        {**reading(4), "source": "/millrace/device/CAM 1/top"},
        {**result(5, of=1), "subject": "nothing"},
        ledger(6, 9, 3, "lost"),
        ledger(7, 1, 5_000_000_000_000_000_000, "lost"),
    ]
    answer = cloud.send(reading(1), *poison, reading(2))
    assert answer["accepted"] == 2
    assert [one["index"] for one in answer["rejected"]] == [1, 2, 3, 4, 5, 6, 7]
    assert all(one["reason"] for one in answer["rejected"])


def test_what_is_no_batch_is_refused_with_the_reason(cloud: Cloud) -> None:
    unfit = (
        b"",
        b"{",
        b"[]",
        b'{"batch": "b"}',
        b'{"batch": "", "events": []}',
        b'{"batch": "b", "events": [NaN]}',
        b"\xff",
    )
    for body in unfit:
        answer = cloud.ask("POST", "/v1/ingest", body=body)
        assert answer.status == 400, body
        assert answer.json()["error"]


@pytest.mark.parametrize(("encoding", "pack"), [("zstd", zstandard.compress), ("gzip", gzip.compress)])
def test_compressed_batches_are_read_and_bombs_are_refused(cloud: Cloud, encoding: str, pack: Any) -> None:
    good = cloud.ask("POST", "/v1/ingest", body=pack(batch_of([reading(1)])), content_encoding=encoding)
    assert good.json()["accepted"] == 1
    bomb = cloud.ask("POST", "/v1/ingest", body=pack(b" " * 50_000_000), content_encoding=encoding)
    assert bomb.status == 413
    torn = cloud.ask("POST", "/v1/ingest", body=pack(batch_of([reading(2)]))[:-20], content_encoding=encoding)
    assert torn.status == 400


def test_an_unknown_encoding_is_refused(cloud: Cloud) -> None:
    assert cloud.ask("POST", "/v1/ingest", body=b"{}", content_encoding="br").status == 415


def test_a_body_over_the_limit_is_refused_declared_or_streamed(cloud: Cloud) -> None:
    assert cloud.ask("POST", "/v1/ingest", body=b" " * 300_001).status == 413
    streamed = cloud.pool.request(
        "POST",
        cloud.url + "/v1/ingest",
        body=(b" " * 1000 for _ in range(301)),
        headers={"Authorization": "Bearer g1-token"},
        chunked=True,
    )
    assert streamed.status == 413
    assert cloud.send(reading(1))["accepted"] == 1


def test_a_sender_that_falls_silent_is_given_up(cloud: Cloud) -> None:
    with socket.create_connection(("127.0.0.1", cloud.port), timeout=WAIT_S) as half_open:
        half_open.sendall(post(b"x" * 100)[:-50])
        heard = b"".join(iter(lambda: half_open.recv(4096), b""))
    assert heard.startswith(b"HTTP/1.1 408 ")


# --- pictures


def test_a_frame_waits_for_its_picture(cloud: Cloud) -> None:
    digest = hashlib.sha256(PICTURE).hexdigest()
    assert cloud.send(frame(1))["rejected"] == [{"index": 0, "reason": "blob missing"}]
    assert cloud.ask("HEAD", f"/v1/blobs/{digest}").status == 404
    first = cloud.ask("PUT", f"/v1/blobs/{digest}", body=PICTURE)
    assert first.json() == {"sha256": digest, "bytes": len(PICTURE), "new": True}
    assert cloud.ask("PUT", f"/v1/blobs/{digest}", body=PICTURE).json()["new"] is False
    assert cloud.ask("HEAD", f"/v1/blobs/{digest}").status == 200
    assert cloud.send(frame(1))["accepted"] == 1
    assert cloud.ask("GET", f"/v1/blobs/{digest}", "reader").data == PICTURE
    [stored] = cloud.get("/v1/events?origin=device/cam-1")["events"]
    assert stored["data"] == frame(1)["data"]


def test_a_damaged_or_oversize_picture_leaves_nothing_behind(cloud: Cloud) -> None:
    digest = hashlib.sha256(PICTURE).hexdigest()
    assert cloud.ask("PUT", f"/v1/blobs/{digest}", body=PICTURE + b"!").status == 400
    assert cloud.ask("PUT", f"/v1/blobs/{digest}", body=b" " * 100_001).status == 413
    assert cloud.ask("PUT", "/v1/blobs/..%2Fcloud.db", body=b"x").status in (400, 404)
    assert cloud.ask("HEAD", f"/v1/blobs/{digest}").status == 404


def test_a_frame_whose_length_is_not_its_pictures_is_refused(cloud: Cloud) -> None:
    cloud.ask("PUT", f"/v1/blobs/{hashlib.sha256(PICTURE).hexdigest()}", body=PICTURE)
    lying = frame(1)
    lying["data"]["bytes"] += 1
    [refused] = cloud.send(lying, {**frame(2), "data": None})["rejected"][:1]
    assert "bytes" in refused["reason"]


# --- order, gaps and the audit


def test_events_come_in_order_wait_at_a_gap_and_step_over_what_is_declared(cloud: Cloud) -> None:
    cloud.send(*(reading(seq) for seq in (5, 2, 1, 7)))
    page = cloud.get("/v1/events?origin=device/cam-1")
    assert seqs(page) == [1, 2]
    assert page["next"] == {"epoch": EPOCH, "after": 2}
    assert page["waiting_at"] == {"epoch": EPOCH, "seq": 3}
    cloud.send(ledger(1, 3, 4, "lost"), ledger(2, 4, 6, "shed"))
    page = cloud.get(f"/v1/events?origin=device/cam-1&epoch={EPOCH}&after=2")
    assert seqs(page) == [5, 7]
    assert page["waiting_at"] is None


def test_pages_join_without_a_seam_over_epochs_in_the_order_of_their_arrival(cloud: Cloud) -> None:
    cloud.send(*(reading(seq, epoch="zzzzzzzz") for seq in range(1, 6)))
    cloud.send(*(reading(seq, epoch="aaaaaaaa") for seq in range(1, 4)))
    found: list[str] = []
    where = ""
    for expected in (2, 2, 2, 2, 0):
        page = cloud.get(f"/v1/events?origin=device/cam-1&limit=2{where}")
        assert len(page["events"]) == expected
        found += [one["id"] for one in page["events"]]
        where = f"&epoch={page['next']['epoch']}&after={page['next']['after']}"
    assert found == [f"zzzzzzzz-{n}" for n in range(1, 6)] + [f"aaaaaaaa-{n}" for n in range(1, 4)]


def test_an_alarm_of_a_new_epoch_does_not_overtake_an_older_one_that_was_never_heard_of(cloud: Cloud) -> None:
    cloud.send(reading(1, epoch="aaaaaaaa"), minted={"device/cam-1": {"zzzzzzzz": 1, "aaaaaaaa": 1}})
    page = cloud.get("/v1/events?origin=device/cam-1")
    assert (page["events"], page["waiting_at"]) == ([], {"epoch": "zzzzzzzz", "seq": 1})
    cloud.send(reading(1, epoch="zzzzzzzz"))
    page = cloud.get("/v1/events?origin=device/cam-1")
    assert [one["id"] for one in page["events"]] == ["zzzzzzzz-1", "aaaaaaaa-1"]


def test_a_tail_that_was_minted_is_waited_for_before_the_next_epoch(cloud: Cloud) -> None:
    cloud.send(reading(1), minted={"device/cam-1": {EPOCH: 2}})
    cloud.send(reading(1, epoch="aaaaaaaa"))
    page = cloud.get("/v1/events?origin=device/cam-1")
    assert seqs(page) == [1]
    assert page["waiting_at"] == {"epoch": EPOCH, "seq": 2}
    assert audit_of_epochs(cloud) == [(EPOCH, 2, [[2, 2]]), ("aaaaaaaa", None, [])]


def audit_of_epochs(cloud: Cloud) -> list[tuple[str, int | None, list[list[int]]]]:
    origins = cloud.get("/v1/audit?origin=device/cam-1")["origins"]
    return [(one["epoch"], one["minted"], one["missing"]) for one in origins]


def test_a_cursor_into_an_unknown_epoch_is_refused(cloud: Cloud) -> None:
    cloud.send(reading(1))
    assert cloud.ask("GET", "/v1/events?origin=device/cam-1&epoch=nowhere1").status == 404
    assert cloud.ask("GET", "/v1/events?origin=device/cam-1&after=3").status == 400
    assert cloud.ask("GET", "/v1/events").status == 400
    assert cloud.ask("GET", "/v1/events?origin=device/cam-1&limit=0").status == 400


def test_results_speak_for_their_frames_and_the_audit_closes(cloud: Cloud) -> None:
    cloud.send(
        *(result(seq, of=seq) for seq in range(1, 101)),
        result(101, of=100),
        ledger(102, 101, 102, "lost"),
        ledger(103, 103, 104, "unproven"),
        reading(50),
        minted={"device/cam-1": {EPOCH: 106}, "gateway/g1": {GATEWAY_EPOCH: 103}},
    )
    assert audit_of(cloud) == {
        "origin": "device/cam-1",
        "epoch": EPOCH,
        "minted": 106,
        "held": 1,
        "declared": {"local": 99, "lost": 2},
        "missing": [[105, 106]],
        "unproven": [[103, 104]],
        "tail": "open",
    }
    assert audit_of(cloud, "gateway/g1")["missing"] == []
    cloud.send(minted={"device/cam-1": {EPOCH: 7}})
    assert audit_of(cloud)["minted"] == 106
    cloud.send(minted={"device/cam-1": {"afterone": 1}})
    assert [finding["tail"] for finding in cloud.get("/v1/audit?origin=device/cam-1")["origins"]] == [
        "unproven",
        "open",
    ]


def test_the_result_of_a_window_speaks_for_none_of_its_readings(cloud: Cloud) -> None:
    of_window = result(1, of=8)
    of_window["data"] |= {"first": f"{EPOCH}-5", "samples": 4}
    cloud.send(of_window, *(reading(seq) for seq in range(1, 8)), minted={"device/cam-1": {EPOCH: 8}})
    found = audit_of(cloud)
    assert (found["held"], found["declared"], found["missing"]) == (7, {}, [[8, 8]])


def test_results_are_listed_in_the_order_of_their_arrival(cloud: Cloud) -> None:
    cloud.send(result(2, of=9), reading(1), result(1, of=8))
    first = cloud.get("/v1/results?limit=1")
    rest = cloud.get(f"/v1/results?after={first['next']['after']}")
    assert [one["subject"] for one in first["results"] + rest["results"]] == [
        f"cam-1/top/{EPOCH}-9",
        f"cam-1/top/{EPOCH}-8",
    ]
    assert cloud.get(f"/v1/results?after={rest['next']['after']}")["results"] == []


def test_origins_are_counted(cloud: Cloud) -> None:
    cloud.send(reading(1), reading(2), reading(1, device="cam-2"), result(1, of=1))
    assert cloud.get("/v1/origins")["origins"] == [
        {"origin": "device/cam-1", "epochs": 1, "held": 2},
        {"origin": "device/cam-2", "epochs": 1, "held": 1},
        {"origin": "gateway/g1", "epochs": 1, "held": 1},
    ]


Span = tuple[int, int]
spans = st.tuples(st.integers(1, 30), st.integers(0, 6)).map(lambda span: (span[0], span[0] + span[1]))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(1, 30), max_size=6)), st.lists(spans, max_size=5), st.integers(1, 4))
def test_pages_and_ranges_agree_with_plain_sets(batches: list[list[int]], lost: list[Span], limit: int) -> None:
    held = {seq for batch in batches for seq in batch}
    known = held | {seq for first, last in lost for seq in range(first, last + 1)}
    gap = next(seq for seq in itertools.count(1) if seq not in known)
    with tempfile.TemporaryDirectory() as folder:
        ledger_ = Ledger(Path(folder) / "cloud.db")
        for rows in [
            *([reading(seq) for seq in batch] for batch in batches),
            [ledger(seq, first, last, "lost") for seq, (first, last) in enumerate(lost, 1)],
        ]:
            ledger_.ingest("plant-1", read_batch(batch_of(rows), "g1").rows, {}, INSTANT)
        found: list[int] = []
        after, page = 0, None
        while page is None or page.events:
            page = ledger_.page("plant-1", "device/cam-1", None, after, max_events=limit, max_bytes=10_000)
            assert len(page.events) <= limit
            found += [stored.seq for stored in page.events]
            after = page.seq
        streams = ledger_.streams("plant-1", "device/cam-1")
        ledger_.close()
        with contextlib.closing(sqlite3.connect(Path(folder) / "cloud.db")) as file:
            rows_of = "SELECT first, last FROM span JOIN stream ON id = stream WHERE origin = ? AND kind = ? ORDER BY 1"
            spans_held = file.execute(rows_of, ("device/cam-1", "held")).fetchall()
            spans_lost = file.execute(rows_of, ("device/cam-1", "lost")).fetchall()
    assert found == sorted(seq for seq in held if seq < gap)
    assert page.waiting_seq == (gap if known and gap < max(known) else None)
    assert [stream.held.ranges() for stream in streams] == [spans_held] * len(streams)
    assert [stream.declared["lost"].ranges() for stream in streams] == [spans_lost] * len(streams)
    assert spans_held == RangeSet((seq, seq) for seq in held).ranges()
    assert spans_lost == RangeSet(lost).ranges()
    assert bool(streams) is bool(known)


# --- the process


def test_a_full_disk_is_answered_503_and_nothing_of_the_batch_counts(cloud: Cloud) -> None:
    cloud.send(reading(1))
    before = resource.prlimit(cloud.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    answer = cloud.ask("POST", "/v1/ingest", body=batch_of([reading(2), reading(3)]))
    picture = cloud.ask("PUT", f"/v1/blobs/{hashlib.sha256(PICTURE).hexdigest()}", body=PICTURE)
    assert (answer.status, picture.status) == (503, 503)
    assert int(answer.headers["Retry-After"]) > 0
    assert audit_of(cloud)["held"] == 1
    resource.prlimit(cloud.process.pid, resource.RLIMIT_FSIZE, before)
    assert cloud.send(reading(2), reading(3))["accepted"] == 2


def test_damage_met_by_a_request_is_answered_503_ends_the_process_and_is_healed_by_the_next(cloud: Cloud) -> None:
    cloud.send(*(reading(seq) for seq in range(1, 201)))
    cloud.stop(signal.SIGTERM)
    path = cloud.home / "state" / "cloud.db"
    with contextlib.closing(sqlite3.connect(path)) as file:
        index = "SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_event_1'"
        ((page,),) = file.execute(index).fetchall()
    cloud.start()
    with path.open("r+b") as spoil:
        spoil.seek((page - 1) * PAGE_BYTES)
        spoil.write(b"\xff" * PAGE_BYTES)
    answer = cloud.ask("POST", "/v1/ingest", body=batch_of([reading(201)]))
    assert (answer.status, "Retry-After" in answer.headers) == (503, True)
    assert cloud.process.wait(WAIT_S) == 1
    assert cloud.process.stdout is not None
    cloud.process.stdout.close()
    cloud.pool.clear()
    cloud.start()
    assert path.with_name("cloud.db.damaged-1").exists()
    cloud.send(reading(201))
    assert cloud.get("/v1/audit")["totals"]["held"] == 201


def test_sigterm_ends_it_cleanly_and_all_is_there_after(cloud: Cloud) -> None:
    cloud.send(reading(3), reading(1), minted={"device/cam-1": {EPOCH: 4}})
    before = cloud.get("/v1/audit"), cloud.get("/v1/events?origin=device/cam-1")
    assert cloud.stop(signal.SIGTERM) == 0
    cloud.start()
    assert (cloud.get("/v1/audit"), cloud.get("/v1/events?origin=device/cam-1")) == before


def test_a_second_process_on_the_same_state_is_told_who_holds_it(cloud: Cloud) -> None:
    second = subprocess.run(cloud.command(), capture_output=True, text=True, timeout=WAIT_S)
    assert second.returncode == 75
    assert f"process {cloud.process.pid}" in second.stderr


def test_two_callers_with_one_token_are_a_bad_configuration(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path)
    cloud.stop(signal.SIGTERM)
    (tmp_path / "g2").write_text(TOKENS["g1"])
    again = subprocess.run(cloud.command(), capture_output=True, text=True, timeout=WAIT_S)
    assert again.returncode == 78
    assert "same token" in again.stderr


def post(body: bytes) -> bytes:
    head = f"POST /v1/ingest HTTP/1.1\r\nHost: cloud\r\nAuthorization: Bearer g1-token\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def test_a_batch_whose_answer_was_lost_to_a_kill_is_all_duplicates_when_sent_again(cloud: Cloud) -> None:
    rows = [reading(seq) for seq in range(1, 257)]
    with socket.create_connection(("127.0.0.1", cloud.port), timeout=WAIT_S) as unread:
        unread.sendall(post(batch_of(rows)))
        while not cloud.get("/v1/origins")["origins"]:  # until it is committed; the answer is never read
            pass
        cloud.stop(signal.SIGKILL)
    cloud.start()
    assert tally(cloud.send(*rows)) == {"batch": "b1", "accepted": 0, "duplicates": 256, "rejected": []}
    assert seqs(cloud.get("/v1/events?origin=device/cam-1")) == list(range(1, 257))


def test_a_kill_at_any_moment_leaves_whole_batches(cloud: Cloud) -> None:
    held = 0
    for round_ in range(8):
        rows = [reading(seq) for seq in range(held + 1, held + 257)]
        with socket.create_connection(("127.0.0.1", cloud.port), timeout=WAIT_S) as unread:
            unread.sendall(post(batch_of(rows)))
            time.sleep(round_ * 0.004)  # the moment of the kill, not a wait for anything
            cloud.stop(signal.SIGKILL)
        cloud.start()
        answer = cloud.send(*rows)
        assert (answer["accepted"], answer["duplicates"]) in ((256, 0), (0, 256))
        held += 256
    finding = audit_of(cloud)
    assert (finding["held"], finding["missing"]) == (held, [])
