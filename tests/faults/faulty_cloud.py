"""The real reference cloud behind answers that are not its own: each request gets what a script says, or passes.

It speaks just enough HTTP to know where a request ends. One thread and one event loop carry everything.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Callable

from faults.proxy import _close, _reset

JSON = "application/json"


def _answer(status: int, content_type: str, body: bytes, *more: str) -> bytes:
    head = [f"HTTP/1.1 {status} X", f"Content-Type: {content_type}", f"Content-Length: {len(body)}", *more]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


CANNED = {
    "500": _answer(500, "text/plain", b"oops"),
    "503": _answer(503, JSON, b'{"error": "later"}', "Retry-After: 0"),
    "429": _answer(429, JSON, b'{"error": "slowly"}', "Retry-After: 1"),
    "429 until a date": _answer(
        429,
        JSON,
        b"{}",
        "Date: Wed, 21 Oct 2015 07:28:00 GMT",
        "Retry-After: Wed, 21 Oct 2015 07:28:01 GMT",
    ),
    "408": _answer(408, JSON, b'{"error": "no byte of the body came"}', "Connection: close"),
    "401": _answer(401, JSON, b'{"error": "unknown token"}'),
    "404": _answer(404, "text/html", b"<html>not here</html>"),
    "redirect": _answer(302, "text/html", b"", "Location: http://login.example/"),
    "captive portal": _answer(200, "text/html", b"<html>Welcome, please log in</html>"),
    "other json": _answer(200, JSON, b'{"login": "please"}'),
    "no http": b"\x15\x03\x01\x00\x02\x02\x16",
}
ACTS = (*CANNED, "wrong batch", "truncated json", "cut off", "reset before", "reset after", "lost", "silence", "drip")
PASS = "pass"


class FaultyCloud:
    """Listens on a free port in front of a cloud; `choose` names what becomes of the next request."""

    def __init__(self, cloud_port: int, choose: Callable[[], str]) -> None:
        self._cloud_port, self._choose = cloud_port, choose
        self.acted: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="faulty-cloud")
        self._thread.start()
        starting = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop)
        self._server = starting.result(10)
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def requests(self) -> int:
        """How many requests came."""
        return self.acted.total()

    def close(self) -> None:
        """End it and all connections."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await _message(reader):
                act = self._choose()
                self.acted[act] += 1
                if not await self._act(act, request, reader, writer):
                    break
        except (OSError, asyncio.IncompleteReadError):
            pass  # the other side has had enough
        finally:
            _close(writer)

    async def _act(self, act: str, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection goes on."""
        if act in CANNED:
            writer.write(CANNED[act])
            await writer.drain()
            return act not in ("408", "no http")
        if act == "reset before":
            _reset(writer)
            return False
        answer = await self._ask_the_cloud(request)
        if act == "wrong batch":
            answer = re.sub(rb'"(batch|sha256)":"[0-9a-f]{8}', rb'"\1":"00000000', answer)
        elif act == "truncated json":
            body = answer.partition(b"\r\n\r\n")[2]
            answer = _answer(200, JSON, body[: len(body) // 2])
        elif act == "cut off":
            answer = answer[:-5]
        elif act == "reset after":
            _reset(writer)
            return False
        elif act == "silence":
            await reader.read(1)
            return False
        elif act == "drip":
            for byte in answer:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.1)
        if act not in ("lost", "drip"):
            writer.write(answer)
            await writer.drain()
        return act in (PASS, "wrong batch", "truncated json")

    async def _ask_the_cloud(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._cloud_port)
        try:
            writer.write(request)
            return await _message(reader)
        finally:
            _close(writer)


async def _message(reader: asyncio.StreamReader) -> bytes:
    """Return a whole request or answer with its body; nothing at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    return head + (await reader.readexactly(int(length[1])) if length else b"")
