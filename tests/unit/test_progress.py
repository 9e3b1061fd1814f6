"""What the sync worker has settled: on its own disk, read by the gateway, and never more than the cloud committed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloud_sync.progress import Progress
from millrace.blobs import StorageFailed
from millrace.database import Locked
from millrace.entries import Entry, Lane
from millrace.ranges import RangeSet
from millrace.settled import SettledReader

EPOCH = "g4t3w4y1"
ROW = Entry(7, Lane.RESULT, EPOCH, 70, b'{"id": "x"}', None, 11, 0, intact=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "sync.db"


@pytest.fixture
def progress(path: Path) -> Iterator[Progress]:
    progress = Progress(path)
    yield progress
    progress.close()


def test_what_was_settled_is_known_after_a_restart_and_to_the_gateway(progress: Progress, path: Path) -> None:
    progress.settle(EPOCH, Lane.RESULT, 1, 9)
    progress.settle(EPOCH, Lane.RESULT, 20, 25)
    progress.settle(EPOCH, Lane.RESULT, 10, 12)
    progress.settle("otherone", Lane.RESULT, 1, 99)
    progress.close()
    again = Progress(path)
    assert again.settled(EPOCH, Lane.RESULT) == RangeSet([(1, 12), (20, 25)])
    assert again.settled(EPOCH, Lane.FRAME) == RangeSet()
    again.close()
    reader = SettledReader(path)
    assert reader.read(EPOCH) == {Lane.RESULT: RangeSet([(1, 12), (20, 25)])}
    assert reader.highest(EPOCH) == 25
    assert reader.highest("nowhere1") == 0


def test_how_many_were_buried_of_late_is_known_after_a_restart(progress: Progress, path: Path) -> None:
    progress.settle(EPOCH, Lane.RESULT, 1, 9, [(ROW, "refused")], seen=(9, 1))
    progress.settle(EPOCH, Lane.RESULT, 10, 12, seen=(12, 1))
    progress.close()
    again = Progress(path)
    assert (again.burials(Lane.RESULT), again.burials(Lane.FRAME)) == ((12, 1), (0, 0))
    again.close()


def test_a_gateway_alone_has_nothing_settled_until_a_sync_worker_comes(path: Path) -> None:
    reader = SettledReader(path)
    assert (reader.read(EPOCH), reader.highest(EPOCH), reader.link()) == ({}, 0, None)
    progress = Progress(path)
    progress.settle(EPOCH, Lane.ALARM, 1, 1)
    assert reader.read(EPOCH) == {Lane.ALARM: RangeSet([(1, 1)])}
    progress.close()


def test_a_buried_row_is_told_of_once(progress: Progress, path: Path) -> None:
    progress.settle(EPOCH, Lane.RESULT, 1, 9, [(ROW, "checksum " * 100)])
    (told,) = progress.untold()
    assert told[:3] == (EPOCH, 7, ROW.body)
    assert told[3] == ("checksum " * 100)[:500]
    progress.told([told])
    assert progress.untold() == []


def test_a_disk_that_refuses_settles_nothing(progress: Progress, path: Path) -> None:
    progress.settle(EPOCH, Lane.RESULT, 1, 9)
    pages = progress._connection.execute("PRAGMA page_count").fetchone()[0]
    progress._connection.execute(f"PRAGMA max_page_count = {pages}")
    large = Entry(30, Lane.RESULT, EPOCH, 30, bytes(1 << 20), None, 1 << 20, 0, intact=True)
    with pytest.raises(StorageFailed, match=r"sync\.db.*full"):
        progress.settle(EPOCH, Lane.RESULT, 10, 30, [(large, "too large for this disk")])
    assert progress.settled(EPOCH, Lane.RESULT) == RangeSet([(1, 9)])
    assert SettledReader(path).highest(EPOCH) == 9
    progress.settle(EPOCH, Lane.RESULT, 10, 30)
    assert SettledReader(path).highest(EPOCH) == 30


def test_the_link_says_since_when_it_is_as_it_is(progress: Progress, path: Path) -> None:
    reader = SettledReader(path)
    seen = []
    for state, wall_ns in [("up", 10), ("up", 20), ("down", 30), ("down", 40), ("up", 50)]:
        progress.note_link(state, wall_ns, 2.5)
        link = reader.link()
        assert link is not None
        seen.append((link["state"], link["since_wall_ns"], link["last_success_wall_ns"], link["rows_per_s"]))
    assert seen == [
        ("up", 10, 10, 2.5), ("up", 10, 20, 2.5), ("down", 30, 20, 2.5), ("down", 30, 20, 2.5), ("up", 50, 50, 2.5),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(lambda data: b"\xa5" * len(data), id="header"),
        pytest.param(lambda data: data[:4096] + b"\xa5" * (len(data) - 4096), id="pages"),
        pytest.param(lambda data: data.replace(b"TABLE link (", b"TABLE link \xf5"), id="schema that is no text"),
    ],
)
def test_a_damaged_account_settles_nothing_and_its_owner_makes_a_new_one(
    progress: Progress, path: Path, harm: Callable[[bytes], bytes]
) -> None:
    progress.settle(EPOCH, Lane.RESULT, 1, 9)
    progress.close()
    whole = path.read_bytes()
    assert harm(whole) != whole
    path.write_bytes(harm(whole))
    reader = SettledReader(path)
    assert (reader.highest(EPOCH), reader.link()) == (0, None)
    again = Progress(path)
    again.settle(EPOCH, Lane.RESULT, 1, 3)
    assert reader.highest(EPOCH) == 3
    assert path.with_name("sync.db.damaged-1").exists()
    again.close()


@pytest.mark.parametrize("flipped", ["lane = 77", "last = 'r'"])
def test_a_number_that_damage_made_unreadable_settles_nothing_and_its_owner_makes_a_new_account(
    progress: Progress, path: Path, flipped: str
) -> None:
    progress.settle(EPOCH, Lane.RESULT, 1, 9)
    progress._connection.execute(f"UPDATE settled SET {flipped}")
    reader = SettledReader(path)
    assert reader.highest(EPOCH) == 0
    progress.close()
    again = Progress(path)
    assert again.settled(EPOCH, Lane.RESULT) == RangeSet()
    again.settle(EPOCH, Lane.RESULT, 1, 3)
    assert reader.highest(EPOCH) == 3
    assert path.with_name("sync.db.damaged-1").exists()
    again.close()


@pytest.mark.parametrize("column", ["lane", "first", "last"])
@pytest.mark.parametrize("bit", [0, 1, 9, 30])
def test_a_number_with_a_flipped_bit_settles_nothing_for_either_reader(
    progress: Progress, path: Path, column: str, bit: int
) -> None:
    progress.settle(EPOCH, Lane.VERDICT, 1000, 2000)
    progress.settle(EPOCH, Lane.FRAME, 7, 8)
    flipped = f"UPDATE settled SET {column} = ({column} | ?1) - ({column} & ?1) WHERE first = 1000"
    progress._connection.execute(flipped, (1 << bit,))
    reader = SettledReader(path)
    assert reader.read(EPOCH) == {Lane.FRAME: RangeSet([(7, 8)])}
    progress.close()
    again = Progress(path)
    assert not any(again.settled(EPOCH, lane) for lane in Lane)
    again.settle(EPOCH, Lane.RESULT, 1, 3)
    assert reader.read(EPOCH) == {Lane.RESULT: RangeSet([(1, 3)])}
    reader.close()
    again.close()


def test_a_lane_that_damage_made_up_hides_no_other_from_a_reader(progress: Progress, path: Path) -> None:
    progress.pause([Lane.FRAME], 1)
    for rows in ("paused VALUES (77, 1)", "rate VALUES (77, 1.0), (1, 'x'), (2, 3.5)"):
        progress._connection.execute(f"INSERT INTO {rows}")
    reader = SettledReader(path)
    assert reader.paused() == [Lane.FRAME]
    assert reader.rates() == {Lane(2): 3.5}
    reader.close()


def test_one_sync_worker_for_a_file(progress: Progress, path: Path) -> None:
    with pytest.raises(Locked, match="is written by process"):
        Progress(path)
    progress.settle(EPOCH, Lane.RESULT, 1, 1)
