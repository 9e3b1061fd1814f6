"""A program's local socket: whoever may read its files gives it orders there, one JSON line each.

Only the same user can connect (mode 0600 in a folder of mode 0700). The program alone writes its files.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from millrace import jsontext

log = logging.getLogger(__name__)

MAX_LINE_BYTES = 1 << 20
ASK_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 30.0
_POLL_S = 0.2


class NobodyThere(Exception):
    """The program does not run on this folder, so nobody can carry the order out. Exit 69."""


class Refused(Exception):
    """The program understood the order and does not carry it out; it says why."""


class BadOrder(ValueError):
    """An order that means nothing here; nothing was done."""


@dataclass(frozen=True, slots=True)
class Program:
    """Who takes orders on a state_dir: what it is called, its socket there, and the service that starts it."""

    name: str
    socket: str
    service: str


GATEWAY = Program("gateway", "gateway.sock", "millrace-gateway")
SYNC_WORKER = Program("sync worker", "sync.sock", "millrace-sync")


class Orders(Protocol):
    """Carries orders out, each on stable storage before it is answered. One thread uses it."""

    program: Program
    refusals: tuple[type[Exception], ...]
    """What `obey` raises beside BadOrder when an order cannot be carried out; the caller is told in its words."""

    def obey(self, order: Mapping[str, object]) -> dict[str, object]:
        """Do what `order["do"]` says; return the answer."""
        ...

    def close(self) -> None:
        """Let go of what it holds, on the thread that used it."""
        ...


class Control:
    """Takes orders, one caller after the other; an actor."""

    def __init__(self, state_dir: Path, orders: Orders) -> None:
        """Listen; the caller holds the lock of the program's file, so a socket that lies there is a dead one's."""
        self._folder, self._orders, self._name = state_dir, orders, orders.program.socket
        self._refusals: tuple[type[Exception], ...] = (jsontext.BadJson, BadOrder, *orders.refusals)
        self._stop = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        os.fchmod(self._socket.fileno(), 0o600)  # before it has a name: nobody else ever gets in
        (state_dir / self._name).unlink(missing_ok=True)
        with _address(state_dir, self._name) as address:
            self._socket.bind(address)
        self._socket.listen(8)
        self._socket.settimeout(_POLL_S)

    def run(self) -> None:
        """Serve until interrupted; the socket's name goes with it."""
        try:
            while not self._stop.is_set():
                try:
                    caller, _ = self._socket.accept()
                except TimeoutError:
                    continue
                with caller:
                    self._serve(caller)
        finally:
            self._socket.close()
            (self._folder / self._name).unlink(missing_ok=True)
            self._orders.close()

    def interrupt(self) -> None:
        """End `run`."""
        self._stop.set()

    def _serve(self, caller: socket.socket) -> None:
        caller.settimeout(ASK_TIMEOUT_S)
        try:
            line = _read_line(caller)
            caller.sendall(jsontext.dump(self._answer(line)) + b"\n")
        except OSError as error:  # the caller went, or says nothing
            log.debug("caller_gone error=%s", error)

    def _answer(self, line: bytes) -> dict[str, object]:
        try:
            order = jsontext.parse(line, MAX_LINE_BYTES)
            if not isinstance(order, dict):
                raise BadOrder("an order is one JSON object")
            return self._orders.obey(order)
        except self._refusals as error:
            return {"error": str(error)}


def ask(
    state_dir: Path, program: Program, order: Mapping[str, object], timeout_s: float = ANSWER_TIMEOUT_S
) -> dict[str, Any]:
    """Have the program on this folder carry an order out; return its answer. Errors: NobodyThere, Refused."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout_s)
            with _address(state_dir, program.socket) as address:
                sock.connect(address)
            sock.sendall(jsontext.dump(dict(order)) + b"\n")
            answer = jsontext.parse(_read_line(sock), MAX_LINE_BYTES)
    except (OSError, jsontext.BadJson) as error:
        raise NobodyThere(
            f"no {program.name} answers on {state_dir}: {error};"
            f" start it (systemctl start {program.service}) and ask again"
        ) from None
    if not isinstance(answer, dict) or "error" in answer:
        raise Refused(str(answer.get("error")) if isinstance(answer, dict) else "no answer that can be read")
    return answer


def _read_line(sock: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n") and len(line) < MAX_LINE_BYTES and (more := sock.recv(65536)):
        line += more
    return line


@contextmanager
def _address(folder: Path, name: str) -> Iterator[str]:
    """Yield a short name of the socket: a Unix address has room for 107 characters, a folder's path may be longer."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)
