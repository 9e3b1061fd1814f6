"""`millrace status` as a person or a script runs it, against both brokers and with accounts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from integration.brokers import HOST, Address, Client, GuardedBroker, MQTTProtocolVersion, free_port

GATEWAY = {
    "state": "online",
    "version": "0.1.0",
    "mqtt": "5",
    "models": ["parts@1"],
    "held_rows": 7,
    "held_bytes": 2048,
    "full": True,
    "refused": [{"topic": "millrace/device/cam-1/frame/Top_2", "try": "millrace/device/cam-1/frame/top-2"}],
    "time": "2026-11-21T08:00:00.000000Z",
}
DEVICE = {
    "state": "online",
    "mqtt": "5",
    "epoch": "k3v9x0pa",
    "minted": 12,
    "held": 3,
    "held_bytes": 512,
    "refused": 0,
    "channels": {"top": "running", "side": "failed"},
    "time": "2026-11-21T08:00:00.000000Z",
}


def status(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "millrace", "status", *words], capture_output=True, text=True)


def at(address: Address) -> tuple[str, ...]:
    return ("--host", address.host, "--port", str(address.port))


def say(client: Client, topic: str, value: Any) -> None:
    client.publish(topic, json.dumps(value).encode(), retain=True)


def test_status_shows_gateways_and_devices_on_either_broker(any_broker: Address) -> None:
    with Client(any_broker, "floor", protocol=MQTTProtocolVersion.MQTTv311) as floor:
        say(floor, "millrace/gateway/g1/status", GATEWAY)
        say(floor, "millrace/device/cam-1/status", DEVICE)
        say(floor, "millrace/device/cam-2/status", {"state": "lost"})
        done = status(*at(any_broker))
    assert done.returncode == 0, done.stderr
    head, *lines = done.stdout.splitlines()
    assert head.startswith("connected to the broker with MQTT ")
    rows = {line.split()[0]: line for line in lines if line and not line.startswith(" ")}
    assert "parts@1  7 (2.0 KiB)  FULL" in rows["g1"]
    assert "name it millrace/device/cam-1/frame/top-2" in done.stdout
    assert "top running, side failed" in rows["cam-1"]
    assert rows["cam-2"].split()[1] == "lost"


def test_status_for_programs_is_json(any_broker: Address) -> None:
    with Client(any_broker, "floor", protocol=MQTTProtocolVersion.MQTTv311) as floor:
        say(floor, "acme/line3/gateway/g1/status", GATEWAY)
        say(floor, "acme/line3/gateway/g1/model", {"models": [{"model": "parts@1", "labels": ["ok"]}]})
        say(floor, "millrace/device/elsewhere/status", DEVICE)
        done = status(*at(any_broker), "--prefix", "acme/line3", "--json")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert value["mqtt"] in ("5", "3.1.1")
    assert value["devices"] == {}
    assert value["gateways"]["g1"]["held_rows"] == 7
    assert value["gateways"]["g1"]["age_s"] > 0
    assert value["gateways"]["g1"]["model_details"]["parts@1"]["labels"] == ["ok"]


def test_status_says_so_where_nobody_has_said_anything(any_broker: Address) -> None:
    done = status(*at(any_broker))
    assert done.returncode == 0, done.stderr
    assert "No gateway has said anything under 'millrace'." in done.stdout
    assert "No device has said anything under 'millrace'." in done.stdout


def test_status_without_a_broker_ends_with_69() -> None:
    done = status("--port", str(free_port()))
    assert done.returncode == 69
    assert f"no broker at {HOST}:" in done.stderr


@pytest.mark.mosquitto
def test_a_viewer_sees_the_floor_and_a_wrong_password_is_refused_in_words(guarded_mosquitto: GuardedBroker) -> None:
    folder: Path = guarded_mosquitto.config.password_dir
    with guarded_mosquitto.client("d1") as device:
        say(device, "millrace/device/d1/status", DEVICE)
        seen = status(
            *at(guarded_mosquitto.address), "--username", "wall", "--password-file", str(folder / "wall"), "--json"
        )
    refused = status(*at(guarded_mosquitto.address), "--username", "wall", "--password-file", str(folder / "d2"))
    assert seen.returncode == 0, seen.stderr
    assert list(json.loads(seen.stdout)["devices"]) == ["d1"]
    assert refused.returncode == 1
    assert "did not let us in; check --username and --password-file" in refused.stderr


def test_status_does_not_take_the_account_of_a_running_program(tmp_path: Path) -> None:
    """With our broker a name is a client id: a second client of that name throws the first off."""
    config = tmp_path / "gateway.yaml"
    config.write_text("gateway: g1\nstate_dir: s\nbroker: {username: g1, password_file: p}\n", encoding="utf-8")
    done = status("--config", str(config))
    assert done.returncode == 2
    assert "Give a viewer's account" in done.stderr
