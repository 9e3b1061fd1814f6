"""An agent with frames in memory ends in three ways while the gateway is away: SIGKILL, a stop, a power cut."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from millrace import events
from millrace.chaos.line import Line
from millrace.chaos.plan import Plan
from millrace.demo.stage import wait_until
from millrace.entries import Lane
from millrace.outbox_reader import Reader
from millrace.ranges import RangeSet
from millrace.tail import KEY, TailNote, parse

DEVICE = "line-1"
Keys = set[tuple[str, int]]


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    with Line(tmp_path, Plan(durability="process", devices=1)) as line:
        line.wait_for_flow(20)
        yield line


def note_of(line: Line) -> TailNote | None:
    reader = Reader(line.home / DEVICE / "spool.db")
    try:
        return parse(reader.note(KEY))
    finally:
        reader.close()


def keys(file: Path, lane: Lane) -> Keys:
    reader = Reader(file)
    try:
        return {(entry.epoch, entry.seq) for entry in reader.read(lane, 0, 100_000)}
    finally:
        reader.close()


def part_from_the_gateway(line: Line, late: int = 0) -> TailNote:
    """Take the gateway away until some frames wait in memory, and so many readings are late: on disk; return where."""
    line.programs["gateway"].kill()
    assert wait_until(lambda: note_of(line) is not None, 60), line.last_words()
    note = note_of(line)
    assert note is not None
    disk = line.home / DEVICE / "spool.db"
    assert wait_until(lambda: len(keys(note.path, Lane.FRAME)) >= 5 and len(keys(disk, Lane.BULK)) >= late, 60)
    return note


def test_what_waits_in_memory_outlives_a_kill_and_a_stop_and_is_declared_after_a_power_cut(line: Line) -> None:
    disk, agent = line.home / DEVICE / "spool.db", line.programs[DEVICE]

    note = part_from_the_gateway(line)
    agent.kill()
    in_memory = keys(note.path, Lane.FRAME)
    line.start(DEVICE)
    line.start("gateway")
    line.wait_for_flow(20)
    assert list(line.minted()[f"device/{DEVICE}"]) == [note.epoch], "a kill begins no epoch"

    note = part_from_the_gateway(line)
    assert agent.stop() in (0, -signal.SIGTERM)
    assert note_of(line) is None
    assert not note.path.exists()
    spilled = keys(disk, Lane.FRAME)
    assert spilled
    line.start(DEVICE)
    line.start("gateway")
    line.wait_for_flow(20)

    note = part_from_the_gateway(line, late=20)
    agent.kill()
    on_disk, gone = keys(disk, Lane.FRAME) | keys(disk, Lane.BULK), keys(note.path, Lane.FRAME) - keys(disk, Lane.FRAME)
    assert gone
    shutil.rmtree(note.folder)
    line.start(DEVICE)
    line.start("gateway")
    line.hush()
    assert wait_until(line.is_empty, 120), line.last_words()

    epochs = line.minted()[f"device/{DEVICE}"]
    assert next(iter(epochs)) == note.epoch
    assert len(epochs) == 2
    held = {events.parse_id(event["id"]) for event in line.cloud.events(f"device/{DEVICE}")}
    audit = {finding["epoch"]: finding for finding in line.cloud.audit()["origins"]}
    unproven = RangeSet(map(tuple, audit[note.epoch]["unproven"]))
    assert in_memory | spilled | on_disk <= held
    assert all(seq in unproven or (epoch, seq) in held for epoch, seq in gone)
    assert not [seq for epoch, seq in on_disk if epoch == note.epoch and seq in unproven]
    assert audit[note.epoch]["missing"] == []
    told = RangeSet([*unproven, *((seq, seq) for epoch, seq in held if epoch == note.epoch)])
    assert told.gaps(1, epochs[note.epoch]) == []
