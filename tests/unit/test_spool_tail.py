"""The spool's tail in memory: it survives any end of the program, and what a power cut takes of it is declared."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from unit.failing_calls import calls_fail

from device_agent import memory
from device_agent.packing import Admission
from device_agent.settings import AgentSettings
from device_agent.spool import Spool
from millrace import clock, events
from millrace.blobs import StorageFailed
from millrace.database import PAGE_BYTES, mark_of
from millrace.entries import Lane
from millrace.ranges import RangeSet
from millrace.tail import SpoolReader

PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"
)


@dataclass
class Moment:
    """A clock that stands where it is set."""

    boot_id: str = "boot-1"
    now_s: float = 1000.0

    def now(self) -> clock.Instant:
        return clock.Instant(1_795_249_800_000_000_000, self.boot_id, int(self.now_s * 1e9))

    def uptime_s(self) -> float:
        return self.now_s


@dataclass
class Device:
    """A device whose program starts, is killed and loses its power."""

    folder: Path
    ram: Path
    time: Moment = field(default_factory=Moment)
    spools: list[Spool] = field(default_factory=list)

    def start(self, machine_id: str = "machine-1", **spool: object) -> Spool:
        settings = AgentSettings.model_validate(
            {
                "device": "cam-1",
                "state_dir": self.folder,
                "spool": {"min_free_bytes": 0, "ram_dir": self.ram, **spool},
                "channels": {
                    "top": {"source": {"kind": "conveyor"}},
                    "belt": {"source": {"kind": "readings", "path": self.folder / "none.csv"}},
                },
            }
        )
        self.spools.append(Spool(settings, machine_id, self.time))
        return self.spools[-1]

    def kill(self) -> None:
        """End the program without a word: only what is in the files is left."""
        self.spools.pop()._shelves.close()

    def kill_amid(self) -> None:
        """As `kill`, and what the disk's log holds beyond the last commit stays too: a close would take it away."""
        parts = [self.folder / "spool.db", self.folder / "spool.db-wal"]
        left = [part.read_bytes() for part in parts]
        self.kill()
        for part, content in zip(parts, left, strict=True):
            part.write_bytes(content)

    def cut_power(self) -> None:
        self.kill()
        shutil.rmtree(self.ram, ignore_errors=True)
        self.time.boot_id += "+"

    def minted(self) -> dict[str, int]:
        reader = SpoolReader(self.folder / "spool.db")
        try:
            return reader.epochs()
        finally:
            reader.close()


@pytest.fixture
def device() -> Iterator[Device]:
    home = memory.SHARED_MEMORY / f"millrace-test-{random.SystemRandom().getrandbits(48):x}"
    device = Device(home / "state", home / "ram")
    yield device
    for spool in device.spools:
        spool._shelves.close()
    shutil.rmtree(home, ignore_errors=True)


def reading(value: float = 1.0) -> Admission:
    return Admission("belt", events.READING, clock.Instant(1, "b", 1), {"temperature_c": value})


def frame(number: int = 0) -> Admission:
    picture = PICTURE + b"%d" % number
    return Admission("top", events.FRAME, clock.Instant(1, "b", 1), picture=picture, content_type="image/png")


def seqs(spool: Spool) -> list[int]:
    return [entry.seq for entry in spool.read(0, 10_000)]


def on_disk(spool: Spool) -> list[int]:
    return [entry.seq for entry in spool._shelves.disk.read(0, 10_000)]


def declared(spool: Spool) -> list[tuple[str, int, int, str]]:
    found = []
    for entry in spool.read(0, 10_000):
        event = events.decode_json(entry.body)
        if event.type == events.LEDGER:
            data = events.LedgerData.model_validate(event.data)
            found.append((data.epoch, data.first, data.last, data.disposition))
    return found


def fill(spool: Spool) -> Callable[[], None]:
    """Let the file on disk grow no more; return how to give it room again."""
    connection = spool._shelves.disk.connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    return lambda: connection.execute("PRAGMA max_page_count = 1000000") and None


# What lies where


def test_frames_wait_in_memory_and_readings_on_the_disk(device: Device) -> None:
    spool = device.start()
    spool.admit([frame(1), reading(), frame(2), reading()])
    assert seqs(spool) == [1, 2, 3, 4]
    assert on_disk(spool) == [1, 2]
    assert list(spool._shelves.disk.blobs.digests()) == []
    parcels = [spool.parcel(entry) for entry in spool.read(0, 10)]
    assert [parcel.event.type for parcel in parcels if parcel] == [events.READING] * 2 + [events.FRAME] * 2
    spool.settle(spool.epoch, [(1, 4)])
    assert (spool.held_rows, spool.held_bytes, seqs(spool)) == (0, 0, [])


