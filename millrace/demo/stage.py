"""The programs of a line as real processes with settings of their own in one folder: started, killed, stopped."""

from __future__ import annotations

import importlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from millrace.demo.ports import free_port

BrokerKind = Literal["embedded", "mosquitto"]
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
GATEWAY, DEVICE, SITE = "g1", "cam-1", "demo"
VIEWER, GUEST = "demo", "guest"  # one account is one client: who watches beside the demo needs an account of his own


class StageFailed(Exception):
    """A program did not start or did not do what it should; the message has its last words."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be staged."""

    home: Path
    broker: BrokerKind
    channels: dict[str, Any]
    bundle: Path
    gateway_policies: list[dict[str, Any]]


class Program:
    """One process and its log; what the terminal sends its own programs, such as Ctrl-C, does not reach it."""

    def __init__(self, name: str, arguments: list[str], home: Path, entry: Sequence[str] = ("-m", "millrace")) -> None:
        """`entry` is what Python runs."""
        self.name, self.arguments = name, arguments
        self._entry = entry
        self.wrapper: list[str] = []
        self.log = home / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The number of the process that was started last."""
        assert self._process is not None
        return self._process.pid

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it, with these variables besides our own; its words go to its log."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.wrapper, sys.executable, *self._entry, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
                process_group=0,
            )

    def kill(self) -> None:
        """Kill it as a power cut would: SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> int:
        """Ask it to end and return its exit status; one that does not end in time is killed."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return -signal.SIGKILL

    def ended(self, timeout_s: float) -> bool:
        """Wait for it to end by itself; say whether it did within the time."""
        assert self._process is not None
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def check(self) -> None:
        """Raise StageFailed if it has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise StageFailed(
                f"{self.name} ended with status {self._process.returncode}; it said:\n{self.last_words()}"
            )

    def last_words(self, lines: int = 12) -> str:
        """Return the end of its log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return "(nothing)"


class Stage:
    """Broker, cloud, gateway, sync worker and agent on free loopback ports."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self.home = plan, plan.home
        self.broker_port, self.cloud_port, self.http_port = free_port(), free_port(), free_port()
        self.reader_token = self._secret("reader.token")
        self._gateway_token = self._secret("gateway.token")
        self.passwords: Path | None = None
        names = {"cloud": "cloud", "gateway": "gateway", "sync": "sync", "agent": "agent"}
        self.programs = {
            name: Program(name, [sub, "--config", str(self._path(name))], self.home) for name, sub in names.items()
        }
        if plan.broker == "embedded":
            arguments = ["broker", "embedded", "--port", str(self.broker_port)]
        else:
            arguments = ["broker", "mosquitto", "--config", str(self._path("broker"))]
        self.programs["broker"] = Program("broker", arguments, self.home)

    def open(self, uplink_port: int) -> None:
        """Write the settings, start broker, cloud, gateway and sync worker, and wait until each answers."""
        self._write_settings(uplink_port)
        for name, port in [("broker", self.broker_port), ("cloud", self.cloud_port), ("gateway", self.http_port)]:
            self.programs[name].start()
            self._wait_for_port(name, port)
        self.programs["sync"].start()

    def check(self) -> None:
        """Raise StageFailed if a program has ended by itself."""
        for program in self.programs.values():
            program.check()

    def close(self) -> None:
        """Stop everything, the broker last."""
        for name in ("agent", "gateway", "sync", "cloud", "broker"):
            program = self.programs[name]
            if program._process is not None:
                program.stop()

    def restart_cloud(self) -> None:
        """Kill the cloud and start it again."""
        self.programs["cloud"].kill()
        self.programs["cloud"].start()
        self._wait_for_port("cloud", self.cloud_port)

    # --- settings

    def _write_settings(self, uplink_port: int) -> None:
        accounts = self._plan.broker == "mosquitto"
        if accounts:
            self._write(
                "broker",
                {
                    "port": self.broker_port,
                    "state_dir": "mosquitto",
                    "password_dir": "passwords",
                    "accounts": {"devices": [DEVICE], "gateways": [GATEWAY], "viewers": [VIEWER, GUEST]},
                },
            )
            subprocess.run(
                [sys.executable, "-m", "millrace", "broker", "accounts", "--config", str(self._path("broker"))],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            self.passwords = self.home / "passwords"

        def broker(account: str) -> dict[str, Any]:
            login = {"username": account, "password_file": f"passwords/{account}"} if accounts else {}
            return {"port": self.broker_port, "reconnect_max_s": 2.0, **login}

        self._write(
            "agent", {"device": DEVICE, "state_dir": "agent", "broker": broker(DEVICE), "channels": self._plan.channels}
        )
        self._write(
            "gateway",
            {
                "gateway": GATEWAY,
                "state_dir": "gateway",
                "broker": broker(GATEWAY),
                "models": [{"bundle": str(self._plan.bundle.resolve())}],
                "policies": self._plan.gateway_policies,
                "http": {"port": self.http_port},
            },
        )
        self._write(
            "sync",
            {
                "gateway": GATEWAY,
                "state_dir": "gateway",
                "cloud": {
                    "url": f"http://127.0.0.1:{uplink_port}",
                    "token_file": "gateway.token",
                    "connect_timeout_s": 1.0,
                    "answer_timeout_s": 2.0,
                },
                "retry": {"first_s": 0.2, "max_s": 1.0},
            },
        )
        self._write(
            "cloud",
            {
                "port": self.cloud_port,
                "state_dir": "cloud",
                "gateways": [{"site": SITE, "gateway": GATEWAY, "token_file": "gateway.token"}],
                "readers": [{"site": SITE, "token_file": "reader.token"}],
            },
        )

    def _path(self, name: str) -> Path:
        return self.home / f"{name}.yaml"

    def _write(self, name: str, value: dict[str, Any]) -> None:
        self._path(name).write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")

    def _secret(self, name: str) -> str:
        token = secrets.token_urlsafe(24)
        path = self.home / name
        path.touch(mode=0o600)
        path.write_text(token, encoding="ascii")
        return token

    def _wait_for_port(self, name: str, port: int) -> None:
        def answers() -> bool:
            self.programs[name].check()
            with socket.socket() as sock:
                sock.settimeout(0.2)
                return sock.connect_ex(("127.0.0.1", port)) == 0

        if not wait_until(answers, START_TIMEOUT_S):
            raise StageFailed(f"{name} does not answer on port {port}; it said:\n{self.programs[name].last_words()}")


def wait_until(condition: Callable[[], bool], timeout_s: float, pause_s: float = 0.05) -> bool:
    """Wait for a condition; return whether it came true in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(pause_s)
    return True


def shipped_bundle(name: str) -> Path:
    """Return the folder of a bundle that ships with Millrace."""
    path: Path = importlib.import_module("millrace_models").bundle_path(name)
    return path
