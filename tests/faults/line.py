"""The whole line from the example settings as real processes: any of them is killed and comes back as it was.

Only paths, ports, paces and sources of the examples are changed; state and ports outlast every kill.
"""

from __future__ import annotations

import random
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import yaml

from millrace.demo.account import CloudView
from millrace.demo.stage import Program, shipped_bundle, wait_until
from millrace.outbox import Lane, Reader

EXAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "examples"
BrokerKind = Literal["embedded", "mosquitto"]
GATEWAY, CAMERA, PRESS = "gw-1", "cam-1", "press-1"
DEVICES = (CAMERA, PRESS)
FLOW_TIMEOUT_S = 60.0
DRAIN_TIMEOUT_S = 120.0


class Line:
    """A camera of frames and a press of readings, broker, gateway, sync worker and cloud.

    Each life of a device captures `captures` times, one every `interval_s`, and then falls silent: so the feed ends by
    itself once the killing does, and no program is asked to do anything for it.
    """

    def __init__(self, home: Path, broker: BrokerKind, *, captures: int, interval_s: float) -> None:
        self.home, self._broker = home, broker
        self._captures, self._interval_s = captures, interval_s
        self._ports = dict(zip(("broker", "cloud", "http"), _free_ports(3), strict=True))
        self.kills: list[str] = []
        self.programs = {
            "broker": Program("broker", self._broker_arguments(), home),
            **{
                name: Program(name, [name, "--config", self._file(name)], home) for name in ("gateway", "sync", "cloud")
            },
            **{name: Program(name, ["agent", "--config", self._file(name)], home) for name in DEVICES},
        }
        self._life_begins = dict.fromkeys(DEVICES, 0)
        self._readers = {
            **{device: Reader(home / device / "spool.db") for device in DEVICES},
            GATEWAY: Reader(home / "gateway" / "gateway.db"),
        }
        self._write_settings()
        self.cloud = CloudView(self._ports["cloud"], (home / "reader.token").read_text())

    def __enter__(self) -> Self:
        for name in self.programs:
            self._start(name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for reader in self._readers.values():
            reader.close()
        for name in (*DEVICES, "gateway", "sync", "cloud", "broker"):
            self.programs[name].stop()

    # --- faults

    def kill(self, *names: str) -> None:
        """SIGKILL these programs at once, and start each again at once."""
        self.check()
        for name in names:
            self.programs[name].kill()
            self.kills.append(name)
        for name in names:
            self._start(name)

    def check(self) -> None:
        """Raise StageFailed if a program has ended by itself."""
        for program in self.programs.values():
            program.check()

    def _start(self, name: str) -> None:
        if name in DEVICES and self.programs[name].log.exists():
            self._life_begins[name] = self.programs[name].log.stat().st_size
        self.programs[name].start()

    # --- what is true of it

    def minted(self) -> dict[str, dict[str, int]]:
        """Return each origin's own ledger: for each of its epochs, how many events it has promised."""
        return {
            f"{'gateway' if name == GATEWAY else 'device'}/{name}": reader.epochs()
            for name, reader in self._readers.items()
        }

    def wait_for_flow(self, answers: int) -> None:
        """Wait until the gateway has committed so many more answers: the line runs, end to end on the floor.

        A device that has fallen silent is switched off and on.
        """
        wanted = self._said() + answers
        flows = self._wait(lambda: self._flows(wanted), FLOW_TIMEOUT_S)
        assert flows, f"no {answers} answers within {FLOW_TIMEOUT_S:.0f} s\n{self.last_words()}"

    def drain(self) -> float | None:
        """Wait until the feeds have ended, then until all they promised is in the cloud; return the seconds of that.

        None: it is not, after DRAIN_TIMEOUT_S; the account tells what is missing.
        """
        hushed = self._wait(lambda: all(map(self._is_silent, DEVICES)), DRAIN_TIMEOUT_S)
        assert hushed, f"the devices do not fall silent\n{self.last_words()}"
        begun_s = time.monotonic()
        return time.monotonic() - begun_s if self._wait(self._drained, DRAIN_TIMEOUT_S) else None

    def last_words(self) -> str:
        """Return the end of each program's log."""
        return "\n".join(f"--- {name}\n{program.last_words()}" for name, program in self.programs.items())

    def _said(self) -> int:
        return sum(self._readers[GATEWAY].epochs().values())

    def _flows(self, wanted: int) -> bool:
        for device in filter(self._is_silent, DEVICES):
            self.programs[device].stop()
            self._start(device)
        return self._said() >= wanted

    def _is_silent(self, device: str) -> bool:
        return b"source_finished" in self.programs[device].log.read_bytes()[self._life_begins[device] :]

    def _drained(self) -> bool:
        if any(self._readers[device].read(lane, 0, 1) for device in DEVICES for lane in Lane):
            return False
        try:
            audit = self.cloud.audit()
        except OSError:  # it is starting
            return False
        known = {(finding["origin"], finding["epoch"]): finding for finding in audit["origins"]}
        wanted = [(origin, epoch, seq) for origin, epochs in self.minted().items() for epoch, seq in epochs.items()]
        return all(
            (finding := known.get((origin, epoch))) is not None and finding["minted"] == seq and not finding["missing"]
            for origin, epoch, seq in wanted
            if seq
        )

    def _wait(self, condition: Any, timeout_s: float) -> bool:
        def holds() -> bool:
            self.check()
            return bool(condition())

        return wait_until(holds, timeout_s)

    # --- settings

    def _broker_arguments(self) -> list[str]:
        if self._broker == "embedded":
            return ["broker", "embedded", "--port", str(self._ports["broker"])]
        return ["broker", "mosquitto", "--config", self._file("broker")]

    def _write_settings(self) -> None:
        for name in ("gateway.token", "reader.token"):
            _write_secret(self.home / name, secrets.token_urlsafe(24))
        guarded = self._broker == "mosquitto"
        if guarded:
            self._write_broker()
        for device in DEVICES:
            agent = _example("agent")
            agent |= {"device": device, "broker": self._login(device, guarded), "state_dir": device}
            agent |= {"publish": {"resend_after_s": 1.0, "resend_max_s": 4.0}, "channels": self._channels(device)}
            self._write(device, agent)
        gateway = _example("gateway")
        gateway |= {"broker": self._login(GATEWAY, guarded), "state_dir": "gateway"}
        gateway["models"][0]["bundle"] = str(shipped_bundle("parts"))
        gateway["http"]["port"] = self._ports["http"]
        self._write("gateway", gateway)
        sync = _example("sync")
        sync |= {"state_dir": "gateway", "retry": {"first_s": 0.2, "max_s": 1.0}}
        sync["cloud"] = {"url": f"http://127.0.0.1:{self._ports['cloud']}", "token_file": "gateway.token"}
        self._write("sync", sync)
        cloud = _example("cloud")
        cloud |= {"port": self._ports["cloud"], "state_dir": "cloud"}
        cloud["gateways"][0]["token_file"], cloud["readers"][0]["token_file"] = "gateway.token", "reader.token"
        self._write("cloud", cloud)

    def _write_broker(self) -> None:
        broker = _example("broker")
        broker |= {"host": "127.0.0.1", "port": self._ports["broker"]}
        broker |= {"password_dir": "accounts", "state_dir": "broker"}
        broker["accounts"] = {"devices": list(DEVICES), "gateways": [GATEWAY], "viewers": []}
        self._write("broker", broker)
        command = [sys.executable, "-m", "millrace", "broker", "accounts", "--config", self._file("broker")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def _login(self, account: str, guarded: bool) -> dict[str, Any]:
        login = {"username": account, "password_file": f"accounts/{account}"} if guarded else {}
        return {"host": "127.0.0.1", "port": self._ports["broker"], "reconnect_max_s": 1.0, **login}

    def _channels(self, device: str) -> dict[str, Any]:
        source: dict[str, Any] = {"count": self._captures}
        if device == CAMERA:
            source |= {"kind": "conveyor", "interval_s": self._interval_s, "width_px": 160, "height_px": 120}
            return {"top": {"source": source}}
        table = self.home / "press.csv"
        table.write_text("force_kn,stroke_mm\n" + "".join(f"{n % 97}.5,{n}\n" for n in range(1000)))
        source |= {"kind": "readings", "path": str(table), "loop": True, "speed": 1 / self._interval_s}
        return {"force": {"source": source}}

    def _file(self, name: str) -> str:
        return str(self.home / f"{name}.yaml")

    def _write(self, name: str, value: dict[str, Any]) -> None:
        Path(self._file(name)).write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")


def has_mosquitto() -> bool:
    """Whether this machine has the broker that production has."""
    return shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin") is not None


def _example(name: str) -> dict[str, Any]:
    value: dict[str, Any] = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8"))
    return value


def _write_secret(path: Path, secret: str) -> None:
    path.touch(mode=0o600)
    path.write_text(secret, encoding="ascii")


def _free_ports(count: int) -> list[int]:
    """Return ports below those that outgoing connections get: while its owner is dead, nobody else takes one."""
    found: list[int] = []
    choice = random.SystemRandom()
    while len(found) < count:
        port = choice.randrange(15000, 32000)
        with socket.socket() as sock:
            if port not in found and sock.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
    return found
