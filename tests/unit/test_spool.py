"""The agent's queue: kept under one key for good, forgotten on a receipt and on nothing else, lost only in writing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from device_agent.packing import Admission, Parcel
from device_agent.settings import AgentSettings
from device_agent.spool import Spool
from millrace import clock, events, topics
from millrace.blobs import StorageFailed
from millrace.database import Damaged
from millrace.row_sums import row_sum

INSTANT = clock.Instant(1_795_249_800_123_456_789, "b0075b00-7b00-4b00-8b00-7b0075b0075b", 12_345_678_901)
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"
)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Spool]]:
    """Open the device's spool, after closing the one that was open before."""
    spools: list[Spool] = []

    def open_spool(machine_id: str = "machine-1", **limits: int) -> Spool:
        for spool in spools:
            spool.close()
        settings = AgentSettings.model_validate(
            {
                "device": "cam-1",
                "state_dir": tmp_path / "state",
                "spool": {"min_free_bytes": 0, **limits},
                "channels": {"belt": {"source": {"kind": "readings", "path": tmp_path / "none.csv"}}},
            }
        )
        spools[:] = [Spool(settings, machine_id, clock.SystemClock())]
        return spools[0]

    yield open_spool
    for spool in spools:
        spool.close()


@pytest.fixture
def spool(opened: Callable[..., Spool]) -> Spool:
    return opened()


@pytest.fixture
def snapshot(tmp_path: Path, opened: Callable[..., Spool]) -> Callable[[], Callable[[], Spool]]:
    """Take a picture of the whole disk, which gives the spool as it was then."""

    def take() -> Callable[[], Spool]:
        with sqlite3.connect(tmp_path / "state" / "spool.db") as live, sqlite3.connect(tmp_path / "copy.db") as copy:
            live.backup(copy)
        live.close()
        copy.close()
        beside = {file: file.read_bytes() for file in (tmp_path / "state").glob("spool.db.*")}

        def set_back() -> Spool:
            opened().close()
            (tmp_path / "state" / "spool.db").write_bytes((tmp_path / "copy.db").read_bytes())  # as an image writes it
            for file, content in beside.items():
                file.write_bytes(content)
            return opened()

        return set_back

    return take


def reading(value: float) -> Admission:
    return Admission("belt", events.READING, INSTANT, {"temperature_c": value})


def frame(picture: bytes = PNG) -> Admission:
    return Admission("top", events.FRAME, INSTANT, picture=picture, content_type="image/png", truth="good")


def keys(spool: Spool) -> list[tuple[str, int]]:
    return [(entry.epoch, entry.seq) for entry in spool.read(0, 1000)]


def parcels(spool: Spool) -> list[Parcel | None]:
    return [spool.parcel(entry) for entry in spool.read(0, 1000)]


def ledger(parcel: Parcel | None) -> dict[str, object]:
    assert parcel is not None
    assert (parcel.kind, parcel.channel) == (topics.Kind.DEVICE_LEDGER, None)
    data = events.decode_json(parcel.payload).data
    assert data is not None
    return dict(data)


def harm(spool: Spool, tmp_path: Path, change: str, position: int) -> None:
    with sqlite3.connect(tmp_path / "state" / "spool.db") as vandal:
        vandal.execute(f"UPDATE entry SET {change} WHERE position = ?", (position,))
    vandal.close()


# What travels


def test_a_parcel_decodes_to_the_event_that_was_admitted(spool: Spool) -> None:
    spool.admit([reading(41.2), frame()])
    first, second = parcels(spool)
    assert first is not None
    assert second is not None
    got = events.decode_json(first.payload)
    assert got == first.event
    assert got.key == events.Key("/millrace/device/cam-1/belt", spool.epoch, 1)
    assert (got.data, got.time, got.base) == ({"temperature_c": 41.2}, clock.rfc3339(INSTANT.wall_ns), 1)
    assert (first.kind, first.channel) == (topics.Kind.READING, "belt")
    shown = events.decode_frame(second.payload)
    assert shown == second.event
    assert shown.key == events.Key("/millrace/device/cam-1/top", spool.epoch, 2)
    assert (shown.truth, shown.datacontenttype) == ("good", "image/png")
    assert (second.kind, second.channel) == (topics.Kind.FRAME, "top")


