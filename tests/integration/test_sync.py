"""The drain against the real reference cloud, behind a link that does what links do: nothing lost, nothing twice."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
import zstandard
from integration.brokers import free_port, wait_until
from integration.test_reference_cloud import TOKENS
from integration.test_reference_cloud import Cloud as ReferenceCloud
from unit.failing_calls import calls_fail

from cloud_sync.drain import Drain
from cloud_sync.link import Link
from cloud_sync.orders import PICTURE_GONE, Orders
from cloud_sync.progress import Progress
from cloud_sync.settings import SyncSettings
from cloud_sync.submit import Answer, Cloud, TooSlow
from cloud_sync.witness import Witness
from millrace import events, jsontext, topics
from millrace.blobs import BlobStore
from millrace.clock import Instant
from millrace.entries import Draft, Lane
from millrace.outbox import Outbox
from millrace.settled import SettledReader
from millrace.ties import TieReader

EPOCH = "k3v9x0pa"
INSTANT = Instant(1_790_000_000_000_000_000, "f00d", 5)
STEPS = 400
NAMES = (f"line-{number}" for number in itertools.count(1))


@dataclass
class FakeClock:
    seconds: float = 100.0

    def now(self) -> Instant:
        return INSTANT

    def uptime_s(self) -> float:
        return self.seconds


@dataclass
class Uplink:
    """A server between sync worker and cloud; it passes everything on but for what `script` says of the next ones."""

    url: str
    cloud: ReferenceCloud
    script: deque[str] = field(default_factory=deque)
    asked: list[tuple[str, list[str]]] = field(default_factory=list)
    """Of each request its method and path, and the ids in its batch."""
    told: list[dict[str, Any]] = field(default_factory=list)
    """What it was told to be buried."""
    held: threading.Event = field(default_factory=threading.Event)
    chokes_on: set[str] = field(default_factory=set)
    """A batch with one of these ids is always answered 500."""
    first: dict[str, Callable[[], object]] = field(default_factory=dict)
    """What happens before a request is answered, by its method, or method and path, or an id in its batch."""
    connections: int = 0

    def batches(self) -> list[list[str]]:
        return [ids for what, ids in self.asked if what == "POST /v1/ingest"]


JSON = "application/json"
FALSE_ANSWERS: dict[str, tuple[int, dict[str, str], bytes]] = {
    "503": (503, {"Content-Type": JSON}, b'{"error": "later"}'),
    "503 in odd words": (503, {"Content-Type": JSON, "Retry-After": "\xb2"}, b"{}"),
    "500": (500, {"Content-Type": "text/plain"}, b"oops"),
    "429": (429, {"Content-Type": JSON, "Retry-After": "7"}, b'{"error": "slowly"}'),
    "408": (408, {"Content-Type": JSON}, b'{"error": "too slow"}'),
    "404": (404, {"Content-Type": "text/html"}, b"<html>not here</html>"),
    "405": (405, {"Content-Type": JSON}, b"{}"),
    "redirect": (302, {"Location": "http://login.example"}, b""),
    "captive portal": (200, {"Content-Type": "text/html"}, b"<html>Welcome, please log in</html>"),
    "large captive portal": (200, {"Content-Type": "text/html"}, b"<!--" + b"x" * (5 << 20)),
    "polite captive portal": (200, {"Content-Type": JSON}, b'{"login": "please"}'),
    "no json": (200, {"Content-Type": JSON}, b"<html>"),
    "a list": (200, {"Content-Type": JSON}, b"[]"),
}


def answer(uplink: Uplink, act: str, method: str, path: str, headers: dict[str, str], body: bytes) -> Any:
    if act in FALSE_ANSWERS:
        return FALSE_ANSWERS[act]
    if act == "422 of rows":
        return (
            (422, {"Content-Type": JSON}, b'{"error": "no"}')
            if has_rows(body)
            else pass_on(uplink, method, path, headers, body)
        )
    if act == "rejects all":
        batch = json.loads(zstandard.ZstdDecompressor().decompressobj().decompress(body))
        rejected = [{"index": index, "reason": "not today"} for index in range(len(batch["events"]))]
        said = {"batch": batch["batch"], "accepted": 0, "duplicates": 0, "rejected": rejected}
        return 200, {"Content-Type": JSON}, json.dumps(said).encode()
    if act == "400 by a proxy":
        return 400, {"Content-Type": "text/html"}, b"<html>Bad Request</html>"
    if act in ("another batch", "too few"):
        batch = json.loads(zstandard.ZstdDecompressor().decompressobj().decompress(body))
        rows = len(batch["events"])
        said = {"batch": batch["batch"], "accepted": rows, "duplicates": 0, "rejected": []}
        said |= {"batch": "0" * 64} if act == "another batch" else {"accepted": rows - 1}
        return 200, {"Content-Type": JSON}, json.dumps(said).encode()
    return pass_on(uplink, method, path, headers, body)


def has_rows(body: bytes) -> bool:
    return bool(json.loads(zstandard.ZstdDecompressor().decompressobj().decompress(body))["events"])


def pass_on(uplink: Uplink, method: str, path: str, headers: dict[str, str], body: bytes) -> Any:
    there = uplink.cloud.pool.request(method, uplink.cloud.url + path, body=body, headers=headers)
    return there.status, {"Content-Type": there.headers["content-type"]}, there.data


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReferenceCloud]:
    running = ReferenceCloud(tmp_path_factory.mktemp("cloud"))
    yield running
    running.stop(signal.SIGTERM)


@pytest.fixture
def uplink(cloud: ReferenceCloud) -> Iterator[Uplink]:
    found = Uplink("", cloud)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            ids = []
            if self.headers["Content-Encoding"] == "zstd":
                batch = json.loads(zstandard.ZstdDecompressor().decompressobj().decompress(body))
                ids = [row.get("id", "") for row in batch["events"]]
                found.told += batch["buried"]
            what = f"{self.command} {self.path}"
            found.asked.append((what, ids))
            for name in (self.command, what, *ids):
                if name in found.first:
                    found.first[name]()
            act = found.script.popleft() if found.script else "500" if found.chokes_on & set(ids) else "pass"
            wanted = ("Authorization", "Content-Type", "Content-Encoding")
            headers = {name: self.headers[name] for name in wanted if name in self.headers}
            status, said, data = answer(found, act, self.command, self.path, headers, body)
            if act == "hold":
                found.held.set()
                self.rfile.read(1)  # until the other side is gone
                return
            self.send_response(status)
            for name, value in said.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if act == "cut off" else data)
            self.close_connection = act == "cut off"

        def do_PUT(self) -> None:
            self.do_POST()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the parent's name)
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def process_request(self, request: Any, client_address: Any) -> None:
            found.connections += 1
            super().process_request(request, client_address)

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # the other side was killed, or has had enough

    with Server(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield found
        server.shutdown()
        thread.join()


class Line:
    """A gateway's database with rows of one device that nobody else uses, and a sync worker that is stepped."""

    def __init__(self, folder: Path, uplink: Uplink) -> None:
        self.folder, self.uplink, self.cloud = folder, uplink, uplink.cloud
        self.device = next(NAMES)
        self.outbox = Outbox(folder / "state" / "gateway.db", BlobStore(folder / "state" / "frames"), "machine-1")
        self.clock = FakeClock()
        self.seq = 0
        self.token = folder / "token"
        self.token.touch(mode=0o600)
        self.token.write_text(TOKENS["g1"])
        self.jitter: Callable[[float, float], float] = lambda low, _high: low
        self.drain: Drain | None = None
        self.open()

    def settings(self, **changed: Any) -> dict[str, Any]:
        return {
            "gateway": "g1",
            "state_dir": str(self.folder / "state"),
            "cloud": {"url": self.uplink.url, "token_file": str(self.token), "answer_timeout_s": 5.0},
            "retry": {"first_s": 0.01, "max_s": 60.0},
        } | changed

    def open(self, **changed: Any) -> None:
        """Start a sync worker, a second one after the first was closed."""
        loaded = SyncSettings.model_validate(self.settings(**changed))
        self.progress = Progress(loaded.state_dir / "sync.db")
        self.link = Link(
            loaded.retry.first_s,
            loaded.retry.max_s,
            self.jitter,
            breaker_failures=loaded.retry.breaker_failures,
            retry_after_max_s=loaded.retry.retry_after_max_s,
        )
        witness = Witness(TieReader(loaded.state_dir / "gateway.db"), self.progress, self.clock)
        self.pool = Cloud(loaded.cloud, witness)
        self.drain = Drain(loaded, self.progress, self.pool, self.link, self.clock)

    def close(self) -> None:
        if self.drain is not None:
            self.drain.interrupt()
            self.drain.run()  # it is told to stop, so it only closes what it reads
            self.progress.close()
            self.drain = None

    def again(self, **changed: Any) -> None:
        self.close()
        self.open(**changed)

    def step(self) -> float:
        assert self.drain is not None
        return self.drain.step(self.clock.uptime_s())

    def finish(self, what: str = "nothing waits") -> None:
        """Step until a step finds nothing to send and the link is up."""
        for _ in range(STEPS):
            if self.step() > 0 and self.link.state == "up" and not self.waiting():
                return
        raise AssertionError(f"{STEPS} steps and not yet: {what}")

    def waiting(self) -> bool:
        rows = self.outbox.read(0, 100_000)
        return any(row.position not in self.progress.settled(self.outbox.epoch, row.lane) for row in rows)

    def settled(self) -> int:
        return sum(self.progress.settled(self.outbox.epoch, lane).count() for lane in Lane)

    def buried(self) -> int:
        found: int = self.progress._connection.execute("SELECT count(*) FROM buried").fetchone()[0]
        return found

    def link_facts(self) -> dict[str, object]:
        found = SettledReader(self.folder / "state" / "sync.db").link()
        assert found is not None
        return found

    # --- rows

    def add(self, count: int = 1, lane: Lane = Lane.BULK, **changed: Any) -> list[str]:
        """Append readings; `changed` are members of their JSON. Return the ids."""
        first = self.seq + 1
        self.seq += count
        source = topics.device_source("millrace", self.device, "belt")
        with self.outbox.transaction():
            for seq in range(first, self.seq + 1):
                made = events.new_event(events.READING, events.Key(source, EPOCH, seq), INSTANT, data={"t": seq})
                body = jsontext.dump(json.loads(events.encode_json(made)) | changed)
                self.outbox.append([Draft(lane, EPOCH, seq, body)], 0.0)
            self.outbox.note_minted(f"device/{self.device}", EPOCH, self.seq)
        return [f"{EPOCH}-{seq}" for seq in range(first, self.seq + 1)]

    def add_frame(self, size_bytes: int = 1000) -> str:
        """Append a frame; return its picture's digest."""
        self.seq += 1
        picture = f"{self.device} {self.seq} ".encode().ljust(size_bytes, b"x")
        digest = hashlib.sha256(picture).hexdigest()
        key = events.Key(topics.device_source("millrace", self.device, "top"), EPOCH, self.seq)
        body = events.encode_json(events.new_event(events.FRAME, key, INSTANT, datacontenttype="image/jpeg"))
        with self.outbox.transaction():
            self.outbox.put_pictures({digest: picture})
            self.outbox.append([Draft(Lane.FRAME, EPOCH, self.seq, body, digest, len(picture))], 0.0)
            self.outbox.note_minted(f"device/{self.device}", EPOCH, self.seq)
        return digest

    # --- the far side

    def audit(self) -> dict[str, Any]:
        (found,) = self.cloud.get(f"/v1/audit?origin=device/{self.device}")["origins"]
        return {name: found[name] for name in ("held", "declared", "missing", "unproven")}

    def all_there(self, buried: int = 0) -> bool:
        """Say whether the cloud holds every row once, but for the buried, which it knows to be that."""
        declared = {"buried": buried} if buried else {}
        return self.audit() == {"held": self.seq - buried, "declared": declared, "missing": [], "unproven": []}

    def refused(self) -> tuple[int, int]:
        totals = self.cloud.get("/v1/audit")["totals"]
        return totals["duplicates_refused"], totals["conflicts"]


