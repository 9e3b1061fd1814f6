"""`millrace queue` as a person runs it: against a sync worker that runs, one that was killed, and none."""

from __future__ import annotations

import csv
import hashlib
import json
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from integration.brokers import wait_until
from integration.test_reference_cloud import Cloud as ReferenceCloud
from integration.test_sync import EPOCH, Line, Uplink, cloud, uplink

from cloud_sync.orders import PICTURE_GONE, Orders
from cloud_sync.progress import DAMAGED
from millrace.control import SYNC_WORKER, Control
from millrace.entries import Lane
from millrace.healing import is_asked_for

__all__ = ["cloud", "uplink"]


@pytest.fixture
def line(tmp_path: Path, uplink: Uplink) -> Iterator[Line]:
    made = Line(tmp_path, uplink)
    yield made
    made.close()
    made.outbox.close()


def queue(line: Line, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "millrace", "queue", *words, "--state-dir", str(line.folder / "state")]
    return subprocess.run(command, capture_output=True, text=True)


def listed(line: Line) -> dict[str, Any]:
    done = queue(line, "list", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextmanager
def taking_orders(line: Line) -> Iterator[None]:
    """Have the worker that the test steps take orders at its socket."""
    state_dir = line.folder / "state"
    control = Control(state_dir, Orders(line.progress, state_dir, line.clock))
    thread = threading.Thread(target=control.run)
    thread.start()
    try:
        yield
    finally:
        control.interrupt()
        thread.join()


@contextmanager
def running_worker(line: Line) -> Iterator[subprocess.Popen[str]]:
    """Run `millrace sync` as a process of its own instead of the worker that the test steps."""
    line.close()
    file = line.folder / "sync.yaml"
    file.write_text(yaml.safe_dump(line.settings()))
    command = [sys.executable, "-m", "millrace", "sync", "--config", str(file)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert any("sync_ready" in said for said in process.stderr)
            yield process
        finally:
            process.kill()


def bury(line: Line, reason: str = "refused once") -> None:
    """Have all that waits refused by a cloud of another mind, and tell the present one of it."""
    for row in line.outbox.read(0, 1000):
        if row.position not in line.progress.settled(line.outbox.epoch, row.lane):
            line.progress.settle(line.outbox.epoch, row.lane, row.position, row.position, [(row, reason)], 10**18)
    line.finish()


def test_list_says_what_waits_how_long_and_when_it_is_done(line: Line) -> None:
    line.add(512)
    line.step()
    line.add_frame(5000)
    found = listed(line)
    assert (found["worker"], found["link"]["state"], found["buried"]) == ("not running", "up", 0)
    assert {name: lane["rows"] for name, lane in found["lanes"].items() if lane["rows"]} == {"bulk": 256, "frame": 1}
    assert found["lanes"]["frame"]["bytes"] > 5000
    assert found["lanes"]["bulk"]["oldest_wall_ns"] == 1_790_000_000_000_000_000
    assert found["lanes"]["bulk"]["done_in_s"] is None
    with taking_orders(line):
        found = listed(line)
    bulk = found["lanes"]["bulk"]
    assert (found["worker"], bulk["done_in_s"]) == ("running", pytest.approx(256 / bulk["rows_per_s"]))


def test_a_link_that_is_down_has_its_reason_and_promises_nothing(line: Line) -> None:
    line.add(300)
    line.step()
    line.uplink.script.append("captive portal")
    line.step()
    with taking_orders(line):
        found, said = listed(line), queue(line, "list").stdout
    assert found["link"]["state"] == "down"
    assert "text/html: captive portal?" in found["link"]["reason"]
    assert found["lanes"]["bulk"]["rows_per_s"] > 0
    assert found["lanes"]["bulk"]["done_in_s"] is None
    head, _, columns, *rows = said.splitlines()
    assert head.startswith("sync worker: running; link: down for ")
    assert columns.split() == ["lane", "rows", "size", "oldest", "rate", "done", "in", "state"]
    assert [row.split()[:2] for row in rows] == [
        ["alarm", "0"],
        ["verdict", "0"],
        ["result", "0"],
        ["frame", "0"],
        ["bulk", "44"],
    ]


def test_a_paused_lane_waits_while_the_others_go_and_goes_on_when_told(line: Line) -> None:
    line.add(3)
    line.add(2, Lane.RESULT)
    with taking_orders(line):
        done = queue(line, "pause", "bulk")
        assert (done.returncode, done.stdout) == (0, "paused: bulk\n")
        for _ in range(5):
            line.step()
        assert line.audit()["held"] == 2
        assert "held back: bulk; go on: millrace queue resume" in queue(line, "list").stdout
        assert queue(line, "resume").stdout == "paused: none\n"
        line.finish()
    assert line.all_there()


def test_a_pause_outlasts_a_worker_that_is_killed(line: Line) -> None:
    with running_worker(line) as worker:
        assert queue(line, "pause").stdout == "paused: alarm, verdict, result, frame, bulk\n"
        worker.send_signal(signal.SIGKILL)
    refused = queue(line, "resume")
    assert refused.returncode == 69
    assert "start it (systemctl start millrace-sync) and ask again" in refused.stderr
    line.add(5)
    found = listed(line)
    assert (found["worker"], found["lanes"]["bulk"]["paused"], found["lanes"]["bulk"]["rows"]) == (
        "not running",
        True,
        5,
    )
    with running_worker(line):
        assert queue(line, "resume", "bulk").stdout == "paused: alarm, verdict, result, frame\n"
        wait_until(lambda: listed(line)["lanes"]["bulk"]["rows"] == 0, "the backlog is drained")
    line.open()
    assert line.all_there()


def test_only_the_owner_gets_at_the_socket_and_it_goes_with_the_worker(line: Line) -> None:
    with taking_orders(line):
        mode = (line.folder / "state" / SYNC_WORKER.socket).stat().st_mode
        assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
    assert not (line.folder / "state" / SYNC_WORKER.socket).exists()


def test_a_buried_row_that_is_sent_again_is_held_by_the_cloud(line: Line) -> None:
    line.add(3)
    line.add_frame()
    bury(line)
    assert line.all_there(buried=4)
    said = queue(line, "list", "--buried").stdout.splitlines()
    assert [row.split()[:4] for row in said[1:]] == [
        *(
            [f"device/{line.device}/belt/{EPOCH}-{seq}", "bulk", "2001-09-09T01:46:40.000000Z", "refused"]
            for seq in (1, 2, 3)
        ),
        [f"device/{line.device}/top/{EPOCH}-4", "frame", "2001-09-09T01:46:40.000000Z", "refused"],
    ]
    with taking_orders(line):
        assert queue(line, "requeue", f"{EPOCH}-2").stdout == "1 to be sent again\n"
        line.finish()
        assert line.audit() == {"held": 1, "declared": {"buried": 3}, "missing": [], "unproven": []}
        assert queue(line, "requeue", "--all").stdout == "3 to be sent again\n"
        line.finish()
    assert line.all_there()
    assert listed(line)["buried"] == 0


def test_a_row_asked_for_again_outlasts_a_restart_and_a_second_refusal_buries_it_again(line: Line) -> None:
    line.add(1, source="/millrace/gateway/another")
    line.finish()
    first = json.loads(queue(line, "list", "--buried", "--json").stdout)
    with taking_orders(line):
        queue(line, "requeue", "--all")
    line.again()
    line.step()
    again = json.loads(queue(line, "list", "--buried", "--json").stdout)
    assert "is not the gateway of this credential" in first["reason"]
    assert again == first | {"to_be_sent_again": False}


def test_what_cannot_be_sent_again_stays_buried_and_says_why(line: Line) -> None:
    digest = line.add_frame()
    bury(line)
    line.add(1)
    bury(line, DAMAGED)
    (line.folder / "state" / "frames" / digest[:2] / digest[2:]).unlink()
    with taking_orders(line):
        done = queue(line, "requeue", "--all")
        unknown = queue(line, "requeue", f"{EPOCH}-77")
    assert (done.returncode, done.stdout) == (1, "0 to be sent again\n")
    assert f"device/{line.device}/top/{EPOCH}-1: {PICTURE_GONE}" in done.stderr
    assert f"device/{line.device}/belt/{EPOCH}-2: {DAMAGED}" in done.stderr
    assert unknown.returncode == 1
    assert "no buried row has the key" in unknown.stderr
    assert listed(line)["buried"] == 2


def test_a_picture_that_goes_between_the_asking_and_the_sending_leaves_the_row_buried(line: Line) -> None:
    digest = line.add_frame()
    line.add(1)
    bury(line)
    line.outbox.connection.execute("DELETE FROM entry")
    with taking_orders(line):
        queue(line, "requeue", "--all")
    (line.folder / "state" / "frames" / digest[:2] / digest[2:]).unlink()
    line.step()
    (left,) = line.progress.buried()
    assert (left.lane, left.reason, left.again, line.link.state) == (Lane.FRAME, PICTURE_GONE, 0, "up")
    assert line.audit() == {"held": 1, "declared": {"buried": 1}, "missing": [], "unproven": []}


def test_export_writes_what_waits_with_its_pictures_and_leaves_it_waiting(line: Line, tmp_path: Path) -> None:
    line.add(600)
    line.step()
    digest = line.add_frame()
    written = queue(line, "export", str(tmp_path / "rows.ndjson"), "--pictures", str(tmp_path / "album"))
    assert written.returncode == 0, written.stderr
    rows = [json.loads(text) for text in (tmp_path / "rows.ndjson").read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"{EPOCH}-601", *(f"{EPOCH}-{seq}" for seq in range(257, 601))]
    assert hashlib.sha256((tmp_path / "album" / rows[0]["picture"]).read_bytes()).hexdigest() == digest
    assert queue(line, "export", str(tmp_path / "rows.csv")).returncode == 0
    with (tmp_path / "rows.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["id"], json.loads(row["data"])) for row in table] == [(row["id"], row.get("data")) for row in rows]
    assert queue(line, "export", "-").stdout.splitlines()[1] == json.dumps(rows[1] | {"picture": None})
    line.finish()
    assert line.all_there()


def test_export_refuses_a_name_that_tells_no_form_and_a_place_where_it_may_not_write(line: Line) -> None:
    assert queue(line, "export", "rows.xlsx").returncode == 2
    line.add(1)
    refused = queue(line, "export", "/proc/rows.csv")
    assert refused.returncode == 1
    assert "write where this user may" in refused.stderr


def test_an_order_that_makes_no_sense_is_answered_and_changes_nothing(line: Line, cloud: ReferenceCloud) -> None:
    orders = Orders(line.progress, line.folder / "state", line.clock)
    control = Control(line.folder / "state", orders)
    for words in (
        b"",
        b"[]",
        b"{}",
        b'{"do": "pause"}',
        b'{"do": "pause", "lanes": ["local"]}',
        b'{"do": "requeue", "key": 1}',
    ):
        assert list(control._answer(words)) == ["error"]
    assert line.progress.paused == frozenset()
    control.interrupt()
    control.run()
    assert not (line.folder / "state" / SYNC_WORKER.socket).exists()


def test_an_order_that_meets_damage_is_answered_and_has_the_gateway_heal_its_file(line: Line) -> None:
    line.add_frame()
    bury(line)
    line.progress._connection.execute("UPDATE buried SET blob = NULL")  # as an older program buried it
    line.close()
    line.outbox.close()
    file = line.folder / "state" / "gateway.db"
    whole = file.read_bytes()
    file.write_bytes(whole[:100] + b"\xa5" * (len(whole) - 100))
    line.open()
    with taking_orders(line):
        said = [queue(line, "requeue", "--all").stderr for _ in range(2)]
        assert ["nothing was done: it is read once more" in words for words in said] == [True, False]
        assert "nothing was done: the gateway ends for it, and its next start salvages it" in said[1]
        assert is_asked_for(file)
        assert queue(line, "pause").returncode == 0
    assert [row.again for row in line.progress.buried()] == [0]