def test_the_same_keys_after_a_restart(spool: Spool, opened: Callable[..., Spool]) -> None:
    spool.admit([reading(1), reading(2)])
    before = [parcel.payload for parcel in parcels(spool) if parcel]
    again = opened()
    assert [parcel.payload for parcel in parcels(again) if parcel] == before
    again.admit([reading(3)])
    assert [seq for _, seq in keys(again)] == [1, 2, 3]


def test_the_base_is_the_lowest_seq_still_held(spool: Spool) -> None:
    spool.admit([reading(value) for value in range(5)])
    spool.settle(spool.epoch, [(1, 2), (4, 4)])
    assert [parcel.event.base for parcel in parcels(spool) if parcel] == [3, 3]
    spool.settle(spool.epoch, [(1, 4)])
    assert [parcel.event.base for parcel in parcels(spool) if parcel] == [5]


def test_what_the_quota_has_no_room_for_is_refused_before_it_is_promised(opened: Callable[..., Spool]) -> None:
    spool = opened(max_bytes=len(PNG) + 1000)
    assert spool.has_room(frame())
    spool.admit([frame()])
    assert not spool.has_room(Admission("top", events.FRAME, INSTANT, picture=bytes(1000)))
    assert not opened(min_free_bytes=1 << 60).has_room(frame())


def test_a_disk_that_cannot_be_asked_has_no_room(spool: Spool, tmp_path: Path) -> None:
    assert spool.has_room(reading(1.0))
    (tmp_path / "state").rename(tmp_path / "away")
    assert not spool.has_room(reading(1.0))
    (tmp_path / "away").rename(tmp_path / "state")
    assert spool.has_room(reading(1.0))


def test_a_disk_that_refuses_promises_nothing(spool: Spool) -> None:
    spool.admit([reading(1)])
    fill(spool)
    with pytest.raises(StorageFailed):
        spool.admit([frame(PNG + b"%d" % number) for number in range(50)])
    assert [seq for _, seq in keys(spool)] == [1]
    assert spool.minted() == {spool.epoch: 1}
    assert list(spool._outbox.blobs.digests()) == []


def fill(spool: Spool) -> None:
    """Let the file grow no more."""
    pages = spool._outbox.connection.execute("PRAGMA page_count").fetchone()[0]
    spool._outbox.connection.execute(f"PRAGMA max_page_count = {pages}")


# Receipts


def test_a_receipt_forgets_exactly_its_ranges(spool: Spool) -> None:
    spool.admit([reading(value) for value in range(10)])
    assert spool.settle(spool.epoch, [(1, 3), (6, 7)]) == [(1, 3), (6, 7)]
    assert [seq for _, seq in keys(spool)] == [4, 5, 8, 9, 10]
    assert spool.settle("unknown1", [(1, 10)]) == []
    assert spool.held_rows == 5


def test_a_receipt_for_an_old_epoch_forgets_nothing_of_the_new_one(spool: Spool, opened: Callable[..., Spool]) -> None:
    spool.admit([reading(value) for value in range(4)])
    old = spool.epoch
    clone = opened("machine-2")
    clone.admit([reading(value) for value in range(3)])
    assert keys(clone) == [(old, 1), (old, 2), (old, 3), (old, 4), (clone.epoch, 1), (clone.epoch, 2), (clone.epoch, 3)]
    assert clone.settle(old, [(2, 3), (4, 1000)]) == [(2, 3), (4, 4)]
    assert keys(clone) == [(old, 1), (clone.epoch, 1), (clone.epoch, 2), (clone.epoch, 3)]
    assert clone.settle(clone.epoch, [(-5, 2), (4, 9)]) == [(5, 6)]
    assert keys(clone) == [(old, 1), (clone.epoch, 3)]
    assert [parcel.event.base for parcel in parcels(clone) if parcel] == [1, 3]


