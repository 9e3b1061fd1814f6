"""Starting in any state: the damaged file is kept, what reads goes on, and what is not proven is declared."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

from millrace.blobs import BlobStore
from millrace.database import PAGE_BYTES, Damaged, mark_of
from millrace.doubts import Doubt
from millrace.entries import Draft, Entry, Lane
from millrace.healing import damaged_files
from millrace.outbox import Outbox
from millrace.outbox_tables import Extension
from millrace.ranges import RangeSet
from millrace.reservation import Reservation

ROWS = 600


def opened(path: Path) -> Outbox:
    return Outbox(path, BlobStore(path.parent / "frames"), "machine-1")


def add(outbox: Outbox, count: int) -> list[Entry]:
    with outbox.transaction():
        picture = b"picture %d" % outbox.next_seq
        digest = hashlib.sha256(picture).hexdigest()
        outbox.put_pictures({digest: picture})
        seqs = [outbox.mint() for _ in range(count)]
        drafts = [Draft(Lane.BULK, outbox.epoch, seq, b"event %d " % seq * 20) for seq in seqs[1:]]
        return outbox.append([Draft(Lane.FRAME, outbox.epoch, seqs[0], b"{}", digest, len(picture)), *drafts], 5.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An outbox with rows enough for many pages, the last of them in its log, as a kill leaves it."""
    whole = tmp_path / "whole" / "spool.db"
    outbox = opened(whole)
    for _ in range(ROWS // 100):
        add(outbox, 100)
    with outbox.transaction():
        outbox.forget(range(1, 21))
    outbox.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    add(outbox, 10)
    add(outbox, 10)
    killed = tmp_path / "state"
    subprocess.run(["cp", "-r", whole.parent, killed], check=True)
    outbox.close()
    return killed / "spool.db"


def content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def checkpoint(path: Path) -> None:
    """Bring the log into the file, so that what is overwritten there is not in the log too."""
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()


def overwrite(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def pages_of(path: Path, table: str) -> list[int]:
    """Return the numbers of a table's leaf pages."""
    content = path.read_bytes()
    with sqlite3.connect(f"file:{path}?immutable=1", uri=True) as reader:
        (root,) = reader.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    reader.close()
    page = content[(root - 1) * PAGE_BYTES : root * PAGE_BYTES]
    if page[0] != 5:
        return [root]
    cells = int.from_bytes(page[3:5], "big")
    starts = [int.from_bytes(page[12 + 2 * n : 14 + 2 * n], "big") for n in range(cells)]
    return [int.from_bytes(page[at : at + 4], "big") for at in starts] + [int.from_bytes(page[8:12], "big")]


def zero_a_page_of_rows(path: Path) -> None:
    checkpoint(path)
    overwrite(path, (pages_of(path, "entry")[5] - 1) * PAGE_BYTES, bytes(PAGE_BYTES))


def zero_three_pages_of_rows(path: Path) -> None:
    checkpoint(path)
    for page in random.Random(7).sample(pages_of(path, "entry"), 3):
        overwrite(path, (page - 1) * PAGE_BYTES, bytes(PAGE_BYTES))


def zero_the_last_page_of_rows(path: Path) -> None:
    checkpoint(path)
    overwrite(path, (pages_of(path, "entry")[-1] - 1) * PAGE_BYTES, bytes(PAGE_BYTES))


def zero_the_epochs(path: Path) -> None:
    checkpoint(path)
    overwrite(path, (pages_of(path, "own_epoch")[0] - 1) * PAGE_BYTES, bytes(PAGE_BYTES))


def zero_the_counters(path: Path) -> None:
    checkpoint(path)
    overwrite(path, (pages_of(path, "counter")[0] - 1) * PAGE_BYTES, bytes(PAGE_BYTES))


def zero_the_first_page(path: Path) -> None:
    checkpoint(path)
    overwrite(path, 0, bytes(PAGE_BYTES))


def garble_the_header(path: Path) -> None:
    checkpoint(path)
    overwrite(path, 0, random.Random(3).randbytes(100))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // PAGE_BYTES * PAGE_BYTES - 100)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def empty_with_its_log(path: Path) -> None:
    empty(path)
    log_of(path).unlink()


def unlink(path: Path) -> None:
    path.unlink()


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(5).randbytes(5 * PAGE_BYTES))


def unlink_all(path: Path) -> None:
    path.unlink()
    log_of(path).unlink()


def unlink_the_log(path: Path) -> None:
    log_of(path).unlink()


def tear_the_log(path: Path) -> None:
    os.truncate(log_of(path), log_of(path).stat().st_size - PAGE_BYTES - 500)


def garble_the_log(path: Path) -> None:
    overwrite(log_of(path), 40, random.Random(3).randbytes(3000))


def spoil_the_sidecars(path: Path) -> None:
    path.with_name("spool.db.epoch").write_bytes(b"\0" * 50)
    path.with_name("spool.db.seen").write_bytes(b"\xff" * 128)
    zero_a_page_of_rows(path)


DAMAGES: list[Callable[[Path], None]] = [
    zero_a_page_of_rows,
    zero_three_pages_of_rows,
    zero_the_last_page_of_rows,
    zero_the_epochs,
    zero_the_counters,
    zero_the_first_page,
    garble_the_header,
    truncate,
    empty,
    empty_with_its_log,
    unlink,
    garbage,
    unlink_all,
    unlink_the_log,
    tear_the_log,
    garble_the_log,
    spoil_the_sidecars,
]
ROWS_SURVIVE = {
    "zero_a_page_of_rows",
    "zero_three_pages_of_rows",
    "zero_the_last_page_of_rows",
    "zero_the_epochs",
    "zero_the_counters",
    "zero_the_first_page",
    "garble_the_header",
    "spoil_the_sidecars",
}
NOT_SET_ASIDE = {"unlink_all", "unlink_the_log", "tear_the_log", "garble_the_log"}


@pytest.mark.parametrize("harm", DAMAGES, ids=lambda harm: harm.__name__)
def test_every_key_is_held_or_declared_and_the_old_file_is_kept(path: Path, harm: Callable[[Path], None]) -> None:
    harm(path)
    harmed = [content(path), content(log_of(path))]
    outbox = opened(path)
    try:
        old = next((epoch for epoch in outbox.minted() if epoch != outbox.epoch), None)
        doubt = outbox.doubt()
        assert doubt is not None
        held = RangeSet()
        for entry in outbox.read(0, 10_000):
            assert entry.intact
            assert entry.position == entry.seq
            held.add(entry.seq)
        declared = RangeSet()
        for epoch, first, last in outbox.unproven(doubt):
            assert epoch == (old or epoch)
            declared.add(first, last)
        keys = range(21, ROWS + 21)
        assert not [seq for seq in keys if seq in held and seq in declared]
        if harm is not spoil_the_sidecars:
            assert not [seq for seq in keys if seq not in held and seq not in declared]
        if harm.__name__ in ROWS_SURVIVE:
            assert held.count() > ROWS * 0.8
        kept = path.with_name("spool.db.damaged-1")
        if harm.__name__ not in NOT_SET_ASIDE:
            assert [content(kept), content(log_of(kept))] == harmed
        assert not mark_of(path).exists()
        assert (outbox.held_rows, outbox.next_seq) == (len(outbox.read(0, 10_000)), 1)
        assert add(outbox, 2)[0].position > ROWS + 20 or not held.count()
    finally:
        outbox.close()
    again = opened(path)  # and that was that: it is sound now
    assert again.epoch == outbox.epoch
    again.close()


def start_and_die(path: Path, calls: int) -> int:
    """Open an outbox in a child that kills itself at the nth call within the healing; return the signal, 0 for none."""
    child = os.fork()
    if child == 0:
        left = calls

        def die(frame: FrameType, event: str, _: object) -> None:
            nonlocal left
            if event == "call" and frame.f_globals["__name__"] in ("millrace.healing", "millrace.rebuild", "pathlib"):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(die)
        opened(path).close()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) * -1