@pytest.fixture
def line(tmp_path: Path, uplink: Uplink) -> Iterator[Line]:
    made = Line(tmp_path, uplink)
    yield made
    made.close()
    made.outbox.close()


# --- nothing settles without a committed answer


@pytest.mark.parametrize("act", [*FALSE_ANSWERS, "another batch", "too few"])
def test_only_the_clouds_own_answer_to_our_own_batch_settles(line: Line, act: str) -> None:
    line.add(5)
    line.uplink.script.append(act)
    line.step()
    assert (line.settled(), line.link.state) == (0, "down")
    line.clock.seconds += 60
    line.finish()
    assert line.all_there()


def test_an_answer_that_is_cut_off_after_the_commit_makes_duplicates_that_the_cloud_removes(line: Line) -> None:
    before = line.refused()
    line.add(5)
    line.uplink.script.append("cut off")
    line.step()
    assert (line.settled(), line.audit()["held"]) == (0, 5)
    line.finish()
    assert line.all_there()
    assert line.refused() == (before[0] + 5, before[1])


def test_the_cloud_is_left_alone_for_as_long_as_it_asks(line: Line) -> None:
    line.add(1)
    line.uplink.script.append("429")
    line.step()
    line.clock.seconds += 6.9
    assert 0 < line.step() <= 7
    assert len(line.uplink.asked) == 1
    line.clock.seconds += 0.2
    line.finish()
    assert line.all_there()