def test_a_healthy_line_of_frames_leaves_the_disk_alone(device: Device) -> None:
    spool = device.start()
    spool.settle(spool.epoch, [])
    spool.admit([frame(0)])
    log = device.folder / "spool.db-wal"
    before = log.stat().st_size, log.stat().st_mtime_ns
    for number in range(1, 500):
        spool.admit([frame(number)])
        spool.settle(spool.epoch, [(1, number)])
        spool.tend(device.time.now_s)
    assert (log.stat().st_size, log.stat().st_mtime_ns) == before
    assert device.minted() == {spool.epoch: 500}


def test_with_durability_power_nothing_is_in_memory(device: Device) -> None:
    spool = device.start(durability={"frame": "power"})
    spool.admit([frame()])
    assert on_disk(spool) == [1]
    assert not device.ram.exists()


def test_a_device_without_cameras_makes_no_tail(device: Device, tmp_path: Path) -> None:
    source = {"kind": "readings", "path": tmp_path / "none.csv"}
    settings = AgentSettings.model_validate(
        {
            "device": "s-1",
            "state_dir": device.folder,
            "channels": {"belt": {"source": source}},
            "spool": {"ram_dir": device.ram},
        }
    )
    Spool(settings, "machine-1", device.time).close()
    assert not device.ram.exists()


