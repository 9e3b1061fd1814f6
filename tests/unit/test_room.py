"""What HTTP may use of the gateway at once: so much and no more, and all of it comes back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from edge_gateway.admission import Arrived, Outcome
from edge_gateway.engines.engine import Tensor
from edge_gateway.models import Models
from edge_gateway.settings import ModelSettings
from edge_gateway.web.room import Full, Room, Share
from edge_gateway.workers import Workers
from millrace import clock, events, topics
from millrace_models import bundle_path

PATIENCE_S = 60.0


def test_one_request_too_many_is_refused_and_a_place_that_is_left_is_free() -> None:
    room = Room(2, 100)
    with room.visit():
        with room.visit(), pytest.raises(Full, match="2 requests are served at once"), room.visit():
            pass
        with room.visit():
            assert room.requests == 2
    assert room.requests == 0


def test_bodies_are_held_up_to_their_bytes_and_let_go_with_the_request() -> None:
    room = Room(2, 100)
    with room.visit() as first:
        first.hold(60)
        with pytest.raises(Full, match="100 bytes at once"), room.visit() as second:
            second.hold(41)
        assert room.held_bytes == 60
        with room.visit() as second:
            second.hold(40)
    assert (room.requests, room.held_bytes) == (0, 0)


class Gated(Models):
    """Models that remember what was inferred in which order, and begin only when they may."""

    order: list[str]
    may: threading.Event

    def infer_raw(self, place: int, name: str, given: Tensor | bytes) -> tuple[Tensor, ...]:
        assert self.may.wait(PATIENCE_S)
        self.order.append("http")
        return super().infer_raw(place, name, given)

    def infer(self, picture: bytes, places: Sequence[int], digest: str | None = None) -> Outcome:
        self.order.append("frame")
        return super().infer(picture, places, digest)


def frame(models: Models) -> Arrived:
    topic = topics.parse("millrace", "millrace/device/cam-1/frame/top")
    return Arrived(topic, None, events.FRAME, "", clock.Instant(0, "", 0), b"no picture")


async def flood(share: Share, workers: Workers, models: Gated) -> None:
    """Ask many times at once; a frame comes when HTTP has all the places that it gets."""
    tensor = np.zeros(models.describe()[0].input.shape, np.uint8)
    until_s = asyncio.get_running_loop().time() + PATIENCE_S
    asked = [asyncio.create_task(share.begin(partial(workers.ask, 0, "parts@1", tensor), until_s)) for _ in range(20)]
    for task in asked[:2]:
        await task
    arrived = frame(models)
    workers.start(arrived)
    models.may.set()
    assert arrived.outcome is not None
    await asyncio.wrap_future(arrived.outcome)
    await asyncio.gather(*map(asyncio.wrap_future, await asyncio.gather(*asked)))


def test_a_frame_waits_behind_no_more_inferences_for_http_than_there_are_places() -> None:
    models = Gated([ModelSettings(bundle=bundle_path("parts"))], 1_000_000)
    models.order, models.may = [], threading.Event()
    workers = Workers(models, 1)
    asyncio.run(flood(Share(2), workers, models))
    workers.close()
    assert models.order == ["http", "http", "frame", *["http"] * 18]


def test_a_place_is_taken_until_the_work_is_done_though_nobody_waits_for_it() -> None:
    async def story() -> None:
        share, work = Share(1), Future[int]()
        loop = asyncio.get_running_loop()
        assert await share.begin(lambda: work, loop.time() + PATIENCE_S) is work
        with pytest.raises(Full, match="stayed taken"):
            await share.begin(Future[int], loop.time() + 0.01)
        work.set_result(1)
        assert not (await share.begin(Future[int], loop.time() + PATIENCE_S)).done()

    asyncio.run(story())


def test_a_caller_who_hangs_up_while_it_begins_leaves_the_place_taken_until_it_is_done() -> None:
    async def story() -> None:
        share, work, may = Share(1), Future[int](), threading.Event()
        loop = asyncio.get_running_loop()
        begun = threading.Event()

        def start() -> Future[int]:
            begun.set()
            assert may.wait(PATIENCE_S)
            return work

        asked = asyncio.create_task(share.begin(start, loop.time() + PATIENCE_S))
        assert await asyncio.to_thread(begun.wait, PATIENCE_S)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        may.set()
        with pytest.raises(Full):
            await share.begin(Future[int], loop.time() + 0.05)
        work.set_result(1)
        assert not (await share.begin(Future[int], loop.time() + PATIENCE_S)).done()

    asyncio.run(story())


def test_a_caller_who_hangs_up_before_a_thread_was_free_takes_no_place_with_him() -> None:
    async def story() -> None:
        loop, may = asyncio.get_running_loop(), threading.Event()
        loop.set_default_executor(ThreadPoolExecutor(1))
        busy = asyncio.create_task(asyncio.to_thread(may.wait, PATIENCE_S))
        share, work = Share(1), Future[int]()
        asked = asyncio.create_task(share.begin(lambda: work, loop.time() + PATIENCE_S))
        for _ in range(10):  # until it waits for the thread
            await asyncio.sleep(0)
        asked.cancel()
        may.set()
        assert await busy
        work.set_result(1)
        assert not (await share.begin(Future[int], loop.time() + 10)).done()

    asyncio.run(story())


def test_work_that_cannot_begin_keeps_no_place() -> None:
    async def story() -> None:
        share, loop = Share(1), asyncio.get_running_loop()
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await share.begin(lambda: 1 // 0, loop.time() + PATIENCE_S)  # type: ignore[arg-type,return-value]

    asyncio.run(story())


def test_work_that_ends_after_the_server_did_ends_quietly() -> None:
    work = Future[int]()

    async def story() -> None:
        await Share(1).begin(lambda: work, asyncio.get_running_loop().time() + PATIENCE_S)

    asyncio.run(story())
    work.set_result(1)
    assert work.done()
