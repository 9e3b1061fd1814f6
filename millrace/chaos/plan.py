"""What a line under fault is made of, written as the settings of its programs in one folder."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from millrace.demo.ports import free_port
from millrace.demo.stage import BrokerKind, shipped_bundle

GATEWAY, SITE = "gw-1", "chaos"
VIEWER = "witness"
CAMERA_CHANNEL, SENSOR_CHANNEL = "top", "force"
TABLE_ROWS = 1000
MEMORY = "/dev/shm"  # noqa: S108  (a folder of our own is made there)
Durability = Literal["shipped", "power", "process"]
"""As devices are shipped: frames in memory, readings on disk; or all on disk; or all in memory."""
KEEPALIVE_S = 5  # so a broker that hangs is noticed after 7.5 s
STORE_BYTES = 1 << 30
RETENTION_S = 5.0  # short, so that what is settled goes while faults happen


@dataclass(frozen=True, slots=True)
class Plan:
    """A line: each of its devices has a camera and a sensor; the rates are those of all devices together.

    Every frame of the first device goes up, of the others only what the model is not sure of: so both ways are tried.
    """

    broker: BrokerKind = "embedded"
    durability: Durability = "shipped"
    devices: int = 2
    readings_per_s: float = 100.0
    frames_per_s: float = 10.0
    guests: tuple[str, ...] = ()
    """Accounts of further devices, which a test plays itself."""
    width_px: int = 160
    height_px: int = 120
    min_free_bytes: int = 64 << 20

    @property
    def names(self) -> tuple[str, ...]:
        """The devices' names."""
        return tuple(f"line-{number}" for number in range(1, self.devices + 1))

    @property
    def held_origins(self) -> set[str]:
        """The origins of which the cloud is to hold every event itself, and not only what was answered to it."""
        return {f"device/{self.names[0]}"}


class Papers:
    """The settings files, secrets and ports of a line; they outlast every fault."""

    def __init__(self, home: Path, plan: Plan) -> None:
        self.home, self._plan = home, plan
        self.memory = Path(tempfile.mkdtemp(prefix="millrace-chaos-", dir=MEMORY))
        self.broker_port, self.cloud_port, self.http_port = free_port(), free_port(), free_port()

    def file(self, name: str) -> str:
        """Return where the settings of a program or device lie."""
        return str(self.home / f"{name}.yaml")

    def token(self, name: str) -> str:
        """Return a secret that was written."""
        return (self.home / f"{name}.token").read_text(encoding="ascii")

    def broker_arguments(self) -> list[str]:
        """Return how `millrace` starts the broker."""
        if self._plan.broker == "embedded":
            return ["broker", "embedded", "--port", str(self.broker_port)]
        return ["broker", "mosquitto", "--config", self.file("broker")]

    def write(self, uplink_port: int) -> None:
        """Write all of it; the sync worker finds the cloud at `uplink_port`."""
        for name in ("gateway", "reader"):
            _write_secret(self.home / f"{name}.token", secrets.token_urlsafe(24))
        if self._plan.broker == "mosquitto":
            self._write_broker()
        table = "".join(f"{n % 97}.5,{n}\n" for n in range(TABLE_ROWS))
        (self.home / "press.csv").write_text("force_kn,stroke_mm\n" + table, encoding="ascii")
        self.write_gateway()
        self._write("sync", self._sync(uplink_port))
        self._write(
            "cloud",
            {
                "port": self.cloud_port,
                "state_dir": "cloud",
                "gateways": [{"site": SITE, "gateway": GATEWAY, "token_file": "gateway.token"}],
                "readers": [{"site": SITE, "token_file": "reader.token"}],
            },
        )

    def write_device(self, device: str, captures: int | None, seed: int) -> None:
        """Write a device's settings: `seed` is its pictures', `captures` ends each channel after so many in a life."""
        count = {} if captures is None else {"count": captures}
        each = self._plan.devices
        camera = {
            "kind": "conveyor",
            "interval_s": each / self._plan.frames_per_s,
            "width_px": self._plan.width_px,
            "height_px": self._plan.height_px,
            "seed": seed,
        }
        sensor = {"kind": "readings", "path": "press.csv", "loop": True, "speed": self._plan.readings_per_s / each}
        chosen = self._plan.durability
        durability = {} if chosen == "shipped" else {"durability": {"frame": chosen, "reading": chosen}}
        self._write(
            device,
            {
                "device": device,
                "broker": self.login(device),
                "state_dir": device,
                "spool": {
                    "min_free_bytes": self._plan.min_free_bytes,
                    **durability,
                    "ram_dir": str(self.memory / device),
                },
                "publish": {"resend_after_s": 1.0, "resend_max_s": 4.0},
                "channels": {
                    CAMERA_CHANNEL: {"source": camera | count},
                    SENSOR_CHANNEL: {"source": sensor | count},
                },
            },
        )

    def write_gateway(self, max_bytes: int = STORE_BYTES) -> None:
        """Write the gateway's settings; `max_bytes` is its quota."""
        settings = {
            "gateway": GATEWAY,
            "broker": self.login(GATEWAY),
            "state_dir": "gateway",
            "models": [{"bundle": str(shipped_bundle("parts").resolve())}],
            "policies": [
                {"channels": f"{self._plan.names[0]}/*", "frames": "all"},
                {"channels": "*/*", "frames": "escalated"},
            ],
            "store": {"max_bytes": max_bytes, "retention_s": RETENTION_S},
            "http": {"port": self.http_port},
        }
        self._write("gateway", settings)

    def _sync(self, uplink_port: int) -> dict[str, Any]:
        return {
            "gateway": GATEWAY,
            "state_dir": "gateway",
            "cloud": {
                "url": f"http://127.0.0.1:{uplink_port}",
                "token_file": "gateway.token",
                "connect_timeout_s": 2.0,
                "answer_timeout_s": 5.0,
            },
            "retry": {"first_s": 0.2, "max_s": 1.0},
        }

    def _write_broker(self) -> None:
        self._write(
            "broker",
            {
                "host": "127.0.0.1",
                "port": self.broker_port,
                "password_dir": "accounts",
                "state_dir": "broker",
                "accounts": {
                    "devices": [*self._plan.names, *self._plan.guests],
                    "gateways": [GATEWAY],
                    "viewers": [VIEWER],
                },
            },
        )
        command = [sys.executable, "-m", "millrace", "broker", "accounts", "--config", self.file("broker")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def login(self, account: str) -> dict[str, Any]:
        """Return the broker's section in the settings of an account."""
        guarded = self._plan.broker == "mosquitto"
        login = {"username": account, "password_file": f"accounts/{account}"} if guarded else {}
        return {
            "host": "127.0.0.1",
            "port": self.broker_port,
            "reconnect_max_s": 1.0,
            "keepalive_s": KEEPALIVE_S,
            **login,
        }

    def _write(self, name: str, value: dict[str, Any]) -> None:
        Path(self.file(name)).write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")


def has_mosquitto() -> bool:
    """Whether this machine has the broker that production has."""
    return shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin") is not None


def usual_broker() -> BrokerKind:
    """Return the broker of a floor, Mosquitto; where it is not installed the embedded one."""
    return "mosquitto" if has_mosquitto() else "embedded"


def _write_secret(path: Path, secret: str) -> None:
    path.touch(mode=0o600)
    path.write_text(secret, encoding="ascii")
