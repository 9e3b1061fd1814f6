"""How much of the gateway HTTP may use at once: requests, bytes of bodies, and inferences in the pipeline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import TypeVar

T = TypeVar("T")


class Full(Exception):
    """There is no room now; the same request may be good in a moment."""


class Visit:
    """One request's part of the room."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.held_bytes = 0

    def hold(self, count: int) -> None:
        """Hold so many bytes more. Errors: Full, if others hold what is missing."""
        self._room.held_bytes += count
        self.held_bytes += count
        if self._room.held_bytes > self._room.max_bytes:
            raise Full(f"the bodies of requests have {self._room.max_bytes} bytes at once (http.max_bodies_bytes)")


class Room:
    """Counts requests and the bytes of their bodies; used by the server's thread alone."""

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self.max_requests, self.max_bytes = max_requests, max_bytes
        self.requests = self.held_bytes = 0

    @contextmanager
    def visit(self) -> Iterator[Visit]:
        """Be one request more, until the block ends. Errors: Full."""
        if self.requests >= self.max_requests:
            raise Full(f"{self.max_requests} requests are served at once (http.max_requests)")
        self.requests += 1
        visit = Visit(self)
        try:
            yield visit
        finally:
            self.requests -= 1
            self.held_bytes -= visit.held_bytes


class Share:
    """HTTP's part of the pipeline: so many inferences at once. The others wait here and hold up no frame."""

    def __init__(self, places: int) -> None:
        self._free = asyncio.Semaphore(places)

    async def begin(self, start: Callable[[], Future[T]], until_s: float) -> Future[T]:
        """Call `start` on a thread once there is a place; it is free again when the future is done.

        So it is, too, if nobody waits for the future any more. Errors: Full if none was free until that time of the
        loop, and what `start` raises.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(until_s):
                await self._free.acquire()
        except TimeoutError:
            raise Full("all places for HTTP in the pipeline stayed taken (http.max_inferences)") from None

        def start_and_hold() -> Future[T]:
            try:
                begun = start()
            except BaseException:
                self._give_back(loop)
                raise
            begun.add_done_callback(lambda _: self._give_back(loop))
            return begun

        return await asyncio.shield(asyncio.to_thread(start_and_hold))  # who hangs up meanwhile stops it no more

    def _give_back(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(RuntimeError):  # the server has ended meanwhile
            loop.call_soon_threadsafe(self._free.release)
