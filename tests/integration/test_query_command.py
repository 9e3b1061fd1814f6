"""`millrace query` on a live gateway database: read-only, and out of the writer's way."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from millrace import events
from millrace.blobs import BlobStore
from millrace.clock import Instant
from millrace.entries import Draft, Lane
from millrace.outbox import Outbox


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    writer = Outbox(tmp_path / "gateway.db", BlobStore(tmp_path / "frames"), "test")
    with writer.transaction():
        drafts = [Draft(Lane.RESULT, writer.epoch, writer.mint(), b'{"data":{"label":"ok"}}') for _ in range(3)]
        writer.append(drafts, 0.0)
    yield writer
    writer.close()


def _query(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "millrace", "query", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_query_reads_while_the_gateway_writes_and_leaves_it_free_to_go_on(outbox: Outbox) -> None:
    sql = "select json_extract(body, '$.data.label') as label, count(*) as n from entry group by 1"
    done = _query(sql, "--state-dir", str(outbox.path.parent))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"label": "ok", "n": 3}
    with outbox.transaction():
        outbox.append([Draft(Lane.RESULT, outbox.epoch, outbox.mint(), b"{}")], 0.0)
    assert outbox.held_rows == 4


def test_query_counts_what_detectors_found_as_the_page_on_models_says(outbox: Outbox) -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    (sql,) = re.findall(r'^millrace query "(.*)"$', page, re.MULTILINE)
    bodies = [b'{"data":{"label":"nothing","detections":[]}}']
    bodies += [b'{"data":{"label":"screw","detections":[{"label":"screw"},{"label":"scratch"},{"label":"screw"}]}}']
    with outbox.transaction():
        outbox.append([Draft(Lane.RESULT, outbox.epoch, outbox.mint(), body) for body in bodies], 0.0)
    done = _query(sql, "--state-dir", str(outbox.path.parent))
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"label": "scratch", "n": 1},
        {"label": "screw", "n": 2},
    ]


def test_query_sees_readings_as_they_came(outbox: Outbox) -> None:
    key = events.Key("/millrace/device/cam-1/c0", outbox.epoch, 1)
    event = events.new_event(events.READING, key, Instant(0, "boot", 1), data={"temperature_c": 21.5})
    with outbox.transaction():
        outbox.append([Draft(Lane.BULK, outbox.epoch, 1, events.encode_json(event))], 0.0)
    sql = "select json_extract(body, '$.data.temperature_c') as t, json_extract(body, '$.id') as id from entry"
    done = _query(f"{sql} where lane = 5", "--state-dir", str(outbox.path.parent))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"t": 21.5, "id": f"{outbox.epoch}-1"}


def test_query_prints_csv_and_no_more_rows_than_asked(outbox: Outbox) -> None:
    done = _query("select seq from entry order by seq", "--csv", "--rows", "2", "--state-dir", str(outbox.path.parent))
    assert list(csv.DictReader(io.StringIO(done.stdout))) == [{"seq": "1"}, {"seq": "2"}]


@pytest.mark.parametrize("sql", ["delete from entry", "drop table entry", "select * from nowhere", "not sql"])
def test_query_changes_nothing_and_says_why_it_refuses(outbox: Outbox, sql: str) -> None:
    done = _query(sql, "--state-dir", str(outbox.path.parent))
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr
    assert len(outbox.read(0, 10)) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file to another user")
def test_query_as_root_goes_on_as_the_owner_and_leaves_no_foreign_file(outbox: Outbox) -> None:
    folder = outbox.path.parent
    for path in [folder, *folder.iterdir()]:
        os.chown(path, 12345, 12345)
    for parent in folder.parents:
        if parent.stat().st_mode & 0o055 != 0o055:  # pytest keeps its own folders to itself
            parent.chmod(0o755)
    done = _query("select count(*) as n from entry", "--state-dir", str(folder))
    assert json.loads(done.stdout) == {"n": 3}, done.stderr
    assert {path.stat().st_uid for path in folder.iterdir()} == {12345}