def test_a_healing_killed_at_any_step_is_ended_by_the_next_start(path: Path) -> None:
    zero_a_page_of_rows(path)
    harmed = path.read_bytes()
    expected = None
    for step in range(1, 400, 2):
        state = path.parents[1] / f"killed-{step}"
        subprocess.run(["cp", "-r", path.parent, state], check=True)
        end = start_and_die(state / path.name, step * step)
        outbox = opened(state / path.name)
        rows = [(entry.epoch, entry.seq, entry.position) for entry in outbox.read(0, 10_000)]
        doubt = outbox.doubt()
        assert doubt is not None
        assert (rows, outbox.unproven(doubt)) == (expected or (rows, outbox.unproven(doubt)))
        expected = rows, outbox.unproven(doubt)
        outbox.close()
        assert (state / "spool.db.damaged-1").read_bytes() == harmed
        assert not list(state.glob("*damaged-2*")) + list(state.glob("*.healing*")) + list(state.glob("*.heal"))
        if end == 0:
            break
        assert end == signal.SIGKILL
    assert step > 5


def test_damage_met_while_running_is_marked_and_the_next_start_heals(path: Path) -> None:
    checkpoint(path)
    outbox = opened(path)
    held = len(outbox.read(0, 10_000))
    opened_size = path.stat().st_size
    spoilt = path.with_name("spoilt.db")
    spoilt.write_bytes(path.read_bytes())
    zero_three_pages_of_rows(spoilt)
    path.write_bytes(spoilt.read_bytes())
    outbox.connection.execute("PRAGMA shrink_memory")
    with pytest.raises(Damaged, match="malformed"), outbox.transaction():
        outbox.forget(range(1, 10_000))
    assert mark_of(path).exists()
    outbox.close()
    assert path.stat().st_size == opened_size
    again = opened(path)
    assert held * 0.5 < len(again.read(0, 10_000)) < held
    assert not mark_of(path).exists()
    assert path.with_name("spool.db.damaged-1").exists()
    again.close()