def test_offsets_are_found_again_whatever_is_left_of_each_epoch(spool: Spool, opened: Callable[..., Spool]) -> None:
    epochs = []
    for number in range(4):
        device = opened(f"machine-{number}")
        epochs.append(device.epoch)
        device.admit([reading(value) for value in range(3)])
    device.settle(epochs[0], [(1, 2)])
    device.settle(epochs[1], [(1, 3)])
    again = opened("machine-3")
    again.settle(epochs[2], [(2, 2)])
    assert keys(again) == [
        (epochs[0], 3), (epochs[2], 1), (epochs[2], 3), (epochs[3], 1), (epochs[3], 2), (epochs[3], 3),
    ]  # fmt: skip


# Set back


def test_a_receipt_ahead_of_what_was_minted_is_noticed(spool: Spool) -> None:
    spool.settle(spool.epoch, [])
    spool.admit([reading(1), reading(2)])
    assert not spool.is_ahead(spool.epoch, [(1, 2)])
    assert spool.is_ahead(spool.epoch, [(1, 1), (3, 3)])
    assert not spool.is_ahead("unknown1", [(1, 100)])


def test_a_spool_set_back_gives_what_is_young_new_keys_and_leaves_the_old(
    spool: Spool, snapshot: Callable[[], Callable[[], Spool]]
) -> None:
    spool.admit([reading(1), reading(2)])
    spool.settle(spool.epoch, [(1, 1)])
    set_back = snapshot()
    spool.admit([reading(value) for value in range(10, 18)])  # these reach the gateway: seqs 3 to 10
    again = set_back()
    old = again.epoch
    again.admit([reading(99), frame()])
    assert keys(again) == [(old, 2), (old, 3), (old, 4)]
    assert again.is_ahead(old, [(1, 10)])
    again.begin_epoch("set back")
    assert keys(again) == [(old, 2), (again.epoch, 1), (again.epoch, 2)]
    rekeyed = [parcel for parcel in parcels(again) if parcel]
    assert [parcel.event.key.id for parcel in rekeyed] == [f"{old}-2", f"{again.epoch}-1", f"{again.epoch}-2"]
    assert rekeyed[1].event.data == {"temperature_c": 99}
    assert events.decode_frame(rekeyed[2].payload) == rekeyed[2].event
    assert again.minted() == {old: 4, again.epoch: 2}
    again.settle(old, [(1, 10)])
    assert keys(again) == [(again.epoch, 1), (again.epoch, 2)]


def test_a_spool_set_back_that_has_minted_past_its_old_self_is_noticed_by_what_it_never_sent(
    spool: Spool, snapshot: Callable[[], Callable[[], Spool]], opened: Callable[..., Spool]
) -> None:
    spool.admit([reading(1), reading(2)])
    spool.settle(spool.epoch, [(1, 2)])
    set_back = snapshot()
    spool.admit([reading(3), reading(4)])  # these reach the gateway: seqs 3 and 4
    set_back().admit([reading(value) for value in range(10, 15)])
    again = opened()
    old = again.epoch
    assert not again.is_ahead(old, [(1, 2)])
    assert again.is_ahead(old, [(1, 4)])
    again.begin_epoch("set back", [(1, 4)])
    assert keys(again) == [(old, 5), (old, 6), (old, 7), (again.epoch, 1), (again.epoch, 2)]
    assert again.settle(old, [(1, 4)])
    assert len(keys(again)) == 5
    assert not again.is_ahead(again.epoch, [(1, 2)])


def test_a_receipt_for_an_epoch_that_holds_nothing_any_more_leaves_other_epochs_alone(
    spool: Spool, opened: Callable[..., Spool]
) -> None:
    spool.admit([reading(1), reading(2)])
    held, other = keys(spool), opened("machine-2")
    other.admit([reading(3), reading(4)])
    other.settle(other.epoch, [(1, 2)])
    again = opened("machine-2")
    assert again.settle(again.epoch, [(1, 2)]) == []
    assert keys(again) == held


