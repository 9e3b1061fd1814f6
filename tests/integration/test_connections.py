"""The gateway's page against clients that ask nothing, drip a head or read no answer: they go, others are served."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import uvicorn
from integration.brokers import wait_until
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from edge_gateway.web.connections import Guarded
from millrace.listening import listen

HEAD = b"GET /short HTTP/1.1\r\nHost: x\r\n"
LARGE = "x" * (16 << 20)


class Quick(Guarded):
    """The same in less time."""

    most, head_s = 8, 0.5


async def short(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


async def long(_request: Request) -> PlainTextResponse:
    await asyncio.sleep(3 * Quick.head_s)
    return PlainTextResponse("done")


async def large(_request: Request) -> PlainTextResponse:
    return PlainTextResponse(LARGE)


@pytest.fixture
def server() -> Iterator[uvicorn.Server]:
    routes = [Route("/short", short), Route("/long", long), Route("/large", large)]
    config = uvicorn.Config(
        Starlette(routes=routes), http=Quick, lifespan="off", ws="none", log_config=None, timeout_keep_alive=1
    )
    with listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(config)
        config.port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield server
        server.should_exit = True
        thread.join()


def connected(server: uvicorn.Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.config.port), 10)


def answer(server: uvicorn.Server, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", server.config.port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def is_over(client: socket.socket, patience_s: float) -> bool:
    """Whether the far side has ended the connection, or does so in time."""
    client.settimeout(patience_s)
    try:
        return client.recv(4096) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


@pytest.mark.parametrize("before", [b"", HEAD + b"\r\n"])
def test_a_head_that_drips_is_waited_for_no_longer_than_its_time(server: uvicorn.Server, before: bytes) -> None:
    with connected(server) as client:
        if before:
            client.sendall(before)
            assert b"200 OK" in client.recv(4096)
        client.sendall(HEAD + b"X-Drip: ")
        for _ in range(200):
            if is_over(client, 0.05):
                break
            client.send(b"x")
        else:
            pytest.fail("it drips on after 10 s")
    assert answer(server, "/short") == b"ok"


def test_who_asks_is_served_while_hundreds_are_connected_and_say_nothing(server: uvicorn.Server) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(connected(server)) for _ in range(300)]
        assert answer(server, "/short") == b"ok"
        assert len(server.server_state.connections) <= Quick.most
        assert all(is_over(client, 5) for client in silent)


def test_a_request_that_takes_its_time_is_not_cut(server: uvicorn.Server) -> None:
    with ExitStack() as stack:
        working = stack.enter_context(connected(server))
        working.sendall(HEAD.replace(b"short", b"long") + b"\r\n")
        wait_until(lambda: bool(server.server_state.tasks), "the work has begun")
        for _ in range(20):
            stack.enter_context(connected(server))
        assert b"200 OK" in working.recv(4096)


def test_who_asks_on_and_on_and_reads_no_answer_does_not_keep_its_place(server: uvicorn.Server) -> None:
    asked = HEAD.replace(b"short", b"large") + b"\r\n"
    with ExitStack() as stack:
        for _ in range(Quick.most):
            stack.enter_context(connected(server)).sendall(4 * asked)
        wait_until(lambda: server.server_state.total_requests >= Quick.most, "all are answered once")
        wait_until(lambda: not server.server_state.connections, "the connections are cut")
        assert answer(server, "/short") == b"ok"


def test_who_does_not_read_the_answer_does_not_keep_its_place(server: uvicorn.Server) -> None:
    with connected(server) as client:
        client.sendall(HEAD.replace(b"short", b"large") + b"\r\n")
        wait_until(lambda: server.server_state.total_requests == 1, "the answer is given")
        wait_until(lambda: not server.server_state.connections, "the connection is cut")