def test_a_proxys_own_400_is_no_word_of_the_cloud_and_buries_nothing(line: Line) -> None:
    line.add(3)
    line.uplink.script.extend(["400 by a proxy"] * 20)
    line.step()
    line.step()
    assert (line.settled(), line.progress.untold(), line.link.state) == (0, [], "down")
    line.uplink.script.clear()
    line.finish()
    assert line.all_there()


def test_a_cloud_that_cannot_be_reached_gets_everything_later(line: Line) -> None:
    line.add(5)
    with socket.socket() as black_hole:
        black_hole.bind(("127.0.0.1", 0))
        black_hole.listen()
        for port in (free_port(), black_hole.getsockname()[1]):
            cloud = {"url": f"http://127.0.0.1:{port}", "token_file": str(line.token), "answer_timeout_s": 0.2}
            line.again(cloud=cloud)
            for _ in range(3):
                line.step()
            assert (line.settled(), line.link.state, line.link.failures) == (0, "down", 3)
    line.again()
    line.finish()
    assert line.all_there()


def test_a_token_that_is_refused_loses_nothing_and_a_new_one_is_read_by_itself(line: Line) -> None:
    line.add(5)
    line.token.write_text("an old one")
    line.again()
    line.step()
    assert (line.settled(), line.link.state) == (0, "down")
    line.token.write_text(TOKENS["g1"])
    assert line.step() == 0
    assert line.link.state == "up"
    line.finish()
    assert line.all_there()


def test_a_new_token_is_noticed_in_the_middle_of_a_long_pause(line: Line) -> None:
    line.jitter = lambda _low, high: high
    line.token.write_text("an old one")
    line.again(retry={"first_s": 300.0, "max_s": 300.0})
    line.add(5)
    line.step()
    assert line.step() > 250
    line.token.unlink()
    assert line.step() > 250
    line.token.touch(mode=0o600)
    line.token.write_text(TOKENS["g1"])
    line.finish()
    assert line.all_there()


@pytest.mark.parametrize(
    ("act", "said"),
    [
        ("redirect", "answered 302 to 'http://login.example': captive portal?"),
        ("captive portal", "answered 200 with text/html: captive portal?"),
        ("polite captive portal", "does not speak of our batch: captive portal"),
        ("no json", "captive portal?"),
        ("404", "answered 404 with text/html: captive portal?"),
        ("405", "answered 405: captive portal, or not the address of a cloud's API"),
        ("another batch", "does not speak of our batch"),
        ("cut off", "the answer was cut off"),
        ("503", 'answered 503 with \'{"error": "later"}\''),
    ],
)
def test_one_line_of_the_log_and_the_status_name_what_was_seen(
    line: Line, caplog: pytest.LogCaptureFixture, act: str, said: str
) -> None:
    line.add(1)
    line.uplink.script.extend([act] * 5)
    for _ in range(5):
        line.step()
    (told,) = [record.getMessage() for record in caplog.records if "link_down" in record.getMessage()]
    assert said in told
    link = line.link_facts()
    assert (link["state"], said in str(link["said"])) == ("down", True)
    line.finish()
    assert (line.link_facts()["state"], line.link_facts()["said"]) == ("up", "")


def test_after_some_failures_a_try_carries_one_row_until_one_is_committed(line: Line) -> None:
    line.again(retry={"first_s": 0.01, "max_s": 60.0, "breaker_failures": 3}, batch={"live_share": 0.0})
    line.add(100)
    line.add_frame()
    line.uplink.script.extend(["503"] * 6)
    for _ in range(6):
        line.step()
    tried = [(what.split("/")[2], len(ids)) for what, ids in line.uplink.asked]
    assert sorted(tried[:3]) == [("blobs", 0), ("blobs", 0), ("ingest", 100)]
    assert tried[3:] == [("ingest", 1)] * 3
    line.step()
    line.step()
    line.step()
    assert sorted(len(ids) for ids in line.uplink.batches()[-3:]) == [1, 1, 99]
    line.finish()
    assert line.all_there()


