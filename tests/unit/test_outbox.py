"""The durable queue: order, counters that never go back, pictures that live as long as a row speaks of them."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from unit.damaged_tables import renumber

from millrace.blobs import BlobStore, StorageFailed
from millrace.counters import BEHIND_ROWS, BEHIND_S
from millrace.database import SCHEMA_VERSION, Damaged, Locked, NewerSchema
from millrace.doubts import Doubt
from millrace.entries import Draft, Entry, Lane
from millrace.outbox import Outbox
from millrace.outbox_reader import Reader

RED, BLUE = b"red picture", b"blue picture, longer"
SHA_RED, SHA_BLUE = (hashlib.sha256(content).hexdigest() for content in (RED, BLUE))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "spool.db"


@pytest.fixture
def reopened(path: Path) -> Iterator[Callable[[], Outbox]]:
    """Open the outbox, after closing the one that was open before."""
    opened: list[Outbox] = []

    def reopen() -> Outbox:
        for outbox in opened:
            outbox.close()
        opened[:] = [Outbox(path, BlobStore(path.parent / "frames"), "machine-1")]
        return opened[0]

    yield reopen
    for outbox in opened:
        outbox.close()


@pytest.fixture
def outbox(reopened: Callable[[], Outbox]) -> Outbox:
    return reopened()


def add(outbox: Outbox, count: int = 1, lane: Lane = Lane.RESULT, picture: bytes | None = None) -> list[Entry]:
    """Append `count` events of the outbox's own in one transaction, all of them with the same picture."""
    digest = None if picture is None else hashlib.sha256(picture).hexdigest()
    with outbox.transaction():
        if picture is not None and digest is not None:
            outbox.put_pictures({digest: picture})
        seqs = [outbox.mint() for _ in range(count)]
        drafts = [Draft(lane, outbox.epoch, s, b"event %d" % s, digest, len(picture or b"")) for s in seqs]
        return outbox.append(drafts, uptime_s=0.0)


def forget(outbox: Outbox, *positions: int) -> int:
    with outbox.transaction():
        return outbox.forget(positions)


def pictures(outbox: Outbox) -> set[str]:
    return set(outbox.blobs.digests())


def true_sums(outbox: Outbox) -> tuple[int, int]:
    """Return rows and bytes held, counted row by row and picture by picture."""
    rows = outbox.read(0, 1 << 20)
    digests = {row.blob for row in rows if row.blob is not None}
    return len(rows), sum(len(row.body) for row in rows) + sum(len(outbox.blobs.get(d) or b"") for d in digests)


