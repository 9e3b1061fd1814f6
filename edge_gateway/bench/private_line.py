"""A broker and a gateway of our own on free loopback ports, as the real processes, in one folder that goes again."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from millrace.demo.ports import free_port
from millrace.demo.stage import BrokerKind, Program, StageFailed, wait_until

START_TIMEOUT_S = 60.0
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
        "gateway": "bench",
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
        await_start(program, lambda: "broker_connected" in program.log.read_text(errors="replace"), "connects")
        yield program.pid


@contextmanager
def running(program: Program, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """Run a program inside."""
    program.start(environment)
    try:
        yield
    finally:
        program.stop()


def await_start(program: Program, has_started: Any, what: str) -> None:
    """Wait until a program has started. Errors: StageFailed, with its last words."""

    def is_over() -> bool:
        program.check()
        return bool(has_started())

    if not wait_until(is_over, START_TIMEOUT_S, 0.02):
        raise StageFailed(f"waited {START_TIMEOUT_S:g} s until {program.name} {what}; it said:\n{program.last_words()}")


def _answers(port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(1.0)
        return sock.connect_ex(("127.0.0.1", port)) == 0