def test_a_drain_that_overslept_its_backlog_begins_anew(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    line.add(1)
    line.finish()
    line.step()
    line.add(5)
    assert line.drain is not None
    choice = line.drain._choice
    choice._seen = choice._look()  # it believes that it has
    line.clock.seconds += 299
    for _ in range(3):
        line.step()
    assert (line.settled(), "drain_stuck" in caplog.text) == (1, False)
    line.clock.seconds += 2
    line.step()
    assert "drain_stuck lanes=BULK after_s=300: begun anew" in caplog.text
    line.finish()
    assert line.all_there()


def test_an_idle_drain_is_not_called_stuck(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    line.add(1)
    line.finish()
    for _ in range(5):
        line.clock.seconds += 1000
        line.step()
    line.clock.seconds += 1000
    line.add(5)
    line.finish()
    assert line.all_there()
    assert "drain_stuck" not in caplog.text


def test_signs_of_life_come_from_answers_and_from_pauses_that_are_meant(line: Line) -> None:
    """The worker's silence grows while it steps and gets nothing done."""
    line.again(batch={"max_rows": 8, "live_share": 0.0})
    line.add(8)
    assert line.drain is not None
    line.uplink.script.extend(["422 of rows"] * 3)
    for _ in range(3):
        line.clock.seconds += 10
        assert line.step() == 0
    assert line.drain.beat.silent_s() == 30
    line.step()
    assert line.drain.beat.silent_s() == 0


# --- this machine's own disk


@contextlib.contextmanager
def file_too_large(_line: Line) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def no_more_pages(line: Line) -> Iterator[None]:
    connection = line.progress._connection
    connection.execute("CREATE TABLE filler (bytes BLOB)")
    connection.execute("PRAGMA max_page_count = 1")
    connection.execute(
        "CREATE TRIGGER fill BEFORE UPDATE ON link BEGIN INSERT INTO filler VALUES (zeroblob(9000)); END"
    )
    connection.execute(
        "CREATE TRIGGER full BEFORE INSERT ON settled BEGIN INSERT INTO filler VALUES (zeroblob(9000)); END"
    )
    yield
    connection.execute("PRAGMA max_page_count = 1000000")


@contextlib.contextmanager
def read_only(line: Line) -> Iterator[None]:
    line.progress._connection.execute("PRAGMA query_only = 1")
    yield
    line.progress._connection.execute("PRAGMA query_only = 0")


DISK_HARMS = {"failing": file_too_large, "full": no_more_pages, "read-only": read_only}


@pytest.mark.parametrize("harm", DISK_HARMS)
def test_an_account_that_cannot_be_written_is_waited_for_and_what_was_committed_is_not_sent_again(
    line: Line, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    caplog.set_level("INFO")
    line.add(3)
    line.finish()
    before, asked = line.refused(), len(line.uplink.batches())
    line.add(200)
    with DISK_HARMS[harm](line):
        for _ in range(20):
            line.clock.seconds += 60
            line.step()
        assert line.settled() == 3
    assert len(line.uplink.batches()) == asked + 1
    assert "nothing is sent until it can be" in caplog.text
    line.clock.seconds += 60
    line.finish()
    assert line.all_there()
    assert line.refused() == before
    assert "account_written" in caplog.text


# --- poison


def deep() -> Any:
    """Return JSON that is deep enough to be refused only inside of a batch, which is refused as a whole for it."""
    value: Any = 1
    for _ in range(15):
        value = [value]
    return value


@pytest.mark.parametrize("poison", [{"data": deep()}, {"time": "yesterday"}], ids=["batch refused", "row refused"])
def test_one_poison_row_is_found_buried_and_told_and_the_rest_goes_on(line: Line, poison: dict[str, Any]) -> None:
    line.again(batch={"max_rows": 12, "live_share": 0.0})
    line.add(9)
    line.add(1, **poison)
    line.add(20)
    line.finish()
    assert line.all_there(buried=1)
    assert line.progress.untold() == []
    assert [(told["origin"], told["epoch"], told["seq"]) for told in line.uplink.told] == [
        (f"device/{line.device}", EPOCH, 10)
    ]


def test_what_a_gateway_said_under_its_former_name_holds_nobody_up(line: Line) -> None:
    line.add(1)
    line.add(1, source=topics.gateway_source("millrace", "former"))
    line.finish()
    line.add(1)
    line.finish()
    assert line.audit()["held"] == 2


def test_several_poison_rows_in_one_batch_are_each_found(line: Line) -> None:
    for number in range(12):
        line.add(1, **({"data": deep()} if number in (0, 5, 6, 11) else {}))
    line.finish()
    assert line.all_there(buried=4)


def test_a_worker_with_anothers_name_buries_nothing(line: Line) -> None:
    """The settings say g2, the token is g1's: every batch is refused, and no row is to blame."""
    line.add(4)
    line.again(gateway="g2")
    for _ in range(3):
        line.step()
    assert (line.settled(), line.progress.untold(), line.link.state) == (0, [], "down")
    line.again()
    line.finish()
    assert line.all_there()


def test_a_row_that_this_disk_damaged_is_buried_and_the_rest_goes_on(line: Line) -> None:
    line.add(3)
    (position,) = [row.position for row in line.outbox.read(1, 1)]
    with line.outbox.transaction():
        line.outbox.connection.execute("UPDATE entry SET checksum = checksum + 1 WHERE position = ?", (position,))
    line.finish()
    assert line.all_there(buried=1)


@pytest.mark.parametrize("body", [b"\xff\xfe no text", "text where bytes stood", 7])
def test_a_damaged_row_whose_body_says_nothing_is_told_under_its_key(line: Line, body: object) -> None:
    line.add(3)
    with line.outbox.transaction():
        line.outbox.connection.execute("UPDATE entry SET body = ?, checksum = 1 WHERE seq = 2", (body,))
    line.finish()
    assert line.all_there(buried=1)
    assert [(told["origin"], told["seq"]) for told in line.uplink.told] == [(f"device/{line.device}", 2)]


def test_what_the_cloud_holds_is_not_hidden_by_a_damaged_row_that_takes_its_key(line: Line) -> None:
    line.add(3)
    with line.outbox.transaction():
        line.outbox.connection.execute("UPDATE entry SET body = x'ff', seq = 3, checksum = 1 WHERE seq = 2")
    line.finish()
    assert [told["seq"] for told in line.uplink.told] == [3]
    assert line.audit() == {"held": 2, "declared": {}, "missing": [[2, 2]], "unproven": []}


@pytest.mark.parametrize("act", ["422 of rows", "rejects all"])
def test_a_cloud_that_refuses_everything_has_a_few_rows_buried_and_the_rest_waits_until_it_is_well(
    line: Line, caplog: pytest.LogCaptureFixture, act: str
) -> None:
    line.again(batch={"max_rows": 16, "live_share": 0.0}, bury={"min_rows": 3})
    line.add(200)
    line.uplink.script.extend([act] * 200)
    for _ in range(100):
        line.clock.seconds += 60
        line.step()
    buried = line.buried()
    assert buried == (3 if act == "422 of rows" else 0)
    assert (line.settled(), line.link.state) == (buried, "up")
    assert "lane_held lane=BULK" in caplog.text
    assert "bulk held: " in str(line.link_facts()["said"])
    assert "too many to bury" in str(line.link_facts()["said"])
    line.uplink.script.clear()
    line.clock.seconds += 60
    line.finish()
    assert line.all_there(buried=buried)
    assert line.link_facts()["said"] == ""


def test_a_worker_that_is_started_again_and_again_buries_no_more_than_one_that_goes_on(line: Line) -> None:
    line.add(200)
    line.uplink.script.extend(["422 of rows"] * 400)
    for _ in range(6):
        line.again(batch={"max_rows": 16, "live_share": 0.0}, bury={"min_rows": 3})
        for _ in range(15):
            line.clock.seconds += 60
            line.step()
    assert line.buried() == 3
    line.uplink.script.clear()
    line.clock.seconds += 60
    line.finish()
    assert line.all_there(buried=3)


def test_a_held_lane_holds_no_other(line: Line) -> None:
    line.again(batch={"max_rows": 20, "live_share": 0.0}, bury={"min_rows": 1})
    line.add(40, Lane.BULK, time="yesterday")
    line.step()
    assert line.link_facts()["said"] != ""
    line.add(30, Lane.RESULT)
    for _ in range(10):
        line.step()
    assert line.audit()["held"] == 30
    assert line.progress.settled(line.outbox.epoch, Lane.BULK).count() == 0
    assert line.buried() == 0


def test_a_row_that_is_lost_here_says_nothing_of_the_link(line: Line) -> None:
    line.add(1)
    line.outbox.connection.execute("UPDATE entry SET checksum = checksum + 1")
    line.uplink.script.extend(["503"] * 9)
    line.step()
    assert (line.settled(), line.buried(), line.link.state) == (1, 1, "unknown")
    line.step()
    assert line.link.state == "down"


@pytest.mark.parametrize("outage", [0, 7])
def test_a_lane_that_chokes_the_far_side_starves_no_other_whatever_went_before(line: Line, outage: int) -> None:
    line.jitter = lambda _low, high: high
    line.again()
    line.uplink.chokes_on = set(line.add(1, Lane.RESULT))
    for _ in range(20):
        line.add_frame()
    line.uplink.script.extend(["500"] * outage)
    for _ in range(STEPS):
        if line.progress.settled(line.outbox.epoch, Lane.FRAME).last() == 21:
            break
        line.clock.seconds += line.step()
    assert line.audit()["held"] == 20
    assert line.progress.settled(line.outbox.epoch, Lane.RESULT).count() == 0
    line.uplink.chokes_on = set()
    line.clock.seconds += 600.0
    line.finish()
    assert line.all_there()


@pytest.mark.parametrize("is_asked_for_again", [False, True])
def test_what_took_its_whole_time_in_vain_rests_from_then_on(
    line: Line, monkeypatch: pytest.MonkeyPatch, is_asked_for_again: bool
) -> None:
    line.jitter = lambda _low, high: high
    line.again(retry={"first_s": 10.0, "max_s": 60.0})
    line.add(1, time="yesterday")
    if is_asked_for_again:
        line.finish()
        line.progress.send_again(line.progress.buried())
    tries: list[int] = []

    def time_out(bodies: list[bytes], *_news: object) -> Answer:
        if not bodies:
            return Answer(0, 0, {})
        tries.append(len(bodies))
        line.clock.seconds += 60.0
        raise TooSlow("no answer in 60 s")

    monkeypatch.setattr(line.pool, "submit", time_out)
    line.step()
    assert tries == [1]
    line.link.try_now()
    line.clock.seconds += 9.0
    line.step()
    line.step()
    assert tries == [1]
    line.clock.seconds += 2.0
    line.step()
    assert tries == [1, 1]


def test_a_row_asked_for_again_that_chokes_the_far_side_holds_no_lane(line: Line) -> None:
    (poison,) = line.add(1, time="yesterday")
    line.finish()
    assert line.buried() == 1
    line.progress.send_again(line.progress.buried())
    line.jitter = lambda _low, high: high
    line.again()
    line.uplink.chokes_on = {poison}
    line.add(50)
    for _ in range(STEPS):
        if line.progress.settled(line.outbox.epoch, Lane.BULK).count() == 51:
            break
        line.clock.seconds += line.step()
    assert line.audit()["held"] == 50
    assert line.buried() == 1


def test_one_row_in_a_hundred_is_poison_and_each_is_buried_exactly(line: Line) -> None:
    line.again(batch={"max_rows": 64, "live_share": 0.2})
    poison = []
    for number in range(10):
        line.add(99)
        poison += line.add(1, **({"data": deep()} if number % 2 else {"time": "yesterday"}))
    line.finish()
    assert line.all_there(buried=10)
    assert {f"{told['epoch']}-{told['seq']}" for told in line.uplink.told} == set(poison)


# --- frames


def test_a_picture_is_there_before_its_row(line: Line) -> None:
    digests = [line.add_frame() for _ in range(3)]
    line.finish()
    assert line.all_there()
    said = [what for what, ids in line.uplink.asked if ids or what.startswith("PUT")]
    assert sorted(said[:3]) == sorted(f"PUT /v1/blobs/{digest}" for digest in digests)
    assert said[3:] == ["POST /v1/ingest"]
    rows = line.cloud.get(f"/v1/events?origin=device/{line.device}")["events"]
    assert [row["data"]["sha256"] for row in rows] == digests
    assert line.cloud.ask("GET", f"/v1/blobs/{digests[0]}").data.startswith(line.device.encode())


@pytest.mark.parametrize("is_asked_for_again", [False, True])
def test_a_picture_that_the_cloud_has_lost_is_uploaded_again(line: Line, is_asked_for_again: bool) -> None:
    digest = line.add_frame()
    line.uplink.script += ["pass", "rejects all" if is_asked_for_again else "503"]
    line.step()
    (lost,) = (line.cloud.home / "state" / "blobs").rglob(digest[2:])
    lost.unlink()
    line.progress.send_again(line.progress.buried())
    for _ in range(STEPS):
        if line.settled() and not line.buried():
            break
        line.clock.seconds += line.step()
    assert line.all_there()
    assert [what for what, _ in line.uplink.asked].count(f"PUT /v1/blobs/{digest}") == 2


@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_a_picture_that_is_lost_holds_nobody_up(line: Line, harm: str) -> None:
    line.add_frame()
    path = line.outbox.blobs.path(line.add_frame())
    line.add_frame()
    line.add(2, Lane.RESULT)
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(b"other bytes")
    line.finish()
    assert line.all_there(buried=1)


@pytest.mark.parametrize("error", ["EIO", "EUCLEAN"])
def test_a_picture_that_the_disk_cannot_even_find_holds_nobody_up_nor_when_it_is_asked_for_again(
    line: Line, error: str
) -> None:
    line.add_frame()
    path = line.outbox.blobs.path(line.add_frame())
    line.add_frame()
    line.add(2, Lane.RESULT)
    with calls_fail("open,openat,stat,newfstatat,statx", error, path):
        line.finish()
        assert line.all_there(buried=1)
        asked = Orders(line.progress, line.folder / "state", line.clock).obey({"do": "requeue"})
        assert (asked["requeued"], asked["kept_rows"]) == (0, 1)
        line.progress.send_again(line.progress.buried())
        line.finish()
    assert [row.reason for row in line.progress.buried()] == [PICTURE_GONE]


def test_a_file_in_the_place_of_a_folder_of_pictures_holds_nobody_up(line: Line) -> None:
    folder = line.outbox.blobs.path(line.add_frame()).parent
    line.add(2, Lane.RESULT)
    shutil.rmtree(folder)
    folder.write_text("damaged")
    line.finish()
    assert line.all_there(buried=1)


def test_pictures_get_through_a_link_that_never_stands_for_long(line: Line) -> None:
    """Every fourth request fails: what went up before it must not all have to go up again."""
    for _ in range(12):
        line.add_frame(40_000)
    line.again(batch={"max_bytes": 90_000})
    line.uplink.script.extend(["pass", "pass", "pass", "503"] * 50)
    for _ in range(STEPS):
        line.clock.seconds += 60
        line.step()
        if not line.waiting():
            break
    line.uplink.script.clear()
    line.finish()
    assert line.all_there()
    assert all(len(ids) <= 2 for ids in line.uplink.batches())


def test_pictures_get_through_a_link_on_which_every_other_request_fails(line: Line) -> None:
    """One batch of twelve pictures needs thirteen answers; what was uploaded is not uploaded again."""
    digests = [line.add_frame() for _ in range(12)]
    line.uplink.script.extend(["pass", "503"] * 100)
    for _ in range(60):
        line.clock.seconds += 60
        line.step()
    assert not line.waiting()
    assert line.all_there()
    came = [what for what, _ in line.uplink.asked if what.startswith("PUT")]
    assert {what.rpartition("/")[2] for what in came} == set(digests)
    assert len(came) <= 2 * len(digests) + 1


# --- several pictures at once, beside the other lanes


class Crowd:
    """Lets requests go on once so many of them are there together, and counts the most there ever were."""

    def __init__(self, wanted: int) -> None:
        self._wanted, self._here, self._lock = wanted, 0, threading.Lock()
        self.most, self.is_there = 0, threading.Event()

    def __call__(self) -> None:
        with self._lock:
            self._here += 1
            self.most = max(self.most, self._here)
            if self._here >= self._wanted:
                self.is_there.set()
        self.is_there.wait(60)
        with self._lock:
            self._here -= 1


@dataclass
class Once:
    """Does something at the first request, and then lets all wait until they may go on."""

    deed: Callable[[], object]
    go_on: threading.Event = field(default_factory=threading.Event)
    begun: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self) -> None:
        with self.lock:
            self.begun += 1
            is_first = self.begun == 1
        if is_first:
            self.deed()
        assert self.go_on.wait(60)


def bring_up(line: Line) -> None:
    line.add(1)
    line.finish()
    assert line.link.state == "up"


def pictures_asked(line: Line) -> list[str]:
    return [what.rpartition("/")[2] for what, _ in line.uplink.asked if what.startswith("PUT")]


def test_pictures_go_up_several_at_once_over_kept_connections(line: Line) -> None:
    line.again(cloud=line.settings()["cloud"] | {"uploads": 3}, batch={"max_rows": 15})
    bring_up(line)
    crowd = line.uplink.first["PUT"] = Crowd(3)
    for _ in range(40):
        line.add_frame()
    line.finish()
    assert line.all_there()
    assert (crowd.is_there.is_set(), crowd.most) == (True, 3)
    assert line.uplink.connections == 1 + 3
    line.close()
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("upload-")], "the threads end")


