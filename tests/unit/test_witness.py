"""What is known of clocks goes up with the batches, once each, and the cloud mends times with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloud_sync.progress import Progress
from cloud_sync.reference_cloud import clocks
from cloud_sync.reference_cloud.batch import BadBatch, read_batch
from cloud_sync.reference_cloud.ledger import Ledger
from cloud_sync.witness import TOLD_AT_ONCE, Witness
from edge_gateway.admission import DeviceStatus, admit
from edge_gateway.store import Store
from millrace import clock, mending, ties
from millrace.mending import Sighting, Tie
from millrace.ties import TieReader

S = 10**9
NOW = clock.Instant(1_795_249_800 * S, "cloud-boot", 1_000_000 * S)
DEVICE, GATEWAY = ("device/cam-1", "cam-boot"), ("gateway/g1", "gw-boot")


@dataclass
class FakeClock:
    """The gateway host's clock; its wall says 1970."""

    uptime_ns: int = 5000 * S

    def now(self) -> clock.Instant:
        return clock.Instant(0, "gw-boot", self.uptime_ns)

    def uptime_s(self) -> float:
        return self.uptime_ns / 1e9


@dataclass
class Worker:
    """A gateway's store, the sync worker's account beside it, and its witness."""

    store: Store
    progress: Progress
    witness: Witness
    clock: FakeClock

    def meet(self, *sightings: Sighting) -> None:
        with self.store.outbox.transaction():
            for sighting in sightings:
                self.store.note_sighting(sighting)

    def batch(self) -> Any:
        words = json.loads(json.dumps(self.witness.words()))
        return read_batch(json.dumps({"batch": "b", "events": [], **words}).encode(), "g1")

    def answered(self, now: clock.Instant = NOW) -> None:
        self.witness.heard({"clock": {"bootid": now.boot_id, "uptimens": str(now.uptime_ns)}})


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    store, progress, time = Store(tmp_path, "m", 1 << 30), Progress(tmp_path / "sync.db"), FakeClock()
    yield Worker(store, progress, Witness(TieReader(tmp_path / "gateway.db"), progress, time), time)
    progress.close()
    store.close()


def sighting(boot: int = 0, wide_ns: int = S) -> Sighting:
    return Sighting(("device/cam-1", f"boot-{boot}"), GATEWAY, Tie((100 * S, 4000 * S), (100 * S, 4000 * S + wide_ns)))


def test_a_cloud_that_says_nothing_of_clocks_is_told_nothing(worker: Worker) -> None:
    worker.meet(sighting())
    worker.witness.heard({"batch": "b", "accepted": 0})
    assert worker.witness.words() == {}
    assert not worker.witness.has_news()