@pytest.mark.parametrize("spoil", ["next_position = 3", "next_position = 'x'", "held_bytes = -5", "age_s = 1e300"])
def test_counters_that_make_no_sense_are_healed_at_once(path: Path, spoil: str) -> None:
    with sqlite3.connect(path) as vandal:
        vandal.execute(f"UPDATE counter SET {spoil}")
        rows = vandal.execute("SELECT position, seq FROM entry").fetchall()
    vandal.close()
    outbox = opened(path)
    assert [(entry.position, entry.seq) for entry in outbox.read(0, 10_000)] == rows
    assert (outbox.held_rows, outbox.next_position) == (len(rows), rows[-1][0] + 1)
    assert outbox.held_bytes == sum(e.bytes for e in outbox.read(0, 10_000)) + sum(
        file.stat().st_size for file in (path.parent / "frames").glob("??/*")
    )
    assert add(outbox, 1)
    outbox.close()


def flip(path: Path, table: str, column: str, bit: int) -> None:
    with sqlite3.connect(path) as vandal:
        vandal.execute(f"UPDATE {table} SET {column} = ({column} | ?1) - ({column} & ?1)", (1 << bit,))
    vandal.close()


@pytest.mark.parametrize("column", ["next_position", "held_rows", "held_bytes"])
@pytest.mark.parametrize("bit", [0, 3, 20, 40])
def test_counters_with_a_flipped_bit_are_counted_again(path: Path, column: str, bit: int) -> None:
    columns = "next_position, held_rows, held_bytes"
    with sqlite3.connect(path) as vandal:
        (true,) = vandal.execute(f"SELECT {columns} FROM counter").fetchall()
    vandal.close()
    flip(path, "counter", column, bit)
    outbox = opened(path)
    assert (outbox.next_position, outbox.held_rows, outbox.held_bytes) == true
    assert path.with_name("spool.db.damaged-1").exists()
    outbox.close()


@pytest.mark.parametrize("bit", [0, 3, 7, 9, 40])
def test_an_epoch_with_a_flipped_bit_knows_no_seq_that_was_not_minted(path: Path, bit: int) -> None:
    """A bit may raise it within what is reserved, or lower it where no row is left to say so."""
    outbox = opened(path)
    add(outbox, 300)
    old, next_seq = outbox.epoch, outbox.next_seq
    with outbox.transaction():
        outbox.forget_range(1, outbox.next_position)
    outbox.close()
    flip(path, "own_epoch", "next_seq", bit)  # a power cut comes on top:
    path.with_name("spool.db.seen").unlink(missing_ok=True)
    outbox = opened(path)
    doubt = outbox.doubt()
    assert outbox.epoch != old
    assert doubt is not None
    assert doubt.ranges[old][1] >= next_seq - 1
    outbox.close()