def test_what_is_young_stays_young_over_restarts_until_a_gateway_answers(
    spool: Spool, snapshot: Callable[[], Callable[[], Spool]], opened: Callable[..., Spool]
) -> None:
    spool.admit([reading(1)])
    spool.settle(spool.epoch, [(1, 1)])
    set_back = snapshot()
    set_back().admit([reading(2)])
    opened().admit([reading(3)])
    again = opened()
    old = again.epoch
    again.begin_epoch("a receipt is ahead")
    assert keys(again) == [(again.epoch, 1), (again.epoch, 2)]
    again.settle(old, [(1, 10)])
    assert len(keys(again)) == 2


@pytest.mark.parametrize("flipped", ["value = replace(value, '-11', '-51')", "key = 'young_from'||'m'"])
def test_a_note_of_what_is_young_with_a_flipped_bit_is_not_believed(
    spool: Spool, opened: Callable[..., Spool], flipped: str
) -> None:
    spool.admit([reading(value) for value in range(10)])
    spool.settle(spool.epoch, [(1, 10)])
    spool = opened()
    spool.admit([reading(value) for value in range(10)])
    old = spool.epoch
    noted = spool._outbox.connection.execute("SELECT value FROM meta WHERE key = 'young_from'").fetchone()
    assert noted == (f"{old}-11",)
    spool._outbox.connection.execute(f"UPDATE meta SET {flipped} WHERE key = 'young_from'")
    again = opened()
    assert again.epoch != old
    assert [seq for epoch, seq in keys(again) if epoch == old] == list(range(11, 21))


def test_a_note_of_what_is_young_that_makes_no_sense_is_healed_by_the_next_start(
    spool: Spool, opened: Callable[..., Spool]
) -> None:
    spool.admit([reading(1.0)])
    spool._outbox.set_note("young_from", f"{spool.epoch}-\x11")
    epoch = spool.epoch
    with pytest.raises(Damaged, match="young_from"):
        opened()
    again = opened()
    assert again.epoch != epoch
    assert (epoch, 1) in keys(again)


def test_an_answer_that_agrees_proves_what_was_minted_before_it(spool: Spool, opened: Callable[..., Spool]) -> None:
    spool.admit([reading(1), reading(2)])
    spool.settle(spool.epoch, [])
    again = opened()
    old = again.epoch
    again.admit([reading(3)])
    again.begin_epoch("a receipt is ahead")
    assert keys(again) == [(old, 1), (old, 2), (again.epoch, 1)]


def test_a_new_epoch_gives_all_the_new_keys_or_none(spool: Spool) -> None:
    spool.admit([reading(value) for value in range(200)])
    before, old = keys(spool), spool.epoch
    fill(spool)
    with pytest.raises(StorageFailed):
        spool.begin_epoch("on a full disk")
    assert (spool.epoch, keys(spool)) == (old, before)
    spool._outbox.connection.execute("PRAGMA max_page_count = 100000")
    spool.begin_epoch("with room again")
    assert keys(spool) == [(spool.epoch, seq) for seq in range(1, 201)]


# Damage


@pytest.mark.parametrize("position", [1, 2, 3])
@pytest.mark.parametrize(
    "change", ["body = 'text'", "checksum = 1", "epoch = CAST(x'ff' AS TEXT)", "seq = 7", "lane = 9"]
)
def test_a_damaged_row_is_buried_and_the_ledger_names_it(
    spool: Spool, opened: Callable[..., Spool], tmp_path: Path, change: str, position: int
) -> None:
    spool.admit([reading(1), frame(), reading(3)])
    harm(spool, tmp_path, change, position)
    again = opened()
    damaged = next(entry for entry in again.read(0, 10) if entry.position == position)
    assert again.parcel(damaged) is None
    again.bury(damaged, "the spool's copy is damaged")
    sound = parcels(again)
    assert None not in sound
    assert ledger(sound[-1]) == {
        "device": "cam-1", "epoch": again.epoch, "from": position, "to": position, "disposition": "lost",
        "reason": "the spool's copy is damaged",
    }  # fmt: skip
    assert sorted([seq for _, seq in keys(again)] + [position]) == [1, 2, 3, 4]


