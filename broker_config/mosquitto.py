"""Mosquitto: its configuration as text, for 2.0.11 (Debian 12) and newer, and a broker run from a private directory."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from broker_config import acl
from broker_config.accounts import password_file, program, read_secrets
from broker_config.address import accepts, is_loopback, require_free
from broker_config.settings import BrokerConfig
from millrace import heap
from millrace.settings import ConfigError

CONF = "mosquitto.conf"
ACL = "acl"
PASSWORDS = "passwords"
LOG = "mosquitto.log"
# A packet is its payload, a topic (at most 64 KiB) and, on MQTT 5, the event's attributes (at most 8 KiB).
PACKET_HEADROOM_BYTES = 72 << 10
POLL_S = 0.01
STOP_TIMEOUT_S = 10.0


class BrokerFailed(Exception):
    """Mosquitto did not start or did not stay; the message has its own words."""


def render(config: BrokerConfig, home: Path, *, user: str | None = None) -> str:
    """Return mosquitto.conf for a broker whose ACL and password file lie in `home`.

    `user` is the account that Mosquitto, started by root, changes to; none leaves its default, `mosquitto`.
    """
    flag = {True: "true", False: "false"}
    lines = [
        "# Rendered by `millrace broker render`; edit the settings, not this file.",
        "per_listener_settings false",
        "log_dest stderr",
        *([f"user {user}"] if user else []),
        "",
        "# Who may come in.",
        f"allow_anonymous {flag[config.anonymous]}",
        *([] if config.anonymous else _account_lines(home)),
        "",
        "# Nagle's algorithm against delayed acknowledgements costs some 40 ms a frame.",
        "set_tcp_nodelay true",
        "",
        "# Limits. Queues are bounded by bytes, not by a count of messages of unknown size.",
        f"message_size_limit {config.max_payload_bytes}",
        f"max_packet_size {config.max_payload_bytes + PACKET_HEADROOM_BYTES}",
        f"max_inflight_messages {config.max_inflight_messages}",
        "max_queued_messages 0",
        f"max_queued_bytes {config.max_queued_bytes}",
        f"memory_limit {config.memory_limit_bytes}",
        "",
        "# A device keeps each event until the gateway's receipt, so nothing here needs a disk: saved queues would",
        "# wear the card and still lose what came after the last save (every 1800 s).",
        f"persistence {flag[config.persistence]}",
        "",
        f"listener {config.port} {config.host}",
        f"max_connections {config.max_connections}",
        *([] if config.anonymous else _CLIENT_ID_LINES),
    ]
    return "\n".join(lines) + "\n"


_CLIENT_ID_LINES = (
    "# One account is one client: its name is its client id, so none can throw another off by claiming that one's id.",
    "# Two programs with one account throw each other off; give each its own viewer account.",
    "use_username_as_clientid true",
)


def _account_lines(home: Path) -> list[str]:
    return [f"password_file {home / PASSWORDS}", f"acl_file {home / ACL}"]


def write_files(config: BrokerConfig, out: Path, *, home: Path | None = None, user: str | None = None) -> None:
    """Write mosquitto.conf and, where there are accounts, the ACL and passwords into `out`, for their owner only.

    `home` is where they will lie when Mosquitto reads them, if that is not `out`. ConfigError if nobody could connect.
    """
    files = {CONF: render(config, home or out.resolve(), user=user)}
    if not config.anonymous:
        if not config.accounts.names:
            raise ConfigError(["accounts: none, so nobody could connect; name devices, gateways and viewers"])
        files[ACL] = acl.render(config.prefix, config.accounts)
        files[PASSWORDS] = password_file(read_secrets(config))
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, text in files.items():
        path = out / name
        path.touch(mode=0o600)
        path.chmod(0o600)
        path.write_text(text, encoding="utf-8")


def prepare(config: BrokerConfig, home: Path) -> list[str]:
    """Write what a broker started by us needs into `home` and return its command line, to be run in `home`.

    (Mosquitto saves to the directory that it runs in; a location in our file would clash with the one in Debian's.)
    """
    command = [program("mosquitto"), "-c", str(home.resolve() / CONF)]
    write_files(config, home, user=_own_user(config))
    return command


def environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Return the environment to run it in: glibc maps each picture by itself, and a burst leaves no holes."""
    return {"MALLOC_MMAP_THRESHOLD_": str(heap.LARGE_BYTES), **ours}


def _own_user(config: BrokerConfig) -> str | None:
    """Root's Mosquitto becomes `mosquitto` before it reads its passwords, and cannot enter a directory private to root.

    So it stays root, which is tolerable where only this machine reaches it, and refused elsewhere.
    """
    if os.geteuid() != 0:
        return None
    if not is_loopback(config.host):
        raise ConfigError(
            [
                f"host: root does not run a broker that others reach (it listens on {config.host}); "
                "run it as another user (sudo -u …), or install the files of: millrace broker render"
            ]
        )
    return "root"


class Mosquitto:
    """A running broker. It ends with the `with` block, with `stop`, or, as a fault, with `kill`."""

    def __init__(self, process: subprocess.Popen[bytes], config: BrokerConfig, home: Path) -> None:
        self.process = process
        self.host = config.host
        self.port = config.port
        self.log = home / LOG

    def stop(self) -> None:
        """Ask it to end and wait until it has."""
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it as a power cut would, and wait until it has."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start(config: BrokerConfig, home: Path, *, ready_timeout_s: float = 10.0) -> Mosquitto:
    """Start Mosquitto with its files and its log in `home`, and return once it accepts connections.

    Raises BrokerFailed with Mosquitto's own words, PortTaken, ProgramUnusable or ConfigError.
    """
    command = prepare(config, home)
    require_free(config.host, config.port)
    with (home / LOG).open("ab") as log:
        process = subprocess.Popen(
            command, cwd=home, env=environment(os.environ), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    broker = Mosquitto(process, config, home)
    deadline_s = time.monotonic() + ready_timeout_s
    while not accepts(config.host, config.port):
        if process.poll() is not None:
            raise BrokerFailed(f"Mosquitto ended with status {process.returncode}: {_last_words(broker.log)}")
        if time.monotonic() > deadline_s:
            broker.kill()
            raise BrokerFailed(f"Mosquitto did not listen within {ready_timeout_s:g} s: {_last_words(broker.log)}")
        time.sleep(POLL_S)
    return broker


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line for line in lines if "Error" in line]
    return " | ".join((errors or lines)[-3:]) or f"it said nothing (see {log})"
