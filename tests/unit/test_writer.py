"""The writer commits what is ready, of each device in order, and its beat tells a slow inference from a hung one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from integration.brokers import wait_until
from unit.test_commit import PICTURES, SURE, Floor, Gateway, answered, arrive, frame, reading

from edge_gateway.admission import Arrived, Outcome
from edge_gateway.line import Item, Line
from edge_gateway.writer import HANGS_S, Writer

PATIENCE_S = 60


class Running:
    """A writer over a line and a real store, and in which order it acknowledged."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway, self.line, self.floor = gateway, Line(32), Floor(gateway.loaded)
        self.acked: list[str] = []
        self.writer = Writer(
            gateway.loaded, self.line, gateway.store, gateway.committer, self.floor, gateway.metrics, gateway.clock
        )
        self._thread = threading.Thread(target=self.writer.run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.writer.interrupt()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def offer(self, **named: Arrived) -> None:
        for name, arrived in named.items():
            assert self.line.offer([Item(arrived, partial(self.acked.append, name))], 1.0)

    def heard(self, *names: str) -> None:
        """Wait until these, in this order, are acknowledged."""
        wait_until(lambda: len(self.acked) >= len(names), f"{names} are acknowledged, not {self.acked}", PATIENCE_S)
        assert self.acked == [*names]

    def receipts(self, device: str) -> list[Any]:
        told = [payload for topic, payload, _ in self.floor.said if topic == f"millrace/device/{device}/receipt"]
        return [json.loads(payload)["ranges"] for payload in told]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    gateway = Gateway(tmp_path / "state")
    made = Running(gateway)
    made.start()
    yield made
    made.stop()
    gateway.store.close()


def slow(seq: int) -> tuple[Arrived, Callable[[], None]]:
    """Return a frame of cam-1 that is being inferred, and what ends that."""
    made = frame(seq, SURE)
    assert made.outcome is not None
    outcome, made.outcome = made.outcome.result(), Future[Outcome]()
    promised = made.outcome
    return made, lambda: promised.set_result(outcome)


def other() -> Arrived:
    return arrive("reading/belt", b'{"temperature_c": 41.2}', "esp32-7")


def test_a_slow_frame_holds_up_no_other_device_and_its_own_stays_in_order(running: Running) -> None:
    heavy, finish = slow(1)
    running.offer(heavy=heavy, behind=reading(2), other=other())
    running.heard("other")
    running.offer(last=reading(3), another=other())
    running.heard("other", "another")
    assert (running.receipts("cam-1"), running.gateway.store.epochs_of("cam-1")) == ([], [])
    finish()
    running.heard("other", "another", "heavy", "behind", "last")
    assert running.receipts("cam-1")[-1] == [[1, 3]]
    assert [row.seq for row in running.gateway.rows() if row.epoch == "k3v9x0pa"] == [2, 3]


def test_what_is_waited_for_when_the_writer_ends_is_not_committed_and_not_acknowledged(running: Running) -> None:
    heavy, finish = slow(1)
    running.offer(heavy=heavy, behind=reading(2), other=other())
    running.heard("other")
    running.stop()
    finish()
    assert running.acked == ["other"]
    running.gateway.reopen()
    assert running.gateway.store.epochs_of("cam-1") == []
    again = running.gateway.take(frame(1, SURE), reading(2))
    assert [json.loads(told.payload)["ranges"] for told in again.receipts.values()] == [[[1, 2]]]
    assert len(again.results) == 1


def test_frames_of_many_devices_that_are_ready_share_a_commit(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "state")
    running = Running(gateway)
    pictures = enumerate(PICTURES[:6], 2)
    light = {f"f{number}": answered(arrive("frame/top", each, f"cam-{number}"), SURE) for number, each in pictures}
    heavy, _ = slow(1)
    running.offer(heavy=heavy, **light)
    running.start()
    running.heard(*light)
    running.stop()
    assert gateway.count("millrace_commits_total") == 1
    gateway.store.close()


def test_slow_inferences_one_after_another_are_life_and_one_that_never_ends_is_not(running: Running) -> None:
    clock, beat = running.gateway.clock, running.writer.beat
    frames = [slow(seq) for seq in range(1, 6)]
    for number, (heavy, _) in enumerate(frames):
        running.offer(**{f"f{number}": heavy})
    for number, (_, finish) in enumerate(frames[:-1], 1):
        clock.seconds += HANGS_S / 2
        wait_until(lambda: beat.silent_s() == 0, "the writer shows life", PATIENCE_S)
        finish()
        running.heard(*(f"f{each}" for each in range(number)))
    running.offer(before=other())
    running.heard("f0", "f1", "f2", "f3", "before")
    clock.seconds += HANGS_S
    for number in range(2):  # the second one is of a pass that began after that time
        running.offer(**{f"other_{number}": other()})
        running.heard("f0", "f1", "f2", "f3", "before", *(f"other_{each}" for each in range(number + 1)))
    assert beat.silent_s() >= HANGS_S
    frames[-1][1]()
    wait_until(lambda: beat.silent_s() == 0, "the writer shows life again", PATIENCE_S)
