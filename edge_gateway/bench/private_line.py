"""A broker and a gateway of our own on free loopback ports, as the real processes, in one folder that goes again."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from millrace import jsontext, topics
from millrace.demo.ports import free_port
from millrace.demo.stage import BrokerKind, Program, StageFailed, wait_until
from millrace.inbox import Delivery, Inbox
from millrace.mqtt import Connection
from millrace.settings import BrokerSettings

START_TIMEOUT_S = 60.0
GATEWAY = "bench"
_MOSQUITTO_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin")


def best_broker() -> BrokerKind:
    """Return mosquitto where it is installed, else embedded."""
    return "mosquitto" if any(Path(folder, "mosquitto").exists() for folder in _MOSQUITTO_FOLDERS) else "embedded"


@contextmanager
def private_broker(home: Path, kind: BrokerKind) -> Iterator[tuple[int, int]]:
    """Run a broker; give its port and its process. Errors: StageFailed."""
    home.mkdir(parents=True)
    port = free_port()
    if kind == "embedded":
        arguments = ["broker", "embedded", "--port", str(port)]
    else:
        settings = {"port": port, "anonymous": True, "state_dir": str(home / "state")}
        (home / "broker.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        arguments = ["broker", "mosquitto", "--config", str(home / "broker.yaml")]
    program = Program("broker", arguments, home)
    with running(program):
        await_start(program, lambda: _answers(port), f"listens on port {port}")
        yield port, program.pid


@contextmanager
def private_gateway(
    home: Path, port: int, settings: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Run a gateway at the broker on `port`, with these settings besides; give its process. Errors: StageFailed."""
    home.mkdir(parents=True)
    own = {
        "gateway": GATEWAY,
        "state_dir": str(home / "state"),
        "broker": {"port": port},
        "uplink": "none",
        "policies": [{"keep_frames": "none"}],
        "http": {"enabled": False},
        "limits": {"cache_bytes": 0},  # pictures come again here, and each is to be inferred
    }
    (home / "gateway.yaml").write_text(yaml.safe_dump({**own, **settings}), encoding="utf-8")
    program = Program("gateway", ["gateway", "--config", str(home / "gateway.yaml")], home)
    with running(program, environment):
        with _heard_online(port) as is_online:
            await_start(program, is_online, "says that it is online")
        yield program.pid


@contextmanager
def _heard_online(port: int) -> Iterator[Callable[[], bool]]:
    """Give what says whether a gateway is online; it says so after it has subscribed, so nothing is sent too early."""
    inbox, status = Inbox(), topics.topic(topics.DEFAULT_PREFIX, topics.Kind.GATEWAY_STATUS, GATEWAY)
    connection = Connection(
        BrokerSettings(port=port),
        "millrace-bench-watch",
        None,
        [status],
        persistent=False,
        max_payload_bytes=1 << 20,
        inbox=inbox,
    )
    thread = threading.Thread(target=connection.run, name="bench-watch", daemon=True)
    thread.start()

    def is_online() -> bool:
        arrival = inbox.get(0.02)
        if not isinstance(arrival, Delivery):
            return False
        arrival.ack()
        said = jsontext.parse(arrival.payload)
        return isinstance(said, dict) and said.get("state") == "online"

    try:
        yield is_online
    finally:
        connection.interrupt()
        thread.join(5)


@contextmanager
def running(program: Program, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """Run a program inside."""
    program.start(environment)
    try:
        yield
    finally:
        program.stop()


def await_start(program: Program, has_started: Callable[[], bool], what: str) -> None:
    """Wait until a program has started. Errors: StageFailed, with its last words."""

    def is_over() -> bool:
        program.check()
        return has_started()

    if not wait_until(is_over, START_TIMEOUT_S, 0.02):
        raise StageFailed(f"waited {START_TIMEOUT_S:g} s until {program.name} {what}; it said:\n{program.last_words()}")


def _answers(port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(1.0)
        return sock.connect_ex(("127.0.0.1", port)) == 0
