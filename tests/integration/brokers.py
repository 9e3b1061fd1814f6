"""Real brokers on free ports for tests, and a small MQTT client that says what it was granted, sent and refused."""

from __future__ import annotations

import json
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from broker_config import accounts, mosquitto
from broker_config.address import accepts
from broker_config.settings import AccountSettings, BrokerConfig
from millrace.demo.ports import free_port

HOST = "127.0.0.1"
WAIT_S = 120.0  # costs nothing when all is well


@dataclass(frozen=True)
class Address:
    """Where a broker listens."""

    host: str
    port: int


@dataclass(frozen=True)
class GuardedBroker:
    """A Mosquitto with accounts, and the files with their secrets."""

    process: mosquitto.Mosquitto
    config: BrokerConfig

    @property
    def address(self) -> Address:
        return Address(self.process.host, self.process.port)

    def secret(self, account: str) -> str:
        return accounts.read_secrets(self.config)[account]

    def client(self, account: str, **options: Any) -> Client:
        return Client(self.address, account, username=account, password=self.secret(account), **options)


def start_mosquitto(home: Path, *, port: int | None = None, **settings: Any) -> mosquitto.Mosquitto:
    """Start an anonymous Mosquitto with its own directory; `settings` are fields of BrokerConfig."""
    skip_without_mosquitto()
    config = BrokerConfig(host=HOST, port=port or free_port(), anonymous=True, **settings)
    return mosquitto.start(config, home)


def start_guarded_mosquitto(home: Path, named: AccountSettings, **settings: Any) -> GuardedBroker:
    """Start a Mosquitto with these accounts, whose secrets it makes."""
    skip_without_mosquitto()
    config = BrokerConfig(host=HOST, port=free_port(), accounts=named, password_dir=home / "secrets", **settings)
    accounts.make_secrets(config)
    return GuardedBroker(mosquitto.start(config, home), config)


@contextmanager
def denying_mosquitto(home: Path, denied: str) -> Iterator[Address]:
    """An anonymous Mosquitto that refuses subscriptions to topics that `denied` matches, as its access rules may."""
    skip_without_mosquitto()
    plugin = next(Path("/usr/lib").glob("*/mosquitto_dynamic_security.so"), None)
    if plugin is None:
        pytest.skip("Mosquitto's plugin for access rules is not installed here")
    home.mkdir()
    rule = {"acltype": "subscribePattern", "topic": denied, "allow": False}
    rules = {
        "defaultACLAccess": dict.fromkeys(("publishClientSend", "publishClientReceive", "subscribe"), True),
        "roles": [{"rolename": "all", "acls": [rule]}],
        "groups": [{"groupname": "all", "roles": [{"rolename": "all"}]}],
        "anonymousGroup": "all",
    }
    (home / "rules.json").write_text(json.dumps(rules))
    with open_mosquitto(home, [f"plugin {plugin}", f"plugin_opt_config_file {home / 'rules.json'}"]) as address:
        yield address


@contextmanager
def open_mosquitto(home: Path, options: Sequence[str], port: int | None = None) -> Iterator[Address]:
    """A Mosquitto for everybody, with these lines in its configuration."""
    address = Address(HOST, port or free_port())
    lines = [f"listener {address.port} {HOST}", "allow_anonymous true", "user root", *options]
    (home / "mosquitto.conf").write_text("\n".join(lines) + "\n")
    with (home / "mosquitto.log").open("wb") as log:
        process = subprocess.Popen([accounts.program("mosquitto"), "-c", home / "mosquitto.conf"], stderr=log)
    try:
        wait_until(lambda: process.poll() is not None or accepts(HOST, address.port), "it listens")
        assert process.poll() is None, (home / "mosquitto.log").read_text()
        yield address
    finally:
        process.terminate()
        process.wait(WAIT_S)


def skip_without_mosquitto() -> None:
    try:
        accounts.program("mosquitto")
    except accounts.ProgramUnusable as error:
        pytest.skip(str(error))


class EmbeddedBroker:
    """The embedded broker as users start it: `python -m millrace broker embedded`."""

    def __init__(self, port: int | None = None) -> None:
        self.address = Address(HOST, port or free_port())
        self.process = subprocess.Popen(
            [sys.executable, "-m", "millrace", "broker", "embedded", "--port", str(self.address.port)],
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        wait_until(lambda: self.process.poll() is not None or accepts(HOST, self.address.port), "it listens")
        assert self.process.poll() is None, "".join(self.log)

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(self.process.stderr)

    def stop(self) -> int:
        """Ask it to end and return its exit status."""
        self.process.terminate()
        status = self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status


@dataclass(frozen=True)
class Message:
    topic: str
    payload: bytes
    retained: bool


@dataclass
class Client:
    """A connected MQTT client. Leaving the `with` block disconnects in good order; `cut` does not."""

    address: Address
    client_id: str
    username: str | None = None
    password: str | None = None
    protocol: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv5
    will: str | None = None
    received: queue.Queue[Message] = field(default_factory=queue.Queue)
    answers: queue.Queue[Any] = field(default_factory=queue.Queue)

    def __enter__(self) -> Self:
        self.connected: queue.Queue[Any] = queue.Queue()
        self.disconnected = threading.Event()
        self.paho = paho.Client(
            CallbackAPIVersion.VERSION2,
            self.client_id,
            protocol=self.protocol,
            reconnect_on_failure=False,
        )
        if self.username is not None:
            self.paho.username_pw_set(self.username, self.password)
        if self.will is not None:
            self.paho.will_set(self.will, b"lost", 1, retain=True)
        self.paho.on_connect = lambda _c, _u, _flags, reason, _p: self.connected.put(reason)
        self.paho.on_disconnect = lambda *_: self.disconnected.set()
        self.paho.on_subscribe = lambda *_: self.answers.put("subscribed")
        self.paho.on_publish = lambda _c, _u, _mid, reason, _p: self.answers.put(reason)
        self.paho.on_message = lambda _c, _u, m: self.received.put(Message(m.topic, bytes(m.payload), m.retain))
        self.paho.connect(self.address.host, self.address.port)
        self.paho.loop_start()
        self.reason = self.connected.get(timeout=WAIT_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.paho.disconnect()
        self.paho.loop_stop()

    def subscribe(self, filter_: str) -> None:
        """Subscribe with QoS 1 and wait for the broker's answer."""
        self.paho.subscribe(filter_, 1)
        assert self.answers.get(timeout=WAIT_S) == "subscribed"

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> str:
        """Publish with QoS 1, wait for the acknowledgement and return its reason, `Success` being the good one."""
        self.paho.publish(topic, payload, 1, retain)
        return str(self.answers.get(timeout=WAIT_S))

    def next(self) -> Message:
        """Return the next message received."""
        return self.received.get(timeout=WAIT_S)

    def cut(self) -> None:
        """Break the connection as a pulled cable does once noticed: the broker speaks the will."""
        sock = self.paho.socket()
        assert sock is not None
        sock.shutdown(socket.SHUT_RDWR)
        assert self.disconnected.wait(WAIT_S)


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
    """Return once `condition` holds; fail saying `what` was waited for."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {timeout_s:g} s in vain until {what}"
        time.sleep(0.01)