def disorder(path: Path, reopened: Callable[[], Outbox], monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the last of 300 rows out of its order, in a file that is too large to be checked at a start."""
    outbox = reopened()
    add(outbox, 300)
    outbox.close()
    renumber(path, 300, 130, b"event 300")
    monkeypatch.setattr("millrace.healing.CHECK_BUDGET_S", 0.0)


# Order and numbers


def test_rows_out_of_their_order_are_damage_and_the_next_start_heals_it(
    path: Path, reopened: Callable[[], Outbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads on from the last row that came would be given some of them for ever."""
    disorder(path, reopened, monkeypatch)
    outbox = reopened()
    with pytest.raises(Damaged, match="out of their order"):
        outbox.read(0, 1000)
    healed = reopened()
    assert [entry.seq for entry in healed.read(0, 1000)] == list(range(1, 301))
    assert healed.read(0, 1000) == healed.read(0, 1000, Lane.RESULT)


def test_rows_out_of_their_order_do_not_keep_a_file_that_was_set_back_from_its_accounts(
    path: Path, reopened: Callable[[], Outbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    disorder(path, reopened, monkeypatch)
    monkeypatch.setattr("millrace.doubts.KEYS_AT_ONCE", 250)
    outbox = reopened()
    with pytest.raises(Damaged, match="out of their order"):
        outbox.unproven(Doubt("set back", is_salvaged=False, ranges={outbox.epoch: (1, 310)}))
    healed = reopened()
    doubt = Doubt("set back", is_salvaged=False, ranges={healed.read(0, 1)[0].epoch: (1, 310)})
    assert healed.unproven(doubt) == [(*doubt.ranges, 301, 310)]


@pytest.mark.parametrize("what", [Reader.read, Reader.sizes])
def test_a_reader_that_is_given_rows_out_of_their_order_says_so(
    path: Path, reopened: Callable[[], Outbox], what: Callable[[Reader, Lane, int, int], object]
) -> None:
    outbox = reopened()
    add(outbox, 300)
    outbox.close()
    head = b"\x06\x03\x01\x02" + bytes([Lane.RESULT])  # the index has a lane in one byte, a position in two
    last, wrong = (head + number.to_bytes(2) for number in (300, 130))
    data = path.read_bytes()
    assert data.count(last) == 1
    path.write_bytes(data.replace(last, wrong))
    reader = Reader(path)
    with pytest.raises(Damaged, match="out of their order"):
        what(reader, Lane.RESULT, 0, 1000)
    reader.close()


def test_entries_are_read_in_the_order_in_which_they_were_appended(outbox: Outbox) -> None:
    appended = add(outbox, 3) + add(outbox, 2)
    assert outbox.read(0, 100) == appended
    assert [entry.seq for entry in appended] == [1, 2, 3, 4, 5]
    assert outbox.read(2, 2) == appended[2:4]
    assert all(entry.intact for entry in outbox.read(0, 100))


def test_rows_that_were_only_appended_are_counted_when_the_file_is_opened_again(
    reopened: Callable[[], Outbox],
) -> None:
    outbox = reopened()
    add(outbox, 3)
    written = outbox.connection.execute("SELECT * FROM counter").fetchall()
    add(outbox, 2)
    assert outbox.connection.execute("SELECT * FROM counter").fetchall() == written
    before = outbox.next_position, outbox.held_rows, outbox.held_bytes, outbox.next_seq
    outbox = reopened()
    assert (outbox.next_position, outbox.held_rows, outbox.held_bytes, outbox.next_seq) == before


@pytest.mark.parametrize("last", ["forgotten", "picture", "many", "late"])
def test_what_rows_do_not_tell_by_themselves_is_written_with_the_commit(
    reopened: Callable[[], Outbox], last: str
) -> None:
    outbox = reopened()
    add(outbox, 3)
    if last == "forgotten":
        with outbox.transaction():
            outbox.forget([2, 3])
            outbox.append([Draft(Lane.RESULT, outbox.epoch, outbox.mint(), b"x")] * 2, 0.0)
    elif last == "picture":
        add(outbox, picture=RED)
    elif last == "many":
        add(outbox, BEHIND_ROWS)
    else:
        with outbox.transaction():
            outbox.append([Draft(Lane.RESULT, outbox.epoch, outbox.mint(), b"x")], 2 * BEHIND_S)
    before = outbox.next_position, outbox.held_rows, outbox.held_bytes
    ((position, rows, size_bytes),) = outbox.connection.execute(
        "SELECT next_position, held_rows, held_bytes FROM counter"
    )
    assert (position, rows, size_bytes) == before
    outbox = reopened()
    assert (outbox.next_position, outbox.held_rows, outbox.held_bytes) == before


def test_a_commit_that_failed_leaves_the_counters_right(path: Path, reopened: Callable[[], Outbox]) -> None:
    outbox = reopened()
    add(outbox, 3)

    def fail() -> None:
        with outbox.transaction():
            outbox.forget([1])
            outbox.append([Draft(Lane.RESULT, outbox.epoch, outbox.mint(), b"xyz")], 0.0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    add(outbox, 2)
    before = outbox.next_position, outbox.held_rows, outbox.held_bytes, outbox.next_seq
    assert before[:2] == (6, 5)
    outbox = reopened()
    assert (outbox.next_position, outbox.held_rows, outbox.held_bytes, outbox.next_seq) == before


def test_a_lane_is_read_without_the_others(outbox: Outbox) -> None:
    first, _, third = add(outbox)[0], add(outbox, lane=Lane.ALARM)[0], add(outbox)[0]
    assert outbox.read(0, 10, Lane.RESULT) == [first, third]
    assert outbox.read(first.position, 10, Lane.RESULT) == [third]
    assert outbox.read(0, 10, Lane.BULK) == []


def test_forgetting_says_how_many_there_were(outbox: Outbox) -> None:
    add(outbox, 6)
    assert forget(outbox, 2, 3, 3, 99) == 2
    with outbox.transaction():
        assert outbox.forget_range(1, 4) == 2
    assert [entry.position for entry in outbox.read(0, 10)] == [5, 6]
    assert outbox.first_position() == 5
    assert outbox.first_position(5) == 6
    assert outbox.first_position(6) is None


def test_positions_and_seqs_are_never_given_twice(outbox: Outbox, reopened: Callable[[], Outbox]) -> None:
    newest = add(outbox, 3)[-1]
    forget(outbox, newest.position)
    again = reopened()
    assert (again.epoch, again.next_seq) == (outbox.epoch, 4)
    assert add(again)[0].position == newest.position + 1
    assert add(again)[0].seq == newest.seq + 2


def test_what_was_rolled_back_never_was(outbox: Outbox) -> None:
    add(outbox, 2, picture=RED)
    before = (outbox.read(0, 10), outbox.next_seq, outbox.next_position, outbox.held_rows, outbox.held_bytes)
    with pytest.raises(ValueError, match="changed my mind"), outbox.transaction():  # noqa: PT012
        outbox.forget([1, 2])
        outbox.put_pictures({SHA_BLUE: BLUE})
        outbox.append([Draft(Lane.FRAME, outbox.epoch, outbox.mint(), b"x", SHA_BLUE, len(BLUE))], 0.0)
        outbox.new_epoch("in vain")
        raise ValueError("changed my mind")
    assert before == (outbox.read(0, 10), outbox.next_seq, outbox.next_position, outbox.held_rows, outbox.held_bytes)
    assert pictures(outbox) == {SHA_RED}
    assert list(outbox.minted()) == [outbox.epoch]
    assert add(outbox)[0].seq == before[1]


def test_a_transaction_inside_another_is_part_of_it(outbox: Outbox) -> None:
    old = outbox.epoch
    with pytest.raises(ValueError, match="all"), outbox.transaction():  # noqa: PT012
        add(outbox)
        raise ValueError("all of it")
    assert outbox.read(0, 10) == []
    with outbox.transaction():
        add(outbox, 2)
        outbox.new_epoch("moved")
        add(outbox)
    assert [(entry.epoch, entry.seq) for entry in outbox.read(0, 10)] == [(old, 1), (old, 2), (outbox.epoch, 1)]
    assert outbox.minted() == {old: 2, outbox.epoch: 1}


def test_age_goes_on_over_runs_and_no_clock_makes_it_jump(outbox: Outbox, reopened: Callable[[], Outbox]) -> None:
    assert outbox.age_s(5000.0) == 0.0
    with outbox.transaction():
        outbox.append([Draft(Lane.RESULT, outbox.epoch, outbox.mint(), b"x")], 5100.0)
    again = reopened()
    assert again.age_s(3.0) == 100.0
    assert again.age_s(10.0) == 107.0
    assert again.read(0, 1)[0].born_s == 100


def test_the_counters_are_the_true_sums_whatever_is_done(outbox: Outbox, reopened: Callable[[], Outbox]) -> None:
    chance = random.Random(4)
    shots = [b"shot %d" % number * number for number in range(6)]
    for _ in range(300):
        held = [entry.position for entry in outbox.read(0, 1000)]
        action = chance.randrange(10)
        if action < 5:
            add(outbox, chance.randrange(1, 4), Lane.FRAME, chance.choice([None, *shots]))
        elif action < 7:
            forget(outbox, *chance.sample(held, min(len(held), 3)))
        elif action == 7 and held:
            with outbox.transaction():
                outbox.forget_range(held[0], chance.choice(held))
        elif action == 8:
            with pytest.raises(KeyError), outbox.transaction():  # noqa: PT012
                add(outbox, 2, Lane.FRAME, chance.choice(shots))
                outbox.forget(held)
                raise KeyError
        elif chance.random() < 0.2:
            outbox = reopened()
        assert (outbox.held_rows, outbox.held_bytes) == true_sums(outbox)
        assert pictures(outbox) == {entry.blob for entry in outbox.read(0, 1000) if entry.blob}


# Pictures


def test_a_picture_lives_until_the_last_row_that_speaks_of_it(outbox: Outbox) -> None:
    first, second = add(outbox, 2, Lane.FRAME, RED)
    assert outbox.held_bytes == len(first.body) + len(second.body) + len(RED)
    forget(outbox, first.position)
    assert outbox.blobs.get(SHA_RED) == RED
    forget(outbox, second.position)
    assert outbox.blobs.get(SHA_RED) is None
    assert outbox.held_bytes == 0


def test_a_picture_forgotten_and_appended_at_once_stays(outbox: Outbox) -> None:
    old = add(outbox, 1, Lane.FRAME, RED)[0]
    with outbox.transaction():
        outbox.forget([old.position])
        outbox.append([Draft(Lane.FRAME, outbox.epoch, outbox.mint(), b"again", SHA_RED, len(RED))], 0.0)
    assert outbox.blobs.get(SHA_RED) == RED
    assert (outbox.held_rows, outbox.held_bytes) == true_sums(outbox)


def test_pictures_without_a_row_and_half_written_ones_are_collected_at_start(
    outbox: Outbox, reopened: Callable[[], Outbox]
) -> None:
    add(outbox, 1, Lane.FRAME, RED)
    outbox.blobs.put({SHA_BLUE: BLUE})
    half = outbox.blobs.path(SHA_BLUE).with_name(SHA_BLUE[2:] + ".part")
    half.write_bytes(b"half")
    again = reopened()
    assert pictures(again) == {SHA_RED}
    assert not half.exists()


def test_orphans_that_the_start_has_no_time_for_go_before_later_transactions(
    outbox: Outbox, reopened: Callable[[], Outbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    add(outbox, 1, Lane.FRAME, RED)
    orphans = {f"{number:02x}" * 32: b"orphan" for number in range(20)}
    outbox.blobs.put(orphans)
    monkeypatch.setattr("millrace.pictures.ORPHANS_AT_START_S", -1.0)
    monkeypatch.setattr("millrace.pictures.ORPHANS_BETWEEN_S", -1.0)
    again = reopened()
    assert len(pictures(again)) >= 20
    for seq in range(2, 30):
        add(again, seq, Lane.FRAME, BLUE)
    assert pictures(again) == {SHA_RED, SHA_BLUE}


def test_pictures_that_no_disk_takes_leave_nothing_behind(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "frames")
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / SHA_BLUE[:2]).write_text("a file where a folder should be")
    with pytest.raises(StorageFailed, match="frames"):
        store.put({SHA_RED: RED, SHA_BLUE: BLUE})
    assert store.get(SHA_RED) is None
    (tmp_path / "frames" / SHA_BLUE[:2]).unlink()
    assert store.put({SHA_RED: RED, SHA_BLUE: BLUE}) == {SHA_RED, SHA_BLUE}
    assert store.put({SHA_RED: RED}) == set()


# Damage and strangers


@pytest.mark.parametrize(
    "harm",
    [
        "body = CAST('event 9' AS BLOB)",
        "body = 'text'",
        "body = 7",
        "seq = 9",
        "epoch = 'otherone'",
        "epoch = CAST(x'ff00fe' AS TEXT)",
        "lane = 4",
        "lane = 77",
        "lane = 'x'",
        "blob = 'abcd'",
        "checksum = checksum + 1",
    ],
)
def test_a_damaged_row_is_seen_and_its_neighbours_are_read(outbox: Outbox, path: Path, harm: str) -> None:
    add(outbox, 3)
    with sqlite3.connect(path) as vandal:
        vandal.execute(f"UPDATE entry SET {harm} WHERE position = 2")
    vandal.close()
    entries = outbox.read(0, 10)
    assert [(entry.position, entry.intact) for entry in entries] == [(1, True), (2, False), (3, True)]
    assert forget(outbox, 1, 2, 3) == 3
    assert outbox.held_rows == 0


def test_a_newer_file_is_refused_and_left_as_it_is(outbox: Outbox, path: Path) -> None:
    add(outbox)
    outbox.close()
    with sqlite3.connect(path) as newer:
        newer.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    newer.close()
    before = path.read_bytes()
    for _ in range(2):  # the lock is given back too
        with pytest.raises(NewerSchema, match=r"spool\.db.*newer"):
            Outbox(path, BlobStore(path.parent / "frames"), "machine-1")
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_a_storage_failure(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StorageFailed, match="taken"):
        Outbox(tmp_path / "taken" / "spool.db", BlobStore(tmp_path / "frames"), "machine-1")


def test_a_second_writer_is_told_who_has_the_file(outbox: Outbox, path: Path) -> None:
    with pytest.raises(Locked, match=f"process {os.getpid()};"):
        Outbox(path, BlobStore(path.parent / "frames"), "machine-1")
    assert add(outbox)


def test_a_picture_that_cannot_be_unlinked_does_not_undo_what_was_committed(outbox: Outbox) -> None:
    with outbox.transaction():
        outbox.put_pictures({SHA_RED: RED})
        outbox.append([Draft(Lane.FRAME, outbox.epoch, outbox.mint(), b"{}", SHA_RED, len(RED))], 0.0)
    file = outbox.blobs.path(SHA_RED)
    file.unlink()
    file.mkdir()
    with outbox.transaction():
        outbox.forget([1])
    assert outbox.read(0, 10) == []


def test_a_full_disk_stops_a_transaction_whole(outbox: Outbox) -> None:
    add(outbox, 2)
    held = outbox.read(0, 10)
    pages = outbox.connection.execute("PRAGMA page_count").fetchone()[0]
    outbox.connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageFailed, match="full"), outbox.transaction():  # noqa: PT012
        outbox.put_pictures({SHA_RED: RED})
        drafts = [Draft(Lane.FRAME, outbox.epoch, outbox.mint(), bytes(9000), SHA_RED, len(RED)) for _ in range(9)]
        outbox.append(drafts, 0.0)
    assert outbox.read(0, 10) == held
    assert (outbox.next_seq, outbox.next_position) == (3, 3)
    assert (outbox.held_rows, outbox.held_bytes) == true_sums(outbox)
    assert pictures(outbox) == set()
    outbox.connection.execute("PRAGMA max_page_count = 100000")
    assert add(outbox)[0].seq == 3


# Epochs


def test_another_machine_begins_an_epoch_of_its_own(outbox: Outbox, path: Path) -> None:
    add(outbox, 4)
    outbox.close()
    clone = Outbox(path, BlobStore(path.parent / "frames"), "machine-2")
    try:
        assert clone.epoch != outbox.epoch
        assert clone.minted() == {outbox.epoch: 4, clone.epoch: 0}
        assert add(clone)[0].seq == 1
        assert len(clone.read(0, 10)) == 5
    finally:
        clone.close()
    same = Outbox(path, BlobStore(path.parent / "frames"), "machine-2")
    same.close()
    assert (same.epoch, same.next_seq) == (clone.epoch, 2)


def test_a_copy_put_in_its_place_begins_an_epoch_of_its_own_once(outbox: Outbox, path: Path) -> None:
    add(outbox, 4)
    outbox.close()
    backup = path.with_name("backup.db")
    shutil.copy2(path, backup)
    path.unlink()
    shutil.copy2(backup, path)
    restored = Outbox(path, BlobStore(path.parent / "frames"), "machine-1")
    assert restored.epoch != outbox.epoch
    assert restored.minted() == {outbox.epoch: 4, restored.epoch: 0}
    restored.close()
    moved = path.rename(path.parent / "moved.db")
    same = Outbox(moved, BlobStore(path.parent / "frames"), "machine-1")
    same.close()
    assert same.epoch == restored.epoch


def test_a_new_epoch_counts_from_one_and_the_old_ones_are_remembered(
    outbox: Outbox, reopened: Callable[[], Outbox]
) -> None:
    first = outbox.epoch
    add(outbox, 2)
    second = outbox.new_epoch("for a test")
    add(outbox, 3)
    assert first != second == outbox.epoch
    assert outbox.minted() == {first: 2, second: 3}
    assert list(reopened().minted().items()) == [(first, 2), (second, 3)]


def test_how_far_others_have_minted_never_goes_back(outbox: Outbox, path: Path) -> None:
    with outbox.transaction():
        outbox.note_minted("device/cam-1", "k3v9x0pa", 9)
        outbox.note_minted("device/cam-1", "k3v9x0pa", 4)
    reader = Reader(path)
    assert reader.minted() == {"device/cam-1": {"k3v9x0pa": 9}}
    reader.close()


# Readers


def test_a_reader_waits_for_a_file_that_is_not_there_yet(path: Path, reopened: Callable[[], Outbox]) -> None:
    reader = Reader(path)
    assert (reader.read(Lane.RESULT, 0, 10), reader.newest(Lane.RESULT, 5)) == ([], [])
    assert (reader.epochs(), reader.minted(), reader.changed()) == ({}, {}, -1)
    outbox = reopened()
    appended = add(outbox, 2)
    assert reader.read(Lane.RESULT, 0, 10) == appended
    assert reader.epochs() == {outbox.epoch: 2}
    reader.close()


def test_a_reader_sees_each_commit_and_when_there_was_one(outbox: Outbox, path: Path) -> None:
    reader = Reader(path)
    add(outbox, 5)
    seen = reader.changed()
    assert reader.changed() == seen
    newest = add(outbox, 2)
    assert reader.changed() != seen
    assert reader.newest(Lane.RESULT, 2) == newest
    assert reader.newest(Lane.RESULT, 100) == outbox.read(0, 100)
    assert reader.backlog({Lane.RESULT: 3})[Lane.RESULT] == 4
    assert Lane.LOCAL not in reader.backlog({})
    reader.close()


def test_a_reader_finds_a_file_whose_name_an_address_would_cut(tmp_path: Path) -> None:
    folder = tmp_path / "what? 100%41#1"
    outbox = Outbox(folder / "spool.db", BlobStore(folder / "frames"), "machine-1")
    reader = Reader(folder / "spool.db")
    appended = add(outbox)
    assert reader.read(Lane.RESULT, 0, 10) == appended
    reader.close()
    outbox.close()


def test_a_reader_notices_that_the_file_was_replaced_and_reads_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    reader = Reader(path)
    for body in (b'{"old":1}', b'{"new":1}'):
        writer = Outbox(path, BlobStore(tmp_path / "frames"), "m")
        with writer.transaction():
            writer.append([Draft(Lane.RESULT, writer.epoch, writer.mint(), body)], 0.0)
        assert [entry.body for entry in reader.read(Lane.RESULT, 0, 10)] == [body]
        writer.close()
        for file in tmp_path.glob("gateway.db*"):
            file.unlink()
        assert reader.read(Lane.RESULT, 0, 10) == []
    reader.close()