@pytest.mark.parametrize("change", ["body = 'text'", "seq = 2", "lane = 9"])
def test_a_damaged_row_is_named_by_its_place_where_no_other_row_is_held(
    spool: Spool, opened: Callable[..., Spool], tmp_path: Path, change: str
) -> None:
    spool.admit([reading(1), reading(2), reading(3)])
    spool.settle(spool.epoch, [(1, 2)])
    harm(spool, tmp_path, change, 3)
    again = opened()
    (damaged,) = again.read(0, 10)
    again.bury(damaged, "the spool's copy is damaged")
    (record,) = parcels(again)
    assert ledger(record) == {
        "device": "cam-1", "epoch": again.epoch, "from": 3, "to": 3, "disposition": "lost",
        "reason": "the spool's copy is damaged",
    }  # fmt: skip


@pytest.mark.parametrize("spoil", ["epoch = 'zzzzzzzz' WHERE number = 2", "next_seq = 2 WHERE number = 1"])
def test_a_row_of_which_the_epochs_know_nothing_has_the_file_healed(
    spool: Spool, opened: Callable[..., Spool], tmp_path: Path, spoil: str
) -> None:
    old = spool.epoch
    spool.admit([reading(1), reading(2), reading(3)])
    spool.begin_epoch("for a test", ())
    newer = spool.epoch
    spool.admit([reading(4), reading(5)])
    with sqlite3.connect(tmp_path / "state" / "spool.db") as vandal:
        vandal.create_function("row_sum", -1, row_sum)
        vandal.execute(f"UPDATE own_epoch SET {spoil}")
        vandal.execute("UPDATE own_epoch SET checksum = row_sum(epoch, number, next_seq, reason)")
    vandal.close()
    with pytest.raises(Damaged, match="not minted"):
        opened()
    again = opened()
    assert keys(again)[:5] == [(old, 1), (old, 2), (old, 3), (newer, 1), (newer, 2)]
    assert again.minted()[old] == 3
    assert again.minted()[newer] == 2
    assert again.settle(old, [(1, 3)]) == [(1, 3)]


@pytest.mark.parametrize("harmed", [None, b"another picture"])
def test_a_frame_whose_picture_is_gone_or_changed_is_not_sent(spool: Spool, harmed: bytes | None) -> None:
    entry = spool.admit([frame()])[0]
    assert entry.blob is not None
    file = spool._outbox.blobs.path(entry.blob)
    file.unlink() if harmed is None else file.write_bytes(harmed)
    assert spool.parcel(entry) is None
    spool.bury(entry, "picture damaged")
    assert ledger(parcels(spool)[0])["from"] == entry.seq


def test_an_event_that_no_gateway_would_believe_is_not_sent(spool: Spool) -> None:
    entry = spool.admit([Admission("belt", events.READING, INSTANT, {"not a name": 1})])[0]
    assert spool.parcel(entry) is None


def test_a_damaged_young_row_keeps_its_key_when_the_others_get_new_ones(spool: Spool, tmp_path: Path) -> None:
    spool.admit([reading(1), reading(2), reading(3)])
    harm(spool, tmp_path, "body = CAST('x' || body AS BLOB)", 2)
    old = spool.epoch
    spool.begin_epoch("set back")
    assert keys(spool) == [(old, 2), (spool.epoch, 1), (spool.epoch, 2)]
    spool.bury(spool.read(0, 1)[0], "damaged")
    assert ledger(parcels(spool)[-1])["epoch"] == old
