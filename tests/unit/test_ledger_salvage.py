"""The reference cloud's ledger, damaged: what reads goes on, and the audit says what is missing."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from cloud_sync.reference_cloud.audit import judge
from cloud_sync.reference_cloud.batch import read_batch
from cloud_sync.reference_cloud.ledger import Ledger
from millrace import clock, events, jsontext

SEQS = 300
INSTANT = clock.Instant(1_795_249_800_123_456_789, "b0075b00-7b00-4b00-8b00-7b0075b0075b", 12_345_678_901)


def batch_of(first: int, last: int) -> bytes:
    made = [
        events.new_event(events.READING, events.Key("/m/device/cam-1/belt", "k3v9x0pa", seq), INSTANT, data={"t": seq})
        for seq in range(first, last + 1)
    ]
    rows = [jsontext.parse(events.encode_json(event)) for event in made]
    return jsontext.dump({"batch": "b", "events": rows, "minted": {"device/cam-1": {"k3v9x0pa": last}}})


def ingest(ledger: Ledger, first: int, last: int) -> int:
    batch = read_batch(batch_of(first, last), "g1")
    assert not batch.rejected
    return ledger.ingest("site", batch.rows, batch.minted, INSTANT).accepted


@pytest.mark.parametrize("table", ["event", "span", "stream"])
def test_a_damaged_ledger_is_kept_salvaged_and_filled_again(tmp_path: Path, table: str) -> None:
    path = tmp_path / "cloud.db"
    ledger = Ledger(path)
    ingest(ledger, 1, SEQS)
    ledger.close()
    content = path.read_bytes()
    with sqlite3.connect(path) as look:
        (page,) = look.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    look.close()
    if content[(page - 1) * 4096] == 5:  # an inner page: take the last leaf
        page = int.from_bytes(content[(page - 1) * 4096 + 8 :][:4], "big")
    with path.open("r+b") as spoil:
        spoil.seek((page - 1) * 4096)
        spoil.write(bytes(4096))
    again = Ledger(path)
    assert path.with_name("cloud.db.damaged-1").exists()
    held = sum(judge(stream).held for stream in again.streams("site"))
    missing = sum(last - first + 1 for stream in again.streams("site") for first, last in judge(stream).missing)
    assert held + missing == (0 if table == "stream" else SEQS)
    assert (table == "span") == (missing == 0 and held == SEQS)
    assert ingest(again, 1, SEQS) == SEQS - held
    (whole,) = again.streams("site")
    assert (judge(whole).held, judge(whole).missing) == (SEQS, [])
    again.close()