def test_a_reading_that_comes_while_pictures_go_up_overtakes_them(line: Line) -> None:
    """The cloud answers no picture before it has the reading, which comes when the first picture is under way."""
    bring_up(line)
    reading = f"{EPOCH}-{line.seq + 21}"
    pictures = Once(lambda: line.add(1))
    line.uplink.first |= {"PUT": pictures, reading: pictures.go_on.set}
    for _ in range(20):
        line.add_frame()
    line.finish()
    assert line.all_there()
    assert line.link.failures == 0
    assert [ids for ids in line.uplink.batches() if ids][1] == [reading]


def test_a_lane_that_is_paused_begins_no_more_pictures(line: Line) -> None:
    bring_up(line)
    line.uplink.first["PUT"] = once = Once(lambda: line.progress.pause([Lane.FRAME], 0))
    for _ in range(20):
        line.add_frame()
    line.step()
    once.go_on.set()
    line.add(3)
    for _ in range(5):
        line.step()
    assert 1 <= len(pictures_asked(line)) <= 4
    assert line.audit()["held"] == 4
    line.progress.resume([Lane.FRAME])
    line.finish()
    assert line.all_there()


def test_the_cloud_is_left_alone_when_it_asks_for_it_over_a_picture(line: Line) -> None:
    bring_up(line)
    line.add_frame()
    line.uplink.script.append("429")
    line.step()
    asked = len(line.uplink.asked)
    line.add(1, Lane.ALARM)
    line.clock.seconds += 6.9
    assert 0 < line.step() <= 7
    assert len(line.uplink.asked) == asked
    line.clock.seconds += 0.2
    line.finish()
    assert line.all_there()


