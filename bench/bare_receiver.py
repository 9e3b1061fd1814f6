"""The least that a durable receiver in Python can do: paho, the standard library's JSON, SQLite in groups, and no more.

bare_receiver PORT TOPIC DATABASE: each message is parsed, gathered, committed with synchronous = FULL, acknowledged.
"""

from __future__ import annotations

import json
import socket
import sqlite3
import sys

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

GROUP = 500  # less than the broker leaves unacknowledged
POLL_S = 0.002


class Receiver:
    """A paho client and a database in one thread."""

    def __init__(self, port: int, topic: str, database: str) -> None:
        self._rows: list[tuple[str, bytes]] = []
        self._mids: list[int] = []
        self._database = sqlite3.connect(database, isolation_level=None)
        for pragma in ("journal_mode = WAL", "synchronous = FULL"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.execute("CREATE TABLE reading (position INTEGER PRIMARY KEY, id TEXT, body BLOB)")
        self._topic = topic
        self._client = paho.Client(CallbackAPIVersion.VERSION2, "bench-bare", manual_ack=True)
        self._client.on_message = self._on_message
        self._client.on_connect = lambda *_: self._client.subscribe(self._topic, 1)
        self._client.on_subscribe = lambda *_: print("ready", flush=True)
        self._client.on_socket_open = lambda _c, _u, sock: sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._client.connect("127.0.0.1", port)

    def run(self) -> None:
        """Receive for ever; commit when a group is full or nothing follows."""
        while True:
            before = len(self._mids)
            self._client.loop(POLL_S)
            if self._mids and len(self._mids) in (before, GROUP):
                self._commit()

    def _on_message(self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        event = json.loads(message.payload)
        self._rows.append((event["id"], message.payload))
        self._mids.append(message.mid)

    def _commit(self) -> None:
        self._database.execute("BEGIN IMMEDIATE")
        self._database.executemany("INSERT INTO reading (id, body) VALUES (?, ?)", self._rows)
        self._database.execute("COMMIT")
        for mid in self._mids:
            self._client.ack(mid, 1)
        self._rows.clear()
        self._mids.clear()


if __name__ == "__main__":
    Receiver(int(sys.argv[1]), sys.argv[2], sys.argv[3]).run()
