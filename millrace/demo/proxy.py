"""A link that can be cut: a TCP proxy on loopback that passes, swallows in silence, or refuses."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Literal

State = Literal["pass", "black_hole", "refuse"]
CHUNK_BYTES = 65536
_LOOPBACK = "127.0.0.1"


class LinkProxy:
    """Listens on a free port and forwards to a target port; every change of state cuts what is under way."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._state: State = "pass"
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._silent: set[socket.socket] = set()
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]

    def set_state(self, state: State) -> None:
        """Change what the link does; connections that stand are cut, in silence for a black hole."""
        with self._lock:
            previous, self._state = self._state, state
            doomed = [] if state == "black_hole" else [*self._open, *self._silent]
            self._silent.difference_update(doomed)
        for sock in doomed:
            _shut(sock)
        if state == "refuse":
            _shut(self._listener)
        elif previous == "refuse":
            self._listener = self._listen(self.port)

    def close(self) -> None:
        """End the proxy and all connections."""
        self.set_state("refuse")

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server((_LOOPBACK, port))
        threading.Thread(target=self._accept, args=(listener,), daemon=True, name="link").start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True, name="link-connection").start()

    def _serve(self, near: socket.socket) -> None:
        far = None
        if self._state == "pass":
            try:
                far = socket.create_connection((_LOOPBACK, self._target_port), 5)
            except OSError:
                _shut(near)
                return
            back = threading.Thread(target=self._pump, args=(far, near), daemon=True, name="link-back")
            back.start()
        self._pump(near, far)

    def _pump(self, source: socket.socket, sink: socket.socket | None) -> None:
        """Carry bytes one way until an end closes; in a black hole they vanish."""
        with self._lock:
            self._open.add(source)
        try:
            while data := source.recv(CHUNK_BYTES):
                if sink is not None and self._state == "pass":
                    sink.sendall(data)
        except OSError:
            pass
        finally:
            ends = {source} if sink is None else {source, sink}
            with self._lock:
                self._open.discard(source)
                is_silent = self._state == "black_hole"
                if is_silent:  # nobody hears that an end has closed; held, for a socket that is forgotten closes
                    self._silent |= ends
            if not is_silent:
                for end in ends:
                    _shut(end)


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