def test_a_picture_that_failed_is_heeded_before_another_lane_goes_on(line: Line) -> None:
    line.again(batch={"max_rows": 1, "live_share": 0.0})
    bring_up(line)
    line.add_frame()
    first, *_ = line.add(3, Lane.ALARM)
    assert line.drain is not None
    choice = line.drain._choice
    line.uplink.first |= {
        "PUT": lambda: line.uplink.script.append("429"),
        first: lambda: wait_until(
            lambda: choice.loading is not None and choice.loading.shipment.failed is not None, "the picture has failed"
        ),
    }
    line.step()
    assert 0 < line.step() <= 7
    assert line.uplink.batches()[-1] == [first]
    del line.uplink.first["PUT"]
    line.clock.seconds += 8
    line.finish()
    assert line.all_there()


def test_pictures_that_take_long_let_those_go_that_are_there(line: Line) -> None:
    """The second picture's answer comes only with the first row's batch."""
    bring_up(line)
    seqs = [f"{EPOCH}-{line.seq + number}" for number in (1, 2, 3)]
    digests = [line.add_frame() for _ in seqs]

    def take_long() -> None:
        line.clock.seconds += 20

    second = Once(take_long)
    line.uplink.first |= {f"PUT /v1/blobs/{digests[1]}": second, seqs[0]: second.go_on.set}
    line.finish()
    assert line.all_there()
    assert [ids for ids in line.uplink.batches() if ids][1] == seqs[:1]
    assert sorted(pictures_asked(line)) == sorted(digests)


