"""A closed loop of frames to the naive gateway, from a publisher as quick as ours."""

from __future__ import annotations

import queue
import socket
import time
from collections.abc import Sequence

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from bench.peers.probe import PROBE

TIMEOUT_S = 30.0


class NaiveClient:
    """One connection; used by one thread."""

    def __init__(self, port: int) -> None:
        self._results: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._number = 0
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_socket_open = lambda _c, _u, sock: sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._client.on_connect = lambda client, *_: client.subscribe("naive/result/+", 1)
        self._client.on_message = lambda _c, _u, message: self._results.put(message.topic)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def close(self) -> None:
        """End the connection."""
        self._client.disconnect()
        self._client.loop_stop()

    def is_answered(self) -> bool:
        """Whether a picture is answered."""
        self._publish(PROBE)
        try:
            self._results.get(timeout=1.0)
        except queue.Empty:
            return False
        while not self._results.empty():
            self._results.get()
        return True

    def run(self, pictures: Sequence[bytes], count: int, in_flight: int) -> float:
        """Return frames answered a second."""
        begun_s, sent, done = time.perf_counter(), 0, 0
        while done < count:
            while sent < count and sent - done < in_flight:
                self._publish(pictures[sent % len(pictures)])
                sent += 1
            self._results.get(timeout=TIMEOUT_S)
            done += 1
        return count / (time.perf_counter() - begun_s)

    def _publish(self, picture: bytes) -> None:
        self._number += 1
        self._client.publish(f"naive/frame/{self._number}", picture, qos=1)
