"""A request to the cloud ends by its deadline and leaves nothing behind, whatever sits at the other end of the wire."""

from __future__ import annotations

import contextlib
import itertools
import re
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from integration.brokers import free_port, wait_until

from cloud_sync.settings import CloudSettings
from cloud_sync.submit import Cloud, LinkDown, TooSlow, retry_after_s
from cloud_sync.wire import MAX_ANSWER_BYTES, Broken, Late, Wire

DRIP_EVERY_S = 0.4
"""2.5 bytes a second."""
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
Behaviour = Callable[[socket.socket], None]


class Server:
    """Treats each connection to its port as `behave` says, one after another, in one thread."""

    def __init__(self, behave: Behaviour) -> None:
        self._behave = behave
        self.served = 0
        self._present: socket.socket | None = None
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.served += 1
            self._present = sock
            with sock, contextlib.suppress(OSError):
                self._behave(sock)

    def close(self) -> None:
        for sock in (self._listener, self._present):
            with contextlib.suppress(OSError):
                if sock is not None:
                    sock.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(60)


@pytest.fixture
def serve() -> Iterator[Callable[[Behaviour], Server]]:
    """Return a function that starts a server with a behaviour."""
    servers: list[Server] = []

    def start(behave: Behaviour) -> Server:
        servers.append(Server(behave))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def settings(tmp_path: Path, port: int, **changed: float) -> CloudSettings:
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text("a token")
    return CloudSettings.model_validate({"url": f"http://127.0.0.1:{port}", "token_file": token} | changed)


def hear(sock: socket.socket) -> None:
    """Read a whole request."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    missing = (int(length[1]) if length else 0) - len(body)
    while missing > 0:
        missing -= len(sock.recv(65536))


def client_is_gone(sock: socket.socket) -> bool:
    """Say whether the client hung up, after a while if it did not."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(DRIP_EVERY_S * 1000))


def drip(sock: socket.socket, data: bytes) -> None:
    for byte in data:
        sock.sendall(bytes([byte]))
        if client_is_gone(sock):
            return


def drip_the_head(sock: socket.socket) -> None:
    hear(sock)
    drip(sock, HEAD)


def drip_the_body(sock: socket.socket) -> None:
    hear(sock)
    sock.sendall(HEAD)
    drip(sock, bytes(100))


def drip_continues(sock: socket.socket) -> None:
    hear(sock)
    drip(sock, b"HTTP/1.1 100 Continue\r\n\r\n" * 100)


def drip_chunks(sock: socket.socket) -> None:
    hear(sock)
    sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    drip(sock, b"1\r\nx\r\n" * 100)


def never_answer(sock: socket.socket) -> None:
    while sock.recv(65536):
        pass


def read_slowly(sock: socket.socket) -> None:
    while sock.recv(1) and not client_is_gone(sock):
        pass


SLOW = [drip_the_head, drip_the_body, drip_continues, drip_chunks, never_answer, read_slowly]


@pytest.mark.parametrize("behave", SLOW, ids=lambda behave: behave.__name__)
def test_a_request_is_given_up_at_its_deadline_however_little_and_however_long_something_comes(
    tmp_path: Path, serve: Callable[[Behaviour], Server], behave: Behaviour
) -> None:
    """Every byte comes well within the silence allowed; done at that rate these would take from a minute to months."""
    server = serve(behave)
    wire = Wire(settings(tmp_path, server.port, request_deadline_s=0.5, answer_timeout_s=60.0))
    with pytest.raises(Late, match=r"not done within the 0\.5 s"):
        wire.request("PUT", "/v1/blobs/x", bytes(8 << 20) if behave is read_slowly else b"x", {})
    wire.close()


def test_silence_is_given_up_before_the_deadline_and_named(
    tmp_path: Path, serve: Callable[[Behaviour], Server]
) -> None:
    wire = Wire(settings(tmp_path, serve(never_answer).port, request_deadline_s=60.0, answer_timeout_s=0.2))
    with pytest.raises(Late, match=r"the far side said nothing for 0\.2 s"):
        wire.request("GET", "/", b"", {})


def test_a_connection_that_nobody_takes_is_given_up(tmp_path: Path) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        wire = Wire(settings(tmp_path, full.getsockname()[1], connect_timeout_s=0.3))
        with pytest.raises(Late, match=r"no connection within 0\.3 s"):
            wire.request("GET", "/", b"", {})
        for sock in waiting:
            sock.close()


def test_tls_that_drips_its_handshake_is_given_up_too(tmp_path: Path, serve: Callable[[Behaviour], Server]) -> None:
    server = serve(lambda sock: drip(sock, b"\x16\x03\x03\x40\x00" + bytes(16000)))
    made = settings(tmp_path, server.port, request_deadline_s=0.5, answer_timeout_s=60.0)
    wire = Wire(made.model_copy(update={"url": f"https://127.0.0.1:{server.port}"}))
    with pytest.raises(Late, match=r"not done within the 0\.5 s"):
        wire.request("GET", "/", b"", {})


ANSWERED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def answer_and_keep(sock: socket.socket) -> None:
    while sock.recv(1, socket.MSG_PEEK):
        hear(sock)
        sock.sendall(ANSWERED)


def answer_and_hang_up(sock: socket.socket) -> None:
    hear(sock)
    sock.sendall(ANSWERED)


