"""`millrace audit` on real files against the real reference cloud: what waits is no gap, and each gap is named."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from integration.test_sync import EPOCH, INSTANT, Line, Uplink, cloud, uplink

from millrace import events, topics
from millrace.blobs import BlobStore
from millrace.counters import write_epoch
from millrace.entries import Draft, Lane
from millrace.outbox import Outbox

__all__ = ["cloud", "uplink"]
STREAMS = "CREATE TABLE stream (no INTEGER PRIMARY KEY, device TEXT, epoch TEXT, watermark INTEGER, ahead TEXT)"


@pytest.fixture
def line(tmp_path: Path, uplink: Uplink) -> Iterator[Line]:
    made = Line(tmp_path, uplink)
    made.outbox.connection.execute(STREAMS)
    yield made
    made.close()
    made.outbox.close()


def accept(line: Line, watermark: int, ahead: str = "[]") -> None:
    line.outbox.connection.execute("DELETE FROM stream")
    values = (line.device, EPOCH, watermark, ahead)
    line.outbox.connection.execute("INSERT INTO stream (device, epoch, watermark, ahead) VALUES (?, ?, ?, ?)", values)


def spool_of(line: Line, folder: Path, minted: int, *held: int) -> Path:
    """Make the device's spool: the epoch that the gateway knows, and the rows that it still holds."""
    spool = Outbox(folder / "spool.db", BlobStore(folder / "frames"), "machine-1")
    source = topics.device_source("millrace", line.device, "belt")
    with spool.transaction():
        for seq in held:
            event = events.new_event(events.READING, events.Key(source, EPOCH, seq), INSTANT, data={"t": seq})
            spool.append([Draft(Lane.BULK, EPOCH, seq, events.encode_json(event))], 0.0)
    with spool.transaction():
        spool.connection.execute("DELETE FROM own_epoch")
        write_epoch(spool.connection, EPOCH, 1, minted + 1, "created")
    spool.close()
    return folder


def audit(line: Line, *words: str, url: str = "") -> tuple[int, dict[str, Any]]:
    file = line.folder / "sync.yaml"
    cloud = {"url": url or line.cloud.url, "token_file": str(line.token)}
    file.write_text(yaml.safe_dump(line.settings(cloud=cloud)))
    command = [sys.executable, "-m", "millrace", "audit", "--config", str(file), "--json", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def of_device(line: Line, found: dict[str, Any]) -> dict[str, Any]:
    (finding,) = (one for one in found["origins"] if one["origin"] == f"device/{line.device}")
    return {
        name: finding[name] for name in ("minted", "held", "settled", "at_gateway", "at_device", "unread", "missing")
    }


def test_what_is_held_or_waits_at_gateway_or_device_is_no_gap(line: Line, tmp_path: Path) -> None:
    line.add(5)
    line.finish()
    line.add(3)
    accept(line, 8)
    spool = spool_of(line, tmp_path / "agent", 10, 8, 9, 10)
    reader = tmp_path / "reader"
    reader.touch(mode=0o600)
    reader.write_text("reader-token")
    code, found = audit(line, "--spool", str(spool), "--token-file", str(reader))
    assert (code, found["cloud"]) == (0, "asked")
    assert found["verdict"] == "verdict: nothing is missing: all is held, declared or waiting"
    assert of_device(line, found) == {
        "minted": 10, "held": 5, "settled": 0, "at_gateway": 3, "at_device": 2, "unread": 0, "missing": [],
    }  # fmt: skip


def test_each_gap_is_named_wherever_the_row_was_lost(line: Line, tmp_path: Path) -> None:
    line.add(8)
    line.outbox.forget([3, 6, 7])  # the gateway's disk lost what it had accepted
    accept(line, 8)
    line.step()
    spool = spool_of(line, tmp_path / "agent", 12, 9, 11)  # and the device's lost what nobody had
    code, found = audit(line, "--spool", str(spool / "spool.db"))
    assert code == 1
    assert of_device(line, found)["missing"] == [[3, 3], [6, 7], [10, 10], [12, 12]]
    assert found["verdict"] == "verdict: 5 MISSING; look for them"


def test_a_device_whose_spool_is_not_read_may_still_hold_what_no_receipt_covers(line: Line) -> None:
    line.add(8)
    line.outbox.forget([3])
    accept(line, 4, "[[6, 6]]")
    line.outbox.forget([5, 7, 8])
    line.step()
    code, found = audit(line)
    assert code == 1
    assert of_device(line, found)["unread"] == 3
    assert of_device(line, found)["missing"] == [[3, 3]]


def test_what_a_result_or_a_ledger_record_speaks_for_waits_with_it(line: Line) -> None:
    gateway = topics.gateway_source("millrace", "g1")
    epoch = line.outbox.epoch
    subject = events.subject_of(line.device, "top", f"{EPOCH}-1")
    about = {"device": line.device, "epoch": EPOCH, "from": 2, "to": 4, "disposition": "shed", "reason": "no model"}
    with line.outbox.transaction():
        for type_, data, said in ((events.RESULT, {"label": "ok"}, subject), (events.LEDGER, about, None)):
            key = events.Key(gateway, epoch, line.outbox.mint())
            body = events.encode_json(events.new_event(type_, key, INSTANT, data=data, subject=said))
            line.outbox.append([Draft(Lane.RESULT, epoch, key.seq, body)], 0.0)
        line.outbox.note_minted(f"device/{line.device}", EPOCH, 4)
    accept(line, 4)
    code, found = audit(line)
    assert (code, of_device(line, found)["at_gateway"]) == (0, 4)
    (finding,) = (one for one in found["origins"] if one["origin"] == f"device/{line.device}")
    assert finding["reasons"] == {"shed: no model": 3}


def test_without_the_cloud_it_says_what_can_be_said(line: Line) -> None:
    line.add(5)
    line.finish()
    line.add(2)
    accept(line, 7)
    wanted = {"minted": 7, "held": 0, "settled": 5, "at_gateway": 2, "at_device": 0, "unread": 0, "missing": []}
    code, found = audit(line, "--no-cloud")
    assert (code, found["cloud"], of_device(line, found)) == (0, "--no-cloud", wanted)
    assert found["verdict"] == "verdict: nothing is missing as far as can be told without the cloud"
    code, found = audit(line, url=line.uplink.url)  # it passes no GET on, and answers in HTML
    assert (code, of_device(line, found)) == (0, wanted)
    assert "captive portal" in found["cloud"]


def test_a_spool_that_is_not_there_is_said(line: Line, tmp_path: Path) -> None:
    file = line.folder / "sync.yaml"
    file.write_text(yaml.safe_dump(line.settings()))
    command = [sys.executable, "-m", "millrace", "audit", "--config", str(file), "--spool", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "is not there, or is no agent's spool" in done.stderr