def test_an_older_epoch_with_a_flipped_bit_is_not_believed(path: Path) -> None:
    outbox = opened(path)
    add(outbox, 300)
    old, minted = outbox.epoch, outbox.minted()[outbox.epoch]
    outbox.new_epoch("for a test")
    outbox.close()
    flip(path, "own_epoch", "next_seq", 4)
    outbox = opened(path)
    assert outbox.minted()[old] == minted
    outbox.close()


@pytest.mark.parametrize(
    "spoil",
    [
        "UPDATE own_epoch SET next_seq = 5",
        "UPDATE own_epoch SET next_seq = 'x'",
        "UPDATE own_epoch SET next_seq = next_seq + 1048576",
        "DELETE FROM own_epoch",
    ],
)
def test_a_last_epoch_that_makes_no_sense_is_healed_at_once(path: Path, spoil: str) -> None:
    with sqlite3.connect(path) as vandal:
        vandal.execute(spoil)
        rows = vandal.execute("SELECT epoch, seq FROM entry").fetchall()
    vandal.close()
    outbox = opened(path)
    assert [(entry.epoch, entry.seq) for entry in outbox.read(0, 10_000)] == rows
    old, last = rows[-1]
    assert outbox.minted() == {old: last, outbox.epoch: 0}
    assert path.with_name("spool.db.damaged-1").exists()
    outbox.close()


def test_of_an_epoch_in_which_nothing_was_minted_nothing_is_in_doubt_after_the_next_healings(path: Path) -> None:
    doubts = []
    for _ in range(4):
        mark_of(path).touch()
        outbox = Outbox(path, BlobStore(path.parent / "frames"), "machine-1", Extension(own_lanes=[Lane.BULK]))
        doubts.append(outbox.doubt())
        with outbox.transaction():
            outbox.resolve()
        # It is killed at its first commit, when that was reserved and not made.
        Reservation(path.with_name(path.name + ".epoch")).cover(outbox.epoch, 1)
        outbox.close()
    assert doubts[0] is not None
    assert [doubt.ranges for doubt in doubts if doubt is not None] == 4 * [doubts[0].ranges]


def test_a_damaged_row_is_told_with_what_is_in_doubt(path: Path) -> None:
    with sqlite3.connect(path) as vandal:
        vandal.execute("UPDATE entry SET seq = 'x' WHERE position = 100")
    vandal.close()
    outbox = opened(path)
    epoch = next(iter(outbox.minted()))
    doubt = Doubt("set back", is_salvaged=False, ranges={epoch: (21, ROWS + 30)})
    assert outbox.unproven(doubt) == [(epoch, 100, 100), (epoch, ROWS + 21, ROWS + 30)]
    outbox.close()


@pytest.mark.parametrize(("at", "value"), [(18, 7), (19, 0), (44, 9)])
def test_a_header_that_sqlite_takes_for_a_newer_one_is_healed(path: Path, at: int, value: int) -> None:
    checkpoint(path)
    overwrite(path, at, bytes([value]))
    outbox = opened(path)
    doubt = outbox.doubt()
    assert doubt is not None
    assert "header" in doubt.why
    assert [entry.seq for entry in outbox.read(0, 10_000)] == list(range(21, ROWS + 21))
    assert add(outbox, 1)
    outbox.close()


def test_what_was_set_aside_is_counted_until_somebody_deletes_it(path: Path) -> None:
    assert damaged_files(path.parent) == {"files": 0, "bytes": 0}
    for _ in range(2):
        path.write_bytes(b"x" * PAGE_BYTES)
        opened(path).close()
    kept = [file for file in path.parent.iterdir() if ".damaged-" in file.name]
    assert damaged_files(path.parent) == {"files": 2, "bytes": sum(file.stat().st_size for file in kept)}
    for file in kept:
        file.unlink()
    assert damaged_files(path.parent) == {"files": 0, "bytes": 0}
    assert damaged_files(path) == {"files": 0, "bytes": 0}
