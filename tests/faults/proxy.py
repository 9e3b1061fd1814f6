"""A TCP link on loopback that does what links do: late, slow, cut, reset, half open, a black hole, or twice the same.

One thread and one event loop carry everything, so that threads and descriptors of whoever is tested can be counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

CHUNK_BYTES = 65536
DRIP_BYTES_PER_S = 2.5
_RST = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Weather:
    """What the link does from now on, to connections that stand and to new ones.

    `delay_ms` is added to each piece, `throttle_bytes_per_s` bounds both ways, `drip` lets answers through at 2.5 B/s.
    In a `black_hole` bytes vanish; with `refuse` nobody is let in. With `duplicate` all that a connection sent is sent
    again on a connection of its own, once it has ended.
    """

    delay_ms: float = 0.0
    throttle_bytes_per_s: float | None = None
    drip: bool = False
    black_hole: bool = False
    refuse: bool = False
    duplicate: bool = False


FAIR = Weather()


class _Pair:
    """One connection through the link."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near, self.far = near, far
        self.is_dead = False
        """The far side is gone without a word: bytes vanish, also in fair weather."""


class FaultProxy:
    """Listens on a free port and forwards to a target port; every method may be called from any thread."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.weather = FAIR
        self.duplicated = 0
        self._pairs: set[_Pair] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="fault-proxy")
        self._thread.start()
        server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self._server: asyncio.Server = server
        self.port: int = server.sockets[0].getsockname()[1]

    def set(self, weather: Weather) -> None:
        """Change the weather."""
        self.weather = weather

    def cut(self) -> None:
        """End all connections, politely (FIN)."""
        self._on_loop(lambda: [_close(end) for pair in self._pairs for end in (pair.near, pair.far)])

    def reset(self) -> None:
        """End all connections at once (RST)."""
        self._on_loop(lambda: [_reset(end) for pair in self._pairs for end in (pair.near, pair.far)])

    def half_open(self) -> None:
        """Let the far side of all connections vanish without a word; new ones work."""

        def vanish() -> None:
            for pair in self._pairs:
                pair.is_dead = True
                _close(pair.far)

        self._on_loop(vanish)

    def connections(self) -> int:
        """Return how many connections stand."""
        return len(self._pairs)

    def close(self) -> None:
        """End the proxy and all connections."""
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _on_loop(self, work: Callable[[], Any]) -> None:
        async def done() -> None:
            work()

        self._call(done())

    async def _serve(self, near_in: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        if self.weather.refuse:
            _reset(near)
            return
        try:
            far_in, far = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            _reset(near)
            return
        pair, sent = _Pair(near, far), bytearray()
        self._pairs.add(pair)
        up = asyncio.create_task(self._carry(pair, near_in, far, sent))
        down = asyncio.create_task(self._carry(pair, far_in, near, None))
        try:
            await up
            if not pair.is_dead:
                await asyncio.wait([down], timeout=0.2)
        finally:
            for task in (up, down):
                task.cancel()
            self._pairs.discard(pair)
            _close(near)
            _close(far)
        if self.weather.duplicate and sent:
            await self._send_again(bytes(sent))

    async def _carry(
        self, pair: _Pair, source: asyncio.StreamReader, sink: asyncio.StreamWriter, sent: bytearray | None
    ) -> None:
        """Carry bytes one way until an end closes."""
        with contextlib.suppress(OSError):
            while data := await source.read(CHUNK_BYTES):
                if sent is not None:
                    sent += data
                await self._pass(pair, data, sink, answers=sent is None)
            if not pair.is_dead:
                _close(sink)

    async def _pass(self, pair: _Pair, data: bytes, sink: asyncio.StreamWriter, *, answers: bool) -> None:
        while data:
            weather = self.weather
            if weather.black_hole or pair.is_dead:
                return
            rate = DRIP_BYTES_PER_S if weather.drip and answers else weather.throttle_bytes_per_s
            piece = data if rate is None else data[: max(1, int(rate / 20))]
            await asyncio.sleep(weather.delay_ms / 1000 + (0 if rate is None else len(piece) / rate))
            sink.write(piece)
            await sink.drain()
            data = data[len(piece) :]

    async def _send_again(self, sent: bytes) -> None:
        """Send all bytes of an ended connection once more, and hear the answers to the end."""
        with contextlib.suppress(OSError, TimeoutError):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.target_port)
            try:
                writer.write(sent)
                self.duplicated += 1
                async with asyncio.timeout(0.5):
                    while await reader.read(CHUNK_BYTES):
                        pass
            finally:
                _close(writer)


def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
    writer.transport.abort()
