"""One kept HTTP connection on which every request ends by its deadline, whatever the far side does or leaves undone.

A timeout of each read does not bound a request: a peer that sends one byte now and then keeps it for ever. So each
call on the socket gets what is left of the request's own time, and no thread is needed to cut it. Only the look-up of
the host's name is left to the bounds of the system's resolver.
"""

from __future__ import annotations

import http.client
import io
import select
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from cloud_sync.settings import CloudSettings
from millrace import certificates

MAX_ANSWER_BYTES = 4 << 20
_KEEPALIVE_IDLE_S, _KEEPALIVE_EVERY_S, _KEEPALIVE_PROBES = 15, 5, 3


class Broken(Exception):
    """No whole answer came: nothing was there, the connection ended, or what came is not HTTP."""


class Late(Broken):
    """The request was given up because of its time: the link is slow, silent or a black hole."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; header names in lower case, the body cut at MAX_ANSWER_BYTES."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Wire:
    """The connection to one address, made when it is needed; used by one thread."""

    def __init__(self, settings: CloudSettings) -> None:
        self._settings = settings
        parts = urlsplit(settings.url)
        self._host, self._path = parts.hostname or "", parts.path
        self._netloc = parts.netloc
        self._is_tls = parts.scheme == "https"
        self._port = parts.port or (443 if self._is_tls else 80)
        self._socket: socket.socket | None = None

    def close(self) -> None:
        """End the connection; the next request makes a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def request(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Send a request and return its whole answer. Errors: Broken, Late."""
        end_s = time.monotonic() + self._settings.request_deadline_s
        keep = False
        try:
            stream = _Stream(self._connected(end_s), self._settings.answer_timeout_s, end_s)
            http_ = http.client.HTTPConnection(self._netloc)
            http_.sock = cast(Any, stream)
            http_.request(method, self._path + path, body, dict(headers))
            reply, keep = _read(http_)
            return reply
        except TimeoutError as error:
            raise Late(self._why_late(str(error), end_s)) from None
        except http.client.IncompleteRead as error:
            raise Broken(f"the answer was cut off after {len(error.partial)} bytes of its body") from None
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            certificate = certificates.why_refused(
                error, self._host, self._port, self._settings.ca_file, self._settings.connect_timeout_s
            )
            raise Broken(certificate or f"{type(error).__name__}: {error}") from None
        finally:
            if not keep:
                self.close()

    def _why_late(self, why: str, end_s: float) -> str:
        if time.monotonic() < end_s - 0.01:
            return why
        return f"not done within the {self._settings.request_deadline_s:g} s of a request: a slow link, or a drip"

    def _connected(self, end_s: float) -> socket.socket:
        if self._socket is not None and _is_over(self._socket):
            self.close()
        if self._socket is None:
            self._socket = self._connect(end_s)
        return self._socket

    def _connect(self, end_s: float) -> socket.socket:
        """Try each address of the host in turn; the connecting and the TLS handshake are within the request's time."""
        error: OSError = OSError(f"{self._host} has no address")
        tls = ssl.create_default_context(cafile=self._settings.ca_file) if self._is_tls else None
        for family, kind, protocol, _, address in socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM):
            sock = socket.socket(family, kind, protocol)
            try:
                self._set_options(sock)
                sock.settimeout(_left_s(self._settings.connect_timeout_s, end_s))
                sock.connect(address)
                return sock if tls is None else tls.wrap_socket(sock, server_hostname=self._host)
            except TimeoutError:
                sock.close()
                error = TimeoutError(f"no connection within {self._settings.connect_timeout_s:g} s")
            except OSError as failed:
                sock.close()
                error = failed
        raise error

    def _set_options(self, sock: socket.socket) -> None:
        """Have the kernel find out that the peer is gone without a word, on a connection that idles or sends."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_EVERY_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._settings.answer_timeout_s * 1000))


class _Stream(io.RawIOBase):
    """What http.client needs of a socket, each call bounded by the silence allowed and by the request's end.

    It does not own the socket: closing it does nothing.
    """

    def __init__(self, sock: socket.socket, silence_s: float, end_s: float) -> None:
        self._sock, self._silence_s, self._end_s = sock, silence_s, end_s

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return a reader of the answer."""
        assert mode == "rb"
        return io.BufferedReader(self)

    def sendall(self, data: bytes) -> None:
        """Send everything, or raise TimeoutError."""
        view = memoryview(data)
        while view:
            with self._bounds("took nothing"):
                view = view[self._sock.send(view) :]

    def readable(self) -> bool:
        """Say that it is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what is there, or wait for it."""
        with self._bounds("said nothing"):
            return self._sock.recv_into(buffer)

    def close(self) -> None:
        """Leave the socket as it is."""

    @contextmanager
    def _bounds(self, deed: str) -> Iterator[None]:
        try:
            self._sock.settimeout(_left_s(self._silence_s, self._end_s))
            yield
        except TimeoutError:
            raise TimeoutError(f"the far side {deed} for {self._silence_s:g} s") from None


def _read(connection: http.client.HTTPConnection) -> tuple[Reply, bool]:
    """Return the answer, and whether the connection may be kept. Errors: Broken, OSError, HTTPException."""
    try:
        with connection.getresponse() as response:
            data = response.read(MAX_ANSWER_BYTES)
            if response.length and len(data) < MAX_ANSWER_BYTES:
                raise Broken(f"the answer was cut off: {response.length} bytes of its body did not come")
    except ValueError as error:  # such as of a chunk whose size is negative
        raise Broken(f"what came is not HTTP: {error}") from None
    names = {name.lower(): value for name, value in response.headers.items()}
    keep = not response.will_close and not response.length and len(data) < MAX_ANSWER_BYTES
    return Reply(response.status, names, data), keep


def _left_s(most_s: float, end_s: float) -> float:
    left_s = end_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("the request's time is over")
    return min(most_s, left_s)


def _is_over(sock: socket.socket) -> bool:
    """Say whether a kept connection ended while it idled: nothing may be there to read between two requests."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