def test_a_picture_under_way_when_another_fails_goes_up_once(line: Line) -> None:
    bring_up(line)
    slow, refused = line.add_frame(), line.add_frame()
    once = Once(lambda: None)

    def fail() -> None:
        wait_until(lambda: once.begun > 0, "the slow one is under way")
        line.uplink.script.append("503")
        del line.uplink.first[f"PUT /v1/blobs/{refused}"]

    line.uplink.first |= {f"PUT /v1/blobs/{slow}": once, f"PUT /v1/blobs/{refused}": fail}
    line.step()
    assert line.link.state == "down"
    line.clock.seconds += 60
    again = threading.Thread(target=line.finish)
    again.start()
    wait_until(lambda: pictures_asked(line).count(refused) == 2, "the other one is tried again")
    once.go_on.set()
    again.join(60)
    assert line.all_there()
    assert pictures_asked(line).count(slow) == 1


def test_pictures_that_choke_the_far_side_hold_no_other_lane(line: Line) -> None:
    bring_up(line)
    line.jitter = lambda _low, high: high
    line.again()
    digest = line.add_frame()
    failing = True

    def choke() -> None:
        if failing:
            line.uplink.script.append("500")

    line.uplink.first["PUT"] = choke
    for _ in range(20):
        line.add(1)
        line.clock.seconds += max(line.step(), 0.1)
    assert line.audit()["held"] >= 15
    assert digest in pictures_asked(line)
    assert line.progress.settled(line.outbox.epoch, Lane.FRAME).count() == 0
    failing = False
    line.jitter = lambda low, _high: low
    line.again()
    line.finish()
    assert line.all_there()


# --- lanes


def test_an_alarm_overtakes_a_backlog(line: Line) -> None:
    line.again(batch={"max_rows": 50, "live_share": 0.0})
    line.add(500)
    line.step()
    (alarm,) = line.add(1, Lane.ALARM)
    line.step()
    assert line.uplink.batches()[1] == [alarm]


def test_nothing_starves_while_alarms_never_end(line: Line) -> None:
    line.again(batch={"max_rows": 10, "live_share": 0.0})
    waiting = {lane: set(line.add(10, lane)) for lane in (Lane.BULK, Lane.FRAME, Lane.RESULT, Lane.VERDICT)}
    for _ in range(40):
        line.add(1, Lane.ALARM)
        line.step()
    sent = set(itertools.chain.from_iterable(line.uplink.batches()))
    assert not any(ids - sent for ids in waiting.values())


@pytest.mark.parametrize("live_share", [0.0, 0.5])
def test_the_newest_is_seen_while_a_backlog_drains_and_nothing_goes_twice(line: Line, live_share: float) -> None:
    line.again(batch={"max_rows": 20, "live_share": live_share})
    ids = line.add(400)
    for _ in range(4):
        line.step()
    sent = list(itertools.chain.from_iterable(line.uplink.batches()))
    assert (ids[-1] in sent) is (live_share > 0)
    assert ids[300] not in sent
    more = line.add(5)
    line.step()
    line.step()
    assert (more[-1] in itertools.chain.from_iterable(line.uplink.batches())) is (live_share > 0)
    line.finish()
    assert line.all_there()
    sent = list(itertools.chain.from_iterable(line.uplink.batches()))
    assert len(sent) == len(set(sent)) == 405