def test_each_meeting_is_told_once_and_again_when_it_is_known_better(worker: Worker) -> None:
    worker.meet(sighting())
    worker.answered()
    assert worker.witness.has_news()
    assert [said.mine for said in worker.batch().met] == [("device/cam-1", "boot-0")]
    worker.answered()
    assert not worker.witness.has_news()
    assert worker.batch().met == []
    worker.meet(sighting(wide_ns=2 * S))
    assert worker.batch().met == []
    worker.meet(sighting(wide_ns=S // 2))
    assert [said.tie.width_ns for said in worker.batch().met] == [S // 2]


def test_what_was_not_answered_is_told_again(worker: Worker) -> None:
    worker.meet(sighting())
    worker.answered()
    first = worker.batch().met
    assert worker.batch().met == first != []


def test_what_was_told_is_remembered_over_a_restart_and_told_anew_by_a_gateway_that_was_set_back(
    worker: Worker, tmp_path: Path
) -> None:
    worker.meet(sighting())
    worker.answered()
    worker.batch()
    worker.answered()
    again = Witness(TieReader(tmp_path / "gateway.db"), worker.progress, worker.clock)
    again.heard({"clock": {"bootid": "cloud-boot", "uptimens": "5"}})
    assert again.words()["ties"] == []
    worker.store.outbox.new_epoch("set back")
    assert len(again.words()["ties"]) == 1


def test_a_thousand_meetings_are_told_a_bounded_part_at_a_time(worker: Worker) -> None:
    worker.meet(*(sighting(boot) for boot in range(2 * TOLD_AT_ONCE + 1)))
    told = []
    for _ in range(4):
        worker.answered()
        told.append(len(worker.batch().met))
    assert told == [TOLD_AT_ONCE, TOLD_AT_ONCE, 1, 0]


def test_a_device_that_boots_for_ever_keeps_a_bounded_number_of_meetings(worker: Worker) -> None:
    worker.meet(*(sighting(boot) for boot in range(ties.KEPT_OF_AN_ORIGIN + 5)))
    rows = worker.store.outbox.connection.execute("SELECT bootid FROM tie ORDER BY no").fetchall()
    assert len(rows) == ties.KEPT_OF_AN_ORIGIN
    assert rows[0][0] == "boot-5"


def test_a_gateway_cannot_tie_another_gateways_boots() -> None:
    row = {"origin": "gateway/g2", "bootid": "x", "with": "y", "low": ["1", "1"], "high": ["1", "1"]}
    with pytest.raises(BadBatch, match=r"ties\.0\.origin"):
        read_batch(json.dumps({"batch": "b", "events": [], "ties": [row]}).encode(), "g1")


def test_the_whole_chain_mends_a_devices_time_although_every_clock_on_the_floor_says_1970(
    worker: Worker, tmp_path: Path
) -> None:
    """At one true moment the device was up 50 s, the gateway 5000 s and the cloud 1,000,000 s; messages take 10 ms."""
    heard = mending.Heard()
    heard.note("gw-boot", 5000 * S - S // 100, 50 * S)
    status = {"state": "online", "bootid": "cam-boot", "uptimens": str(50 * S), "heard": heard.said()}
    found = admit(
        "millrace",
        "millrace/device/cam-1/status",
        json.dumps(status).encode(),
        (),
        worker.clock.now(),
        redelivered=False,
    )
    assert isinstance(found, DeviceStatus)
    assert found.met is not None
    worker.meet(Sighting(("device/cam-1", found.met[0]), GATEWAY, found.met[1]))
    ledger = Ledger(tmp_path / "cloud.db")
    moments = [("device/cam-1", "cam-boot", 20 * S), ("gateway/g1", "gw-boot", 4970 * S), ("device/http", "gw-boot", 0)]
    later = clock.Instant(NOW.wall_ns + 3600 * S, "cloud-boot", NOW.uptime_ns + 3600 * S)
    assert ledger.mended("plant1", moments, later) == [None, None, None]
    worker.clock.uptime_ns -= S // 100
    worker.answered(clock.Instant(0, "cloud-boot", NOW.uptime_ns - S // 50))
    worker.clock.uptime_ns += S // 100
    batch = worker.batch()
    met = [*batch.met, *clocks.met_us("g1", batch.clock, NOW)]
    ledger.ingest("plant1", [], {}, NOW, (), met)
    by_device, by_gateway, by_bare = ledger.mended("plant1", moments, later)
    assert by_device is not None
    assert by_gateway is not None
    assert by_bare is not None
    assert abs(by_device.time_ns - (NOW.wall_ns - 30 * S)) <= by_device.within_ns <= S // 20
    assert abs(by_gateway.time_ns - (NOW.wall_ns - 30 * S)) <= by_gateway.within_ns <= S // 20
    assert abs(by_bare.time_ns - (NOW.wall_ns - 5000 * S)) <= by_bare.within_ns <= 2 * S
    assert ledger.mended("plant2", moments, later) == [None, None, None], "another site's meetings mend nothing"
    ledger.close()


def test_the_clouds_own_clock_is_believed_as_it_stands_when_one_asks(tmp_path: Path) -> None:
    """Batches came while the cloud's own clock said 1970; since then it was set."""
    ledger = Ledger(tmp_path / "cloud.db")
    wrong = clock.Instant(0, NOW.boot_id, NOW.uptime_ns)
    ledger.ingest("plant1", [], {}, wrong, (), [Sighting(GATEWAY, ("cloud", "cloud-boot"), Tie((0, 0), (0, 0)))])
    (mended,) = ledger.mended("plant1", [("gateway/g1", "gw-boot", 0)], NOW)
    assert mended is not None
    assert abs(mended.time_ns - (NOW.wall_ns - NOW.uptime_ns)) <= mended.within_ns
    (reborn,) = ledger.mended("plant1", [("gateway/g1", "gw-boot", 0)], clock.Instant(0, "next boot", 0))
    assert reborn is not None
    assert reborn.time_ns == -NOW.uptime_ns, "of a past boot the last word of its own clock is all there is"
    ledger.close()


def test_a_time_beyond_every_calendar_is_not_said() -> None:
    assert clocks.words(mending.Mended(10**21, 5)) == {}
    assert clocks.words(mending.Mended(1_795_249_800 * S + 1, 2_000_000)) == {
        "mended_time": "2026-11-21T08:30:00.000000Z",
        "mended_within_ms": 2.001,
    }
