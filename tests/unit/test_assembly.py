"""Windows over a real store: a result is committed with the reading that ends its window, once, whatever dies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from unit.test_commit import EPOCH, SURE, Gateway, arrive, bare, event, frame, no_room, reading, settled_by_a_writer

from cloud_sync.books import spoken_for
from edge_gateway.admission import Arrived, Outcome
from edge_gateway.commit import Committer
from edge_gateway.engines.engine import Tensor
from edge_gateway.metrics import Metrics
from edge_gateway.prediction import Prediction
from edge_gateway.relearn import relearn
from edge_gateway.settings import GatewaySettings
from edge_gateway.store import Store
from edge_gateway.window_input import WindowSettings
from edge_gateway.window_models import WindowModels
from edge_gateway.work import Committed
from millrace import events
from millrace.blobs import StorageFailed
from millrace.entries import Lane
from millrace.settings import ConfigError

SAMPLES, HOP = 4, 2
BOUND = {"models": [{"bundle": "odd", "channels": ["*/belt"]}]}
ENDS = list(range(SAMPLES, 15, HOP))


@dataclass
class Floor(Gateway):
    """A gateway with a model for windows, which gives the sum of what it is asked, or fails."""

    settings: dict[str, Any] = field(default_factory=lambda: dict(BOUND))
    fails: str = ""
    asked: int = 0
    answers_at: int = 1
    """So many inferences have to be under way before they are done."""
    promised: list[tuple[Future[Outcome], Outcome]] = field(default_factory=list)

    def open(self) -> None:
        loaded = GatewaySettings.model_validate({"gateway": "g1", "state_dir": self.folder} | self.settings)
        wanted = WindowSettings.model_validate(
            {"kind": "window", "values": 1, "samples": SAMPLES, "hop": HOP, "rate_hz": 100}
        )
        self.metrics, self.store = Metrics(), Store(self.folder, "machine-1", loaded.store.max_bytes)
        self.models = WindowModels(loaded.models, {0: wanted}, {0: "odd"}, self.ask)
        self.loaded = loaded
        self.committer = Committer(loaded, self.store, self.metrics, self.clock, windows=self.models)

    def ask(self, place: int, window: Tensor) -> Future[Outcome]:
        self.asked += 1
        outcome, promised = Outcome(malformed=self.fails or None), Future[Outcome]()
        prediction = Prediction("odd@1", "odd", 1.0, defect=True, value=float(window.sum()))
        outcome.predictions = [(prediction, 0.5, 0.2)]
        self.promised.append((promised, outcome))
        if len(self.promised) == self.answers_at:
            for each, answer in self.promised:
                each.set_result(answer)
            self.promised.clear()
        return promised

    def windows(self) -> list[tuple[str, str, float]]:
        """Return of each result that is held its subject, its first reading, and the sum."""
        bodies = [json.loads(row.body) for row in self.rows(Lane.RESULT)]
        return [
            (body["subject"], body["data"]["first"], body["data"]["value"])
            for body in bodies
            if body["type"] == events.RESULT and "samples" in body["data"]
        ]

    def broken(self, reason: str) -> float:
        return self.count("millrace_windows_broken_total", reason=reason)


@pytest.fixture
def floor(tmp_path: Path) -> Iterator[Floor]:
    made = Floor(tmp_path / "state")
    yield made
    made.store.close()


def readings(*seqs: int, channel: str = "belt") -> list[Arrived]:
    return [reading(seq, float(seq), channel=channel) for seq in seqs]


def expected(ends: Sequence[int]) -> list[tuple[str, str, float]]:
    """Return the results of a device that sends nothing but readings."""
    firsts = [(end, end - SAMPLES + 1) for end in ends]
    return [(f"cam-1/belt/{EPOCH}-{end}", f"{EPOCH}-{first}", (first + end) * SAMPLES / 2) for end, first in firsts]


def said(done: Committed) -> list[str]:
    return [json.loads(message.payload)["subject"] for message in done.results]


def test_the_result_is_committed_with_the_reading_that_ends_the_window(floor: Floor) -> None:
    done = floor.take(*readings(1, 2, 3, 4, 5))
    (message,) = done.results
    assert message.topic == "millrace/device/cam-1/result/belt"
    body = json.loads(message.payload)
    assert body["subject"] == f"cam-1/belt/{EPOCH}-4"
    assert body["data"] == {
        "label": "odd",
        "score": 1.0,
        "defect": True,
        "model": "odd@1",
        "decision": "edge",
        "reason": "score 1.00 >= 0.50",
        "infer_ms": 0.2,
        "total_ms": body["data"]["total_ms"],
        "window_time": body["data"]["window_time"],
        "first": f"{EPOCH}-1",
        "samples": SAMPLES,
        "value": 10.0,
    }
    assert [(row.seq, row.lane) for row in floor.rows()][3:5] == [(4, Lane.BULK), (1, Lane.RESULT)]
    assert done.last_position == 5
    assert floor.count("millrace_commits_total") == 1
    assert floor.count("millrace_inference_duration_seconds_count", model="odd@1") == 1
    assert floor.count("millrace_windows_bytes") > 0


def test_each_answer_that_a_commit_waited_for_is_a_sign_of_life(floor: Floor) -> None:
    beats: list[int] = []
    floor.committer.commit(readings(*range(1, 9)), lambda: beats.append(floor.asked))
    assert len(beats) == len(floor.windows()) == 3


def test_who_sends_that_reading_again_hears_the_same_result_and_no_model_is_asked(floor: Floor) -> None:
    first = floor.take(*readings(1, 2, 3, 4))
    again = floor.take(*readings(1, 2, 3, 4))
    assert [message.payload for message in again.results] == [message.payload for message in first.results]
    assert (floor.asked, len(floor.windows())) == (1, 1)


@pytest.mark.parametrize("at_once", [1, 2, 3, 5])
def test_a_restart_between_any_two_commits_costs_no_window_and_doubles_none(floor: Floor, at_once: int) -> None:
    seqs = list(range(1, 15))
    for begin in range(0, len(seqs), at_once):
        floor.take(*readings(*seqs[: begin + at_once]))  # what was acknowledged before comes again as well
        floor.reopen()
    assert floor.windows() == expected(ENDS)


@pytest.mark.parametrize("refused", range(1, 8))
def test_a_commit_that_the_disk_refuses_costs_no_window_and_doubles_none(floor: Floor, refused: int) -> None:
    floor.take(*readings(*range(1, refused + 1)))
    batch = readings(*range(refused + 1, 15))
    large = reading(99, channel="belt")
    large.body = b"x" * 60_000
    with no_room(floor), pytest.raises(StorageFailed):
        floor.take(*batch, large)
    floor.take(*batch)
    assert floor.windows() == expected(ENDS)


@pytest.mark.parametrize("filler", ["reading", "frame", "other channel"])
@pytest.mark.parametrize("restarts", [False, True])
def test_what_came_ahead_of_a_hole_is_used_once_the_hole_is_filled(floor: Floor, filler: str, restarts: bool) -> None:
    floor.take(*readings(1, 2, 4, 5, 6, 7))
    assert floor.windows() == []
    if restarts:
        floor.reopen()
    fill = {"reading": readings(3)[0], "frame": frame(3, SURE), "other channel": readings(3, channel="room")[0]}
    done = floor.take(fill[filler])
    ends = [f"cam-1/belt/{EPOCH}-{end}" for end in ((4, 6) if filler == "reading" else (5, 7))]
    assert [subject for subject, _, _ in floor.windows()] == ends
    assert said(done)[-2:] == ends
    assert {message.topic for message in done.results if b'"samples"' in message.payload} == {
        "millrace/device/cam-1/result/belt"
    }
    assert floor.broken("gap") == 0


def test_who_fills_a_hole_again_hears_of_all_windows_on_their_own_channel(floor: Floor) -> None:
    floor.take(*readings(1, 2, 4, 5))
    first = floor.take(*readings(3, channel="room"))
    again = floor.take(*readings(3, channel="room"))
    assert [message.topic for message in again.results] == ["millrace/device/cam-1/result/belt"]
    assert [message.payload for message in again.results] == [message.payload for message in first.results]


def test_a_declared_loss_breaks_the_window_and_is_counted(floor: Floor) -> None:
    floor.take(*readings(1, 2, 3, 6, 7))
    lost = {"device": "cam-1", "epoch": EPOCH, "from": 4, "to": 5, "disposition": "lost", "reason": "page corrupt"}
    record = arrive("ledger", events.encode_json(event(events.LEDGER, 8, lost, None, "ledger", EPOCH)))
    floor.take(record, *readings(9, 10))
    assert floor.windows() == [(f"cam-1/belt/{EPOCH}-10", f"{EPOCH}-6", 6.0 + 7 + 9 + 10)]
    assert floor.broken("gap") == 1


def test_after_a_restart_a_window_still_does_not_span_a_loss(floor: Floor) -> None:
    floor.take(*readings(1, 2, 3))
    floor.take(reading(6, 6.0, base=6))
    floor.reopen()
    floor.take(*readings(7, 8))
    assert floor.windows() == []
    floor.take(*readings(9))
    assert floor.windows() == expected([9])


def test_after_a_restart_a_window_does_not_span_a_reading_whose_row_is_gone(floor: Floor) -> None:
    floor.take(*readings(1, 2, 3))
    with floor.store.outbox.transaction():
        assert floor.store.outbox.forget([2]) == 1
    floor.reopen()
    floor.take(*readings(4, 5, 6))
    assert floor.windows() == expected([6])


def test_the_frames_of_a_device_are_no_gap_in_its_readings_even_after_a_restart(floor: Floor) -> None:
    floor.take(*readings(1, 2), frame(3, SURE), *readings(4))
    floor.reopen()
    floor.take(frame(5, SURE), *readings(6))
    assert floor.windows() == [(f"cam-1/belt/{EPOCH}-6", f"{EPOCH}-1", 13.0)]


def test_bare_readings_make_windows_under_the_keys_that_the_gateway_gives(floor: Floor) -> None:
    for number in range(1, 7):
        floor.take(arrive("reading/belt", b'{"temperature_c": %d}' % number, "esp32-7"))
        floor.reopen()
    own = floor.store.outbox.epoch
    assert floor.windows() == [
        (f"esp32-7/belt/{own}-4", f"{own}-1", 10.0),
        (f"esp32-7/belt/{own}-6", f"{own}-3", 18.0),
    ]


def test_devices_without_keys_are_not_taken_for_each_other_though_they_share_an_epoch(floor: Floor) -> None:
    floor.take(arrive("reading/belt", b'{"temperature_c": 99}', "esp32-1"))
    floor.take(bare(device="esp32-7", channel="top"))  # its result stands behind the row of the other's first event
    for number in range(2, 6):
        floor.reopen()
        floor.take(arrive("reading/belt", b'{"temperature_c": %d}' % number, "esp32-7"))
    own = floor.store.outbox.epoch
    assert floor.windows() == [(f"esp32-7/belt/{own}-5", f"{own}-2", 14.0)]


def test_other_channels_and_devices_have_no_part_in_it(floor: Floor) -> None:
    floor.take(*readings(1, 2, 3, 4, 5, channel="room"))
    assert (floor.asked, floor.windows()) == (0, [])


def test_a_waveform_is_cut_into_windows_of_its_own(floor: Floor) -> None:
    def waveform(seq: int, samples: int, rate_hz: float = 100) -> Arrived:
        data = {"rate_hz": rate_hz, "unit": "g", "samples": [float(number) for number in range(samples)]}
        return arrive("waveform/belt", events.encode_json(event(events.WAVEFORM, seq, data, None, "belt", EPOCH)))

    batch = [waveform(1, 7), waveform(2, 3), waveform(3, 8, rate_hz=200)]
    assert floor.committer.weigh is not None
    assert [floor.committer.weigh(item) for item in (*batch, reading(4))] == [2.0, 0.0, 3.0, 0.5]
    done = floor.take(*batch)
    datas = [json.loads(message.payload)["data"] for message in done.results]
    assert [(data["offset"], data["value"], data["first"]) for data in datas] == [
        (0, 6.0, f"{EPOCH}-1"),
        (2, 14.0, f"{EPOCH}-1"),
    ]
    assert floor.broken("waveform") == 2
    again = floor.take(batch[0])
    assert [message.payload for message in again.results] == [message.payload for message in done.results]


def test_the_windows_of_a_batch_are_inferred_side_by_side(floor: Floor) -> None:
    floor.answers_at = 3  # who waited for one before he begins the next would wait for ever
    floor.take(*readings(*range(1, 9)))
    assert floor.windows() == expected([4, 6, 8])


@pytest.mark.parametrize(("channel", "commits"), [("belt", 3), ("room", 1)])
def test_a_commit_waits_for_no_more_windows_than_results_may_wait_for_each_other(
    tmp_path: Path, channel: str, commits: int
) -> None:
    floor = Floor(tmp_path / "state", BOUND | {"store": {"commit_rows": 2}})
    settled_by_a_writer(floor, *readings(*range(1, 13), channel=channel))
    assert floor.count("millrace_commits_total") == commits
    assert floor.windows() == (expected([4, 6, 8, 10, 12]) if channel == "belt" else [])
    floor.store.close()


def test_a_model_that_fails_costs_the_result_and_not_the_reading(floor: Floor) -> None:
    floor.fails = "inference failed: no number"
    done = floor.take(*readings(1, 2, 3, 4))
    assert [row.seq for row in floor.rows(Lane.BULK)] == [1, 2, 3, 4]
    assert floor.windows() == []
    (alarm,) = floor.said(events.ALARM)
    assert (alarm["alarm"], alarm["text"]) == (
        "window_failed",
        "a window of readings has no result: inference failed: no number",
    )
    assert done.receipts[("cam-1", EPOCH)]
    assert floor.broken("inference") == 1
    floor.fails = ""
    assert said(floor.take(*readings(5, 6))) == [f"cam-1/belt/{EPOCH}-6"]


def test_a_windows_result_speaks_for_no_reading(floor: Floor) -> None:
    floor.take(*readings(1, 2, 3, 4))
    (row,) = floor.rows(Lane.RESULT)
    assert list(spoken_for(row)) == [("gateway/g1", row.epoch, row.seq, row.seq)]
    floor.store.outbox.connection.execute("DELETE FROM entry WHERE lane = ?", (int(Lane.BULK),))
    with floor.store.outbox.transaction():
        assert ("cam-1", EPOCH) not in relearn(floor.store)


def test_a_window_larger_than_the_room_for_all_is_refused_at_the_start(floor: Floor) -> None:
    with pytest.raises(
        ConfigError, match=r"windows_bytes: a window of odd takes 1664 bytes, and all windows may take 1663"
    ):
        floor.models.check_room(1663)
    floor.models.check_room(1664)