def test_what_was_sent_live_is_joined_though_rows_of_other_lanes_stand_between(line: Line) -> None:
    line.again(batch={"max_rows": 10, "live_share": 0.5})
    for _ in range(50):
        line.add(1, Lane.BULK)
        line.add(1, Lane.RESULT)
    line.finish()
    assert line.all_there()
    sent = list(itertools.chain.from_iterable(line.uplink.batches()))
    assert len(sent) == len(set(sent)) == 100


def test_what_stays_here_never_goes_up(line: Line) -> None:
    line.add(3)
    line.seq -= len(line.add(2, Lane.LOCAL))
    for _ in range(5):
        line.step()
    assert line.audit()["held"] == 3


# --- the account


def test_a_lost_account_is_sent_again_and_nothing_is_doubled(line: Line) -> None:
    line.add(30)
    line.finish()
    before = line.refused()
    line.close()
    for file in (line.folder / "state").glob("sync.db*"):
        file.unlink()
    line.open()
    line.finish()
    assert line.all_there()
    assert line.refused() == (before[0] + 30, before[1])


def test_a_new_epoch_of_the_gateway_begins_a_new_account(line: Line) -> None:
    line.add(10)
    line.finish()
    old = line.outbox.epoch
    new = line.outbox.new_epoch("another machine")
    reader = SettledReader(line.folder / "state" / "sync.db")
    assert (reader.highest(old), reader.highest(new)) == (10, 0)
    line.add(5)
    line.finish()
    assert line.all_there()
    assert (reader.highest(old), reader.highest(new)) == (10, 15)


def test_an_idle_worker_tells_how_far_everyone_has_minted_once(line: Line) -> None:
    line.add(2)
    line.finish()
    with line.outbox.transaction():
        line.outbox.note_minted(f"device/{line.device}", EPOCH, 4)
    for _ in range(5):
        line.step()
    assert line.audit()["missing"] == [[3, 4]]
    asked = len(line.uplink.asked)
    line.step()
    assert len(line.uplink.asked) == asked


def test_a_worker_comes_before_its_gateway(line: Line, tmp_path: Path) -> None:
    state = tmp_path / "later"
    line.again(state_dir=str(state))
    assert line.step() > 0
    assert line.uplink.asked == []


# --- the process


class Worker:
    """`python -m millrace sync` over a line's database."""

    def __init__(self, line: Line, log: Path | None = None, **changed: Any) -> None:
        (line.folder / "sync.yaml").write_text(yaml.safe_dump(line.settings(**changed)), encoding="utf-8")
        with (log or Path(os.devnull)).open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "millrace", "sync", "--config", str(line.folder / "sync.yaml")], stderr=errors
            )

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture
def start(line: Line) -> Iterator[Callable[[], Worker]]:
    """Return a function that starts a worker over the line's database."""
    workers: list[Worker] = []

    def start() -> Worker:
        workers.append(Worker(line))
        return workers[-1]

    line.close()
    yield start
    for worker in workers:
        if worker.process.poll() is None:
            worker.end(signal.SIGKILL)


def test_a_kill_between_commit_and_settle_doubles_nothing(line: Line, start: Callable[[], Worker]) -> None:
    before = line.refused()
    line.add(20)
    line.uplink.script.append("hold")
    first = start()
    assert line.uplink.held.wait(60)
    first.end(signal.SIGKILL)
    reader = SettledReader(line.folder / "state" / "sync.db")
    assert (line.audit()["held"], reader.highest(line.outbox.epoch)) == (20, 0)
    second = start()
    wait_until(lambda: reader.highest(line.outbox.epoch) == 20, "all is settled")
    assert second.end(signal.SIGTERM) == 0
    assert line.all_there()
    assert line.refused() == (before[0] + 20, before[1])


def test_a_second_worker_on_one_account_ends_with_75_and_names_the_first(
    line: Line, start: Callable[[], Worker]
) -> None:
    first = start()
    line.add(1)
    reader = SettledReader(line.folder / "state" / "sync.db")
    wait_until(lambda: reader.highest(line.outbox.epoch) == 1, "the first one works")
    done = subprocess.run(first.process.args, capture_output=True, text=True, timeout=60)
    assert done.returncode == 75
    assert f"is written by process {first.process.pid}" in done.stderr


@pytest.mark.parametrize(
    ("write", "said"),
    [(lambda token: token.chmod(0o644), "others may read"), (lambda token: token.unlink(), "cannot read the secret")],
    ids=["read by others", "gone"],
)
def test_a_token_that_cannot_be_used_ends_the_start_with_78(
    line: Line, write: Callable[[Path], None], said: str
) -> None:
    line.close()
    write(line.token)
    (line.folder / "sync.yaml").write_text(yaml.safe_dump(line.settings()), encoding="utf-8")
    command = [sys.executable, "-m", "millrace", "sync", "--config", str(line.folder / "sync.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 78
    assert said in done.stderr.splitlines()[-1]


def test_a_damaged_gateway_database_is_waited_for_and_goes_up_again_when_it_is_salvaged(line: Line) -> None:
    line.add(40)
    line.finish()
    line.add(40)
    line.close()
    line.outbox.close()
    file = line.folder / "state" / "gateway.db"
    whole = file.read_bytes()
    file.write_bytes(b"\xa5" * len(whole))
    line.open()
    mark = file.with_name("gateway.db.heal")
    assert (line.step() > 0, mark.exists()) == (True, False)  # once may be a file that was being replaced
    assert (line.step() > 0, mark.exists()) == (True, True)
    file.write_bytes(whole)
    line.outbox = Outbox(file, BlobStore(line.folder / "state" / "frames"), "machine-1")
    assert file.with_name("gateway.db.damaged-1").read_bytes() == whole
    line.finish()
    assert line.all_there()
    assert line.refused()[0] >= 40  # a new epoch: all of it went up again, and the cloud knew what it had
