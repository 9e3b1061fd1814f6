"""What people use today, as small programs that a side by side can kill; each is as its tutorial or default has it.

device HOST PORT LEDGER      publishes with paho, QoS 1, its queue in memory
collector PORT DATABASE      subscribes with paho, a persistent session, automatic acknowledgement; inserts, commits
thingsboard FOLDER LEDGER FAR    ThingsBoard gateway's SQLite storage: puts events, and sends packs to the file FAR

A key is in the ledger when the call that takes it over has returned success: from then on nobody else has it.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

INTERVAL_S = 0.01
TOPIC = "readings"
ENDING = threading.Event()


def keys(ledger: Path) -> Iterator[str]:
    """Yield `LIFE-NUMBER` at the load's pace until the program is told to end; each life counts from 1."""
    life = ledger.read_text().splitlines()[-1].split("-")[0] if ledger.exists() and ledger.stat().st_size else "0"
    number = 0
    while not ENDING.wait(INTERVAL_S):
        number += 1
        yield f"{int(life) + 1}-{number}"


def note(ledger: int, key: str) -> None:
    """Write a key into the producer's ledger."""
    os.write(ledger, f"{key}\n".encode())


def connected(client_id: str, host: str, port: int, **options: Any) -> Any:
    """Return a paho client that connects, and connects again, by itself."""
    paho: Any = importlib.import_module("paho.mqtt.client")
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id, **options)
    client.reconnect_delay_set(1, 2)
    client.connect_async(host, port)
    return client


def device(host: str, port: str, ledger_file: str) -> None:
    """Publish until told to end; then wait for what is in flight."""
    client = connected("device", host, int(port))
    client.loop_start()
    ledger = os.open(ledger_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    last = None
    for key in keys(Path(ledger_file)):
        if not client.is_connected():
            continue
        last = client.publish(TOPIC, key, qos=1)
        if last.rc == 0:
            note(ledger, key)
    if last is not None:
        last.wait_for_publish(20)
    client.disconnect()
    client.loop_stop()


def collector(port: str, database: str) -> None:
    """Insert what comes, one commit for each message."""
    connection = sqlite3.connect(database, check_same_thread=False)
    connection.execute("CREATE TABLE IF NOT EXISTS reading (number INTEGER PRIMARY KEY, key TEXT)")
    client = connected("collector", "127.0.0.1", int(port), clean_session=False)
    client.on_connect = lambda c, *_: c.subscribe(TOPIC, qos=1)

    def insert(_client: object, _data: object, message: Any) -> None:
        with connection:
            connection.execute("INSERT INTO reading (key) VALUES (?)", (message.payload.decode(),))

    client.on_message = insert
    client.loop_start()
    ENDING.wait()
    client.disconnect()
    client.loop_stop()
    connection.close()


def thingsboard(folder: str, ledger_file: str, far_file: str) -> None:
    """Put events into the storage, and send each pack to the far side before it is done with."""
    storage_class = importlib.import_module(
        "thingsboard_gateway.storage.sqlite.sqlite_event_storage"
    ).SQLiteEventStorage
    log: Any = logging.getLogger("storage")
    log.trace = log.debug
    storage = storage_class({"data_file_path": f"{folder}/"}, log, threading.Event())
    ledger = os.open(ledger_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    far = os.open(far_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    sender = threading.Thread(target=_send_packs, args=(storage, far), daemon=True)
    sender.start()
    for key in keys(Path(ledger_file)):
        if storage.put(key):
            note(ledger, key)
    sender.join()
    storage.stop()


def _send_packs(storage: Any, far: int) -> None:
    idle_s = 0.0
    while idle_s < 5.0:
        pack = storage.get_event_pack()
        if pack:
            os.write(far, "".join(f"{key}\n" for key in pack).encode())
            os.fsync(far)
            storage.event_pack_processing_done()
        time.sleep(0.05)
        idle_s = 0.0 if pack or not ENDING.is_set() else idle_s + 0.05


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: ENDING.set())
    {"device": device, "collector": collector, "thingsboard": thingsboard}[sys.argv[1]](*sys.argv[2:])