def test_a_connection_is_kept_and_one_that_ended_while_it_idled_costs_no_request(
    tmp_path: Path, serve: Callable[[Behaviour], Server]
) -> None:
    for behave, connections in ((answer_and_keep, 1), (answer_and_hang_up, 5)):
        server = serve(behave)
        wire = Wire(settings(tmp_path, server.port))
        for _ in range(5):
            assert wire.request("GET", "/", b"", {}).body == b"{}"
            if behave is answer_and_hang_up:
                wait_until(lambda wire=wire: _is_readable(wire), "the end of the connection is here")  # type: ignore[misc]
        assert server.served == connections
        wire.close()


def _is_readable(wire: Wire) -> bool:
    assert wire._socket is not None
    return wire._socket.recv(1, socket.MSG_PEEK) == b""


def test_the_kernel_is_told_to_find_out_about_a_peer_that_is_gone(
    tmp_path: Path, serve: Callable[[Behaviour], Server]
) -> None:
    wire = Wire(settings(tmp_path, serve(answer_and_keep).port, answer_timeout_s=20.0))
    wire.request("GET", "/", b"", {})
    sock = wire._socket
    assert sock is not None
    tcp = [socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT, socket.TCP_NODELAY]
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert [sock.getsockopt(socket.IPPROTO_TCP, option) for option in tcp] == [15, 5, 3, 20_000, 1]
    wire.close()


# --- what is left behind


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def reset_in_the_body(sock: socket.socket) -> None:
    hear(sock)
    sock.sendall(HEAD + b"half")
    reset(sock)


def hang_up(sock: socket.socket) -> None:
    hear(sock)


def cut_off(sock: socket.socket) -> None:
    hear(sock)
    sock.sendall(HEAD + b"half")


def speak_no_http(sock: socket.socket) -> None:
    hear(sock)
    sock.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")


def head_without_end(sock: socket.socket) -> None:
    hear(sock)
    sock.sendall(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200)


def large_portal(sock: socket.socket) -> None:
    hear(sock)
    length = MAX_ANSWER_BYTES + 100
    sock.sendall(f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\n\r\n".encode())
    sock.sendall(bytes(length))


def bad_chunks(sock: socket.socket) -> None:
    hear(sock)
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")


def negative_chunk(sock: socket.socket) -> None:
    hear(sock)
    sock.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc\r\n"
    )


FAILING = [
    reset,
    reset_in_the_body,
    hang_up,
    cut_off,
    speak_no_http,
    head_without_end,
    bad_chunks,
    negative_chunk,
    answer_and_hang_up,
]


def test_two_thousand_failed_requests_leave_no_descriptor_and_no_thread(
    tmp_path: Path, serve: Callable[[Behaviour], Server]
) -> None:
    turn = itertools.cycle(FAILING)

    def fail_in_turn(sock: socket.socket) -> None:
        next(turn)(sock)

    server = serve(fail_in_turn)
    cloud = Cloud(settings(tmp_path, server.port, answer_timeout_s=5.0))
    nobody = Cloud(settings(tmp_path, free_port()))
    before = _held()
    for number in range(2000):
        with pytest.raises(LinkDown):
            (nobody if number % 4 == 0 else cloud).submit([b"{}"], {})
    cloud.close()
    wait_until(lambda: _no_more_than(before), "what was opened is closed")
    assert server.served > 1000


def test_two_hundred_requests_that_miss_their_deadline_leave_nothing(
    tmp_path: Path, serve: Callable[[Behaviour], Server]
) -> None:
    cloud = Cloud(settings(tmp_path, serve(never_answer).port, request_deadline_s=0.005))
    before = _held()
    for _ in range(200):
        with pytest.raises(TooSlow):
            cloud.submit([b"{}"], {})
    wait_until(lambda: _no_more_than(before), "what was opened is closed")


def _held() -> tuple[int, int]:
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


def _no_more_than(before: tuple[int, int]) -> bool:
    return all(now <= then for now, then in zip(_held(), before, strict=True))


# --- what is said


@pytest.mark.parametrize(
    ("behave", "said"),
    [
        (reset_in_the_body, "ConnectionResetError"),
        (cut_off, "the answer was cut off: 96 bytes of its body did not come"),
        (hang_up, "RemoteDisconnected"),
        (speak_no_http, "BadStatusLine: SSH-2.0"),
        (bad_chunks, "the answer was cut off"),
        (negative_chunk, "what came is not HTTP"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_came_instead_of_an_answer_is_named(
    tmp_path: Path, serve: Callable[[Behaviour], Server], behave: Behaviour, said: str
) -> None:
    wire = Wire(settings(tmp_path, serve(behave).port))
    with pytest.raises(Broken, match=said):
        wire.request("GET", "/", b"", {})


def test_a_login_page_of_any_size_is_called_a_captive_portal(
    tmp_path: Path, serve: Callable[[Behaviour], Server]
) -> None:
    cloud = Cloud(settings(tmp_path, serve(large_portal).port))
    with pytest.raises(LinkDown, match=r"answered 200 with text/html: captive portal\?"):
        cloud.submit([], {})


@pytest.mark.parametrize(
    ("wish", "date", "seconds"),
    [
        ("7", "", 7),
        (" 120 ", "", 120),
        ("Wed, 21 Oct 2015 07:28:30 GMT", "Wed, 21 Oct 2015 07:28:00 GMT", 30),
        ("Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:30 GMT", 0),
        ("Wed, 21 Oct 2015 07:28:30 GMT", "", None),
        ("soon", "Wed, 21 Oct 2015 07:28:00 GMT", None),
        ("-5", "", None),
        ("\xb2", "", None),
        ("", "", None),
    ],
)
def test_the_pause_that_the_cloud_asks_for_is_read_in_seconds_or_as_a_date_by_its_own_clock(
    wish: str, date: str, seconds: float | None
) -> None:
    assert retry_after_s({"retry-after": wish, "date": date}) == seconds