@pytest.mark.parametrize("why", ["on a disk", "of another user"])
def test_a_folder_that_is_no_memory_of_ours_is_not_used_and_the_log_says_so(
    device: Device,
    tmp_path_factory: pytest.TempPathFactory,
    caplog: pytest.LogCaptureFixture,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if why == "on a disk":
        disk = tmp_path_factory.mktemp("disk")
        device.ram = disk / "no-memory"
        if memory.kind_of(disk.resolve(), Path("/proc/self/mounts").read_text()) == "tmpfs":
            pytest.skip("the temporary folder is in memory here")
    else:
        monkeypatch.setattr("os.geteuid", lambda: 4242)
    spool = device.start()
    spool.admit([frame()])
    assert on_disk(spool) == [1]
    assert [record.message for record in caplog.records if "no_tail_in_memory" in record.message]


# Ends


def test_a_killed_program_finds_all_that_was_in_memory(device: Device) -> None:
    spool = device.start()
    spool.admit([frame(1), reading(), frame(2)])
    spool.settle(spool.epoch, [(2, 2)])
    epoch = spool.epoch
    device.kill()
    assert device.minted() == {epoch: 3}
    again = device.start()
    assert (again.epoch, seqs(again)) == (epoch, [1, 3])
    assert again.admit([frame(3)])[0].seq == 4
    assert all(again.parcel(entry) for entry in again.read(0, 10))
    assert declared(again) == []


def test_what_is_in_memory_is_kept_though_files_on_disk_were_set_back_behind_it(device: Device) -> None:
    spool = device.start()
    spool.admit([frame(1), frame(2)])
    epoch = spool.epoch
    device.kill()
    (device.folder / "spool.db.epoch").write_text(f'{{"reserved":{{"{epoch}":1}}}}')
    again = device.start()
    assert [(entry.epoch, entry.seq) for entry in again.read(0, 10)] == [(epoch, 1), (epoch, 2)]


def test_a_stop_in_good_order_leaves_nothing_in_memory(device: Device) -> None:
    spool = device.start()
    spool.admit([frame(number) for number in range(200)])
    spool.settle(spool.epoch, [(1, 50)])
    epoch = spool.epoch
    device.spools.pop().close()
    assert not device.ram.exists()
    device.time.boot_id = "boot-2"
    again = device.start()
    assert (again.epoch, seqs(again)) == (epoch, list(range(51, 201)))
    assert all(again.parcel(entry) for entry in again.read(0, 200))
    assert again.admit([frame()])[0].seq == 201


def test_a_power_cut_begins_a_new_epoch_and_declares_what_it_took_and_nothing_that_is_held(device: Device) -> None:
    spool = device.start()
    spool.admit([reading()])
    spool.settle(spool.epoch, [(1, 1)])
    spool.admit([frame(2), frame(3)])
    spool.admit([reading(), frame(3)])
    old = spool.epoch
    device.cut_power()
    again = device.start()
    assert again.epoch != old
    entries = again.read(0, 10)
    assert [(entry.epoch, entry.seq) for entry in entries if entry.epoch == old] == [(old, 4)]
    ranges = [(first, last) for epoch, first, last, how in declared(again) if (epoch, how) == (old, "unproven")]
    assert RangeSet(ranges).gaps(1, 5) == [(1, 1), (4, 4)]  # what was settled, and what is held
    assert device.minted()[old] == RangeSet(ranges).last()
    again.settle(old, [(4, 4)])
    assert all(entry.epoch == again.epoch for entry in again.read(0, 10))


def test_a_power_cut_before_anything_was_in_memory_changes_nothing(device: Device) -> None:
    spool = device.start()
    spool.admit([reading()])
    old = spool.epoch
    device.cut_power()
    again = device.start()
    assert (again.epoch, seqs(again), declared(again)) == (old, [1], [])


def test_another_boot_is_a_power_cut_whatever_the_folder_holds(device: Device) -> None:
    spool = device.start()
    spool.admit([frame()])
    old = spool.epoch
    device.kill()
    device.time.boot_id = "boot-2"
    assert device.start().epoch != old


def test_another_machine_gets_what_was_in_memory_onto_its_disk_under_the_old_keys(device: Device) -> None:
    spool = device.start()
    spool.admit([frame(1), frame(2)])
    old = spool.epoch
    device.kill()
    clone = device.start("machine-2")
    assert [(entry.epoch, entry.seq) for entry in clone.read(0, 10)] == [(old, 1), (old, 2)]
    assert on_disk(clone) == [1, 2]
    clone.admit([frame(3)])
    assert [(e.epoch, e.seq) for e in clone.read(0, 10)] == [(old, 1), (old, 2), (clone.epoch, 1)]


@pytest.mark.parametrize("table", ["meta", "own_epoch", "counter"])
def test_damage_that_makes_the_disk_forget_a_living_tail_declares_what_was_in_it(device: Device, table: str) -> None:
    spool = device.start()
    spool.admit([reading()])
    spool.admit([frame(number) for number in range(9)])
    old = spool.epoch
    connection = spool._shelves.disk.connection
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    (root,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    device.kill()
    with (device.folder / "spool.db").open("r+b") as file:
        file.seek((root - 1) * PAGE_BYTES)
        file.write(bytes(PAGE_BYTES))
    again = device.start()
    accounted = RangeSet((first, last) for epoch, first, last, _ in declared(again) if epoch == old)
    for entry in again.read(0, 100):
        if entry.epoch == old:
            accounted.add(entry.seq)
    assert accounted.gaps(1, 10) == []


@pytest.mark.parametrize("is_power_cut", [True, False])
@pytest.mark.parametrize(
    "flipped",
    [
        "value = replace(value, '\"settled\":1', '\"settled\":5')",
        "value = replace(value, '\"offset\":0', '\"offset\":4')",
        "value = replace(value, 'boot-1', 'boot-3')",
        "key = 'tcil'",
    ],
)
def test_a_flipped_bit_in_the_note_of_a_tail_hides_nothing_of_what_was_in_it(
    device: Device, flipped: str, is_power_cut: bool
) -> None:
    spool = device.start()
    spool.admit([reading()])
    spool.settle(spool.epoch, [(1, 1)])
    spool.admit([frame(number) for number in range(9)])
    old = spool.epoch
    connection = spool._shelves.disk.connection
    (noted,) = connection.execute("SELECT value FROM meta WHERE key = 'tail'").fetchone()
    assert '"boot_id":"boot-1"' in noted
    assert noted.endswith('"offset":0,"settled":1}')
    connection.execute(f"UPDATE meta SET {flipped} WHERE key = 'tail'")
    device.cut_power() if is_power_cut else device.kill()
    again = device.start()
    accounted = RangeSet((first, last) for epoch, first, last, _ in declared(again) if epoch == old)
    for entry in again.read(0, 100):
        if entry.epoch == old:
            accounted.add(entry.seq)
    assert accounted.gaps(2, 10) == []


@pytest.mark.parametrize("is_tail_alive", [True, False])
def test_a_healing_beside_a_living_tail_declares_no_seq_that_was_never_minted(
    device: Device, is_tail_alive: bool
) -> None:
    spool = device.start()
    spool.admit([reading(), *[frame(number) for number in range(8)]])
    spool.admit([reading()])
    old = spool.epoch
    device.kill()
    mark_of(device.folder / "spool.db").touch()
    if not is_tail_alive:
        shutil.rmtree(device.ram)
    again = device.start()
    held = [entry.seq for entry in again.read(0, 2000) if entry.epoch == old]
    told = RangeSet((first, last) for epoch, first, last, how in declared(again) if (epoch, how) == (old, "unproven"))
    if is_tail_alive:
        assert (held, list(told), device.minted()[old]) == (list(range(1, 11)), [], 10)
    else:
        assert (held, told.gaps(1, 1000)) == ([1, 10], [(1, 1), (10, 10)])


def test_a_healing_of_a_spool_without_a_tail_declares_no_seq_that_was_never_minted(device: Device) -> None:
    spool = device.start()
    spool.admit([reading(), reading()])
    device.kill()
    mark_of(device.folder / "spool.db").touch()
    assert declared(device.start()) == []


def test_a_healing_whose_file_was_not_sure_of_itself_declares_the_rest_beside_a_living_tail_too(device: Device) -> None:
    spool = device.start()
    spool.admit([reading(), frame()])
    old = spool.epoch
    device.kill()
    (device.folder / "spool.db.seen").unlink()
    mark_of(device.folder / "spool.db").touch()
    again = device.start()
    told = RangeSet((first, last) for epoch, first, last, _ in declared(again) if epoch == old)
    assert told.gaps(1, 1000) == [(1, 2)]


@pytest.mark.parametrize("is_power_cut", [False, True])
def test_a_healing_after_a_kill_between_a_commit_and_the_note_of_it_declares_no_seq_that_was_never_minted(
    device: Device, monkeypatch: pytest.MonkeyPatch, is_power_cut: bool
) -> None:
    noted = device.folder / "spool.db.seen"
    spool = device.start()
    spool.admit([reading()])
    before = noted.read_bytes()
    spool.admit([reading()])
    old = spool.epoch
    device.kill()
    noted.write_bytes(before)
    mark_of(device.folder / "spool.db").touch()
    if is_power_cut:
        monkeypatch.setattr(clock, "boot_id", lambda: "another")
    again = device.start()
    assert [entry.seq for entry in again.read(0, 10) if entry.epoch == old] == [1, 2]
    told = RangeSet((first, last) for epoch, first, last, _ in declared(again) if epoch == old)
    assert told.gaps(1, 1000) == ([(1, 2)] if is_power_cut else [(1, 1000)])


@pytest.mark.parametrize("step", ["before the tail is put away", "after it was put away"])
def test_a_kill_while_a_healed_spool_opens_keeps_the_doubt_as_narrow_as_it_is_true(
    device: Device, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = device.start()
    spool.admit([reading(), frame(1), frame(2)])
    old = spool.epoch
    device.kill()
    mark_of(device.folder / "spool.db").touch()
    cut_short = "_spill_all" if step.startswith("before") else "_account_for_doubt"
    with monkeypatch.context() as patch:
        patch.setattr(Spool, cut_short, _interrupted)
        with pytest.raises(KeyboardInterrupt):
            device.start()
    again = device.start()
    assert [entry.seq for entry in again.read(0, 10) if entry.epoch == old] == [1, 2, 3]
    assert declared(again) == []


def test_what_was_in_doubt_stays_so_when_the_healed_file_is_damaged_before_it_was_declared(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = device.start(durability={"frame": "power"})
    spool.admit([reading()])
    old = spool.epoch
    device.kill()
    (device.folder / "spool.db.seen").unlink()
    mark_of(device.folder / "spool.db").touch()
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "_account_for_doubt", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            device.start()
    mark_of(device.folder / "spool.db").touch()
    again = device.start()
    told = RangeSet((first, last) for epoch, first, last, _ in declared(again) if epoch == old)
    assert told.gaps(1, 1000) == [(1, 1)]


def _interrupted(_: Spool) -> None:
    raise KeyboardInterrupt


# Moving to the disk


def test_what_waits_too_long_for_its_receipt_goes_to_the_disk_with_all_that_is_younger(device: Device) -> None:
    spool = device.start(spill_after_s=5)
    spool.admit([frame(1)])
    device.time.now_s += 4
    spool.admit([frame(2)])
    spool.tend(device.time.now_s)
    assert on_disk(spool) == []
    before = [spool.parcel(entry) for entry in spool.read(0, 10)]
    device.time.now_s += 1
    spool.tend(device.time.now_s)
    assert on_disk(spool) == [1, 2]
    assert [spool.parcel(entry) for entry in spool.read(0, 10)] != []
    assert [parcel.payload for parcel in map(spool.parcel, spool.read(0, 10)) if parcel] == [
        parcel.payload for parcel in before if parcel
    ]
    assert list(spool._shelves.tail.blobs.digests()) == []  # type: ignore[union-attr]
    epoch = spool.epoch
    device.cut_power()
    again = device.start()
    assert [(e.epoch, e.seq) for e in again.read(0, 10) if e.epoch == epoch] == [(epoch, 1), (epoch, 2)]


def test_a_full_tail_sends_frames_to_the_disk_at_once(device: Device) -> None:
    spool = device.start(ram_max_bytes=100)
    spool.admit([frame(1)])
    spool.admit([frame(2), frame(3)])
    assert seqs(spool) == [1, 2, 3]
    assert on_disk(spool) == [2, 3]


def test_a_tail_that_refuses_sends_its_frames_to_the_disk(device: Device) -> None:
    spool = device.start()
    spool.admit([frame(0)])
    tail = spool._shelves.tail
    assert tail is not None
    pages = tail.connection.execute("PRAGMA page_count").fetchone()[0]
    tail.connection.execute(f"PRAGMA max_page_count = {pages}")
    entries = [entry for number in range(1, 100) for entry in spool.admit([frame(number)])]
    assert [entry.seq for entry in entries] == list(range(2, 101))
    assert seqs(spool) == list(range(1, 101))
    assert on_disk(spool)


def test_a_full_disk_leaves_the_tail_in_memory_and_a_start_after_a_kill_finds_it(device: Device) -> None:
    spool = device.start(spill_after_s=1)
    spool.admit([frame(number) for number in range(60)])
    spool._shelves.disk.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    make_room = fill(spool)
    device.time.now_s += 10
    with pytest.raises(StorageFailed):
        spool.tend(device.time.now_s)
    assert seqs(spool) == list(range(1, 61))
    make_room()
    device.kill()
    again = device.start()
    assert seqs(again) == list(range(1, 61))
    assert all(again.parcel(entry) for entry in again.read(0, 100))


def test_a_tail_that_lets_nothing_go_does_not_keep_a_receipt_from_being_heard(device: Device) -> None:
    spool = device.start()
    spool.admit([reading(), frame(1)])
    with calls_fail("pwrite64", "ENOSPC", device.ram / "tail.db-wal"):
        assert spool.settle(spool.epoch, [(1, 2)]) == [(1, 2)]
    assert seqs(spool) == [2]
    assert not spool.is_ahead(spool.epoch, [(1, 2)])
    spool.settle(spool.epoch, [(1, 2)])
    assert seqs(spool) == []


def test_a_refused_reading_that_a_kill_brings_back_takes_no_promised_frames_place(device: Device) -> None:
    spool = device.start()
    spool.admit([frame(1)])
    log = device.folder / "spool.db-wal"
    with calls_fail("fsync,fdatasync", "EIO", log), pytest.raises(StorageFailed):
        spool.admit([reading()])
    promised = spool.admit([frame(2)])
    assert [entry.seq for entry in promised] == [2]
    assert on_disk(spool) == []
    device.kill_amid()
    again = device.start()
    assert [(entry.seq, entry.blob) for entry in again.read(1, 10)] == [(2, promised[0].blob)]
    assert all(again.parcel(entry) for entry in again.read(0, 10))


def test_a_frame_is_refused_while_the_disk_can_not_take_back_what_a_kill_may_bring(device: Device) -> None:
    spool = device.start()
    spool.admit([frame(1)])
    log = device.folder / "spool.db-wal"
    with calls_fail("fsync,fdatasync", "EIO", log):
        with pytest.raises(StorageFailed):
            spool.admit([reading(), reading()])
        with pytest.raises(StorageFailed):
            spool.admit([frame(2)])
        assert seqs(spool) == [1]
    assert [entry.seq for entry in spool.admit([frame(3)])] == [2]
    device.kill_amid()
    assert seqs(device.start()) == [1, 2]


def test_a_kill_between_disk_and_memory_while_rows_move_doubles_nothing(device: Device) -> None:
    spool = device.start()
    spool.admit([frame(1), frame(2)])
    rows = spool.read(0, 10)
    spool._shelves._copy(rows, device.time.now_s)
    device.kill()
    again = device.start()
    assert seqs(again) == [1, 2]
    again._spill_all()
    assert on_disk(again) == [1, 2]
    again.settle(again.epoch, [(1, 2)])
    assert (seqs(again), again.held_rows) == ([], 0)


def test_a_spool_set_back_gives_new_keys_to_what_is_in_memory_too(device: Device) -> None:
    spool = device.start()
    spool.admit([frame(1), reading()])
    old = spool.epoch
    assert spool.is_ahead(old, [(1, 9)])
    spool.begin_epoch("set back", [(1, 9)])
    assert [(e.epoch, e.seq) for e in spool.read(0, 10)] == [(spool.epoch, 1), (spool.epoch, 2)]
    spool.admit([frame(2)])
    assert [(e.epoch, e.seq) for e in spool.read(0, 10)][-1] == (spool.epoch, 3)
    assert device.minted() == {old: 2, spool.epoch: 3}


def test_other_programs_see_both_files_as_one(device: Device) -> None:
    spool = device.start()
    spool.admit([frame(1), reading()])
    reader = SpoolReader(device.folder / "spool.db")
    assert reader.epochs() == spool.minted() == {spool.epoch: 2}
    assert [entry.seq for entry in reader.read(Lane.FRAME, 0, 10)] == [2]
    assert [entry.seq for entry in reader.read(Lane.BULK, 0, 10)] == [1]
    device.spools.pop().close()
    assert [entry.seq for entry in reader.read(Lane.FRAME, 0, 10)] == [2]
    reader.close()


# At random


@pytest.mark.parametrize("seed", range(12))
def test_every_seq_that_was_promised_is_held_settled_or_declared(device: Device, seed: int) -> None:
    chance = random.Random(seed)
    promised: dict[str, RangeSet] = {}
    settled: dict[str, RangeSet] = {}
    spool = device.start(spill_after_s=2, ram_max_bytes=2000)
    for step in range(80):
        device.time.now_s += chance.random()
        deed = chance.choices(["admit", "settle", "tend", "kill", "cut", "stop", "renew"], [9, 6, 6, 2, 1, 1, 0.3])[0]
        if deed == "admit":
            batch = [chance.choice([frame, reading])(step * 10 + number) for number in range(chance.randrange(1, 5))]
            for entry in spool.admit(batch):
                assert entry.seq not in promised.setdefault(entry.epoch, RangeSet())
                promised[entry.epoch].add(entry.seq)
        elif deed == "settle":
            for entry in spool.read(0, chance.randrange(1, 30)):
                if chance.random() < 0.7:
                    spool.settle(entry.epoch, [(entry.seq, entry.seq)])
                    settled.setdefault(entry.epoch, RangeSet()).add(entry.seq)
        elif deed == "tend":
            spool.tend(device.time.now_s)
        elif deed == "renew":
            old = spool.epoch
            young = [entry.seq for entry in spool.read(0, 10_000) if entry.epoch == old]
            spool.begin_epoch("set back")
            left = [entry.seq for entry in spool.read(0, 10_000) if entry.epoch == old]
            for seq in set(young) - set(left):
                settled.setdefault(old, RangeSet()).add(seq)  # it lives on under another key
            for entry in spool.read(0, 10_000):
                promised.setdefault(entry.epoch, RangeSet()).add(entry.seq)
        else:
            if deed == "cut":
                device.cut_power()
            elif deed == "kill":
                device.kill()
            else:
                device.spools.pop().close()
            spool = device.start(spill_after_s=2, ram_max_bytes=2000)
            for entry in spool.read(0, 10_000):
                promised.setdefault(entry.epoch, RangeSet()).add(entry.seq)
        held: dict[str, RangeSet] = {}
        for entry in spool.read(0, 10_000):
            assert entry.seq not in held.setdefault(entry.epoch, RangeSet())
            held[entry.epoch].add(entry.seq)
        told: dict[str, RangeSet] = {}
        for epoch, first, last, _ in declared(spool):
            told.setdefault(epoch, RangeSet()).add(first, last)
            settled.setdefault(epoch, RangeSet()).add(first, last)  # it counts, settled itself or not
        for epoch, seqs_ in held.items():
            assert not [seq for seq in told.get(epoch, []) if seqs_.gaps(*seq) != [seq]], "declared and held"
        for epoch, seqs_ in promised.items():
            explained = RangeSet([*held.get(epoch, []), *settled.get(epoch, [])])
            assert explained.gaps(1, seqs_.last() or 0) == []
        minted = device.minted()
        assert minted == spool.minted()
        for epoch, seqs_ in promised.items():
            assert minted[epoch] >= (seqs_.last() or 0)
            if epoch == spool.epoch:
                assert minted[epoch] == seqs_.last()
