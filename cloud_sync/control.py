"""The sync worker's local socket: whoever may read its files gives it orders there, one JSON line each.

Only the same user can connect (mode 0600 in a folder of mode 0700). The worker alone writes its file.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cloud_sync.orders import BadOrder, NotRead, Orders
from millrace import jsontext
from millrace.blobs import StorageFailed

log = logging.getLogger(__name__)

SOCKET = "sync.sock"
MAX_LINE_BYTES = 1 << 20
ASK_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 30.0
_POLL_S = 0.2


class NoWorker(Exception):
    """No sync worker runs on this folder, so nobody can carry the order out. Exit 69."""


class Refused(Exception):
    """The worker understood the order and does not carry it out; it says why."""


class Control:
    """Takes orders, one caller after the other; an actor."""

    def __init__(self, state_dir: Path, orders: Orders) -> None:
        """Listen; the caller holds the lock of sync.db, so a socket that lies there is a dead worker's."""
        self._folder, self._orders = state_dir, orders
        self._stop = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        os.fchmod(self._socket.fileno(), 0o600)  # before it has a name: nobody else ever gets in
        (state_dir / SOCKET).unlink(missing_ok=True)
        with _address(state_dir) as address:
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
            (self._folder / SOCKET).unlink(missing_ok=True)
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
        except (jsontext.BadJson, BadOrder, NotRead, StorageFailed) as error:
            return {"error": str(error)}


def ask(state_dir: Path, order: Mapping[str, object]) -> dict[str, Any]:
    """Have the worker on this folder carry an order out; return its answer. Errors: NoWorker, Refused."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(ANSWER_TIMEOUT_S)
            with _address(state_dir) as address:
                sock.connect(address)
            sock.sendall(jsontext.dump(dict(order)) + b"\n")
            answer = jsontext.parse(_read_line(sock), MAX_LINE_BYTES)
    except (OSError, jsontext.BadJson) as error:
        raise NoWorker(
            f"no sync worker answers on {state_dir}: {error}; start it (systemctl start millrace-sync) and ask again"
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
def _address(folder: Path) -> Iterator[str]:
    """Yield a short name of the socket: a Unix address has room for 107 characters, a folder's path may be longer."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)
