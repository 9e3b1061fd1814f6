"""The gateway's HTTP server by itself: what is no HTTP, what breaks, and how it ends while somebody asks."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import urllib3
from integration.brokers import free_port, wait_until
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from edge_gateway.settings import HttpSettings
from edge_gateway.web.connections import Guarded
from edge_gateway.web.server import Web

HEAD = b"POST /body HTTP/1.1\r\nHost: g\r\n"
REFUSAL = b'{"error":"Invalid HTTP request received."}'
NOT_FOUND = b'{"error":"Not Found"}'


@dataclass
class Served:
    """A server, and who is at work in it."""

    port: int = field(default_factory=free_port)
    begun: threading.Event = field(default_factory=threading.Event)
    may_end: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        routes = [
            Route("/body", self._body, methods=["POST"]),
            Route("/slow", self._slow),
            Route("/broken", self._broken),
        ]
        self.web = Web(HttpSettings(port=self.port), None, routes)
        self.thread = threading.Thread(target=self.web.run)

    async def _body(self, request: Request) -> Response:
        self.begun.set()
        return PlainTextResponse(str(len(await request.body())))

    async def _slow(self, _request: Request) -> Response:
        self.begun.set()
        await asyncio.to_thread(self.may_end.wait, 60)
        return PlainTextResponse("done")

    async def _broken(self, _request: Request) -> Response:
        raise ZeroDivisionError

    def connected(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 10)


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    served.thread.start()
    assert served.web.ready.wait(60)
    yield served
    served.may_end.set()
    served.web.interrupt()
    served.thread.join(60)
    assert not served.thread.is_alive()


def all_of(caller: socket.socket) -> bytes:
    """Return what comes until the far side ends."""
    found = b""
    try:
        while some := caller.recv(4096):
            found += some
    except ConnectionResetError:
        pass
    return found


def test_what_is_no_http_is_refused_in_json_and_fills_no_log(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
    with served.connected() as caller:
        caller.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        said = all_of(caller)
        assert said.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"content-type: application/json\r\n" in said
        assert said.endswith(REFUSAL)
    with served.connected() as caller:
        caller.sendall(chunked)
        assert served.begun.wait(60)
        caller.sendall(b"no length\r\n")
        assert REFUSAL in all_of(caller)
    with served.connected() as caller:  # the answer is there before the body is
        caller.sendall(chunked.replace(b"/body", b"/nowhere"))
        said = b""
        while not said.endswith(NOT_FOUND):  # head and body may come apart
            some = caller.recv(4096)
            assert some
            said += some
        assert said.startswith(b"HTTP/1.1 404 Not Found\r\n")
        caller.sendall(b"no length\r\n")
        assert all_of(caller) == b""
    with served.connected() as caller:
        caller.sendall(b"GET /nowhere HTTP/1.1\r\nHost: g\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        assert b"404 Not Found" in caller.recv(4096)
    assert [each.getMessage() for each in caplog.records if each.name.startswith(("uvicorn", "asyncio"))] == []


def test_nobody_is_sent_elsewhere_for_a_slash(served: Served) -> None:
    answer = urllib3.request("GET", f"http://127.0.0.1:{served.port}/slow/", redirect=False)
    assert (answer.status, answer.json()) == (404, {"error": "Not Found"})


def test_what_breaks_is_said_in_json_and_logged(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    answer = urllib3.request("GET", f"http://127.0.0.1:{served.port}/broken")
    assert (answer.status, answer.json()) == (500, {"error": "the gateway could not do this; its log says why"})
    wait_until(lambda: "ZeroDivisionError" in caplog.text, "it is logged")


def test_when_it_ends_an_answer_that_comes_soon_is_given(served: Served) -> None:
    with served.connected() as caller:
        caller.sendall(b"GET /slow HTTP/1.1\r\nHost: g\r\n\r\n")
        assert served.begun.wait(60)
        served.web.interrupt()
        wait_until(lambda: not accepts(served), "it takes no more")
        served.may_end.set()
        assert all_of(caller).endswith(b"done")


def test_when_it_ends_a_body_that_does_not_come_holds_it_up_no_longer_than_its_time(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Guarded, "end_s", 0.1)
    with served.connected() as caller:
        caller.sendall(HEAD + b"Content-Length: 10\r\n\r\n{")
        assert served.begun.wait(60)
        served.web.interrupt()
        served.thread.join(60)
        assert not served.thread.is_alive()
        assert all_of(caller) == b""


def accepts(served: Served) -> bool:
    try:
        served.connected().close()
    except ConnectionRefusedError:
        return False
    return True
