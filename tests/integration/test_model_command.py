"""`millrace model` as a person runs it: on a gateway that runs, one that dies in the middle of a swap, and none."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from integration.brokers import Client, EmbeddedBroker, wait_until
from integration.test_gateway import START_S, Gateway, running
from paho.mqtt.enums import MQTTProtocolVersion

from millrace_models import bundle_path

GREY = bytes(cv2.imencode(".png", np.full((96, 96, 3), 128, np.uint8))[1].tobytes())


def model(gateway: Gateway, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "millrace", "model", *words, "--state-dir", str(gateway.home / "state")]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def versions(tmp_path: Path) -> list[Path]:
    """Three versions of one model."""
    folders = []
    for version in (1, 2, 3):
        folder = tmp_path / f"parts-{version}"
        shutil.copytree(bundle_path("parts"), folder)
        manifest = folder / "manifest.yaml"
        manifest.write_text(manifest.read_text().replace("version: 1", f"version: {version}"))
        folders.append(folder)
    return folders


def says(gateway: Gateway) -> str:
    """Return which model answers an upload, which health must name too."""
    (result,) = gateway.ask("POST", "/predict", GREY).json()["results"]
    name: str = result["model"]
    assert gateway.health()[1]["models"] == [name]
    return name


@pytest.fixture
def gateway(tmp_path: Path, embedded_broker: EmbeddedBroker, versions: list[Path]) -> Iterator[Gateway]:
    models = [{"bundle": str(versions[0]), "name": "parts"}]
    with running(tmp_path / "gateway", embedded_broker.address, models=models) as started:
        yield started


def test_a_version_takes_over_at_once_and_everyone_hears_of_it(
    gateway: Gateway, versions: list[Path], embedded_broker: EmbeddedBroker
) -> None:
    assert says(gateway) == "parts@1"
    with Client(embedded_broker.address, "watcher", protocol=MQTTProtocolVersion.MQTTv311) as watcher:
        watcher.subscribe("millrace/gateway/g1/model")
        done = model(gateway, "swap", "parts", str(versions[1]))
        assert (done.returncode, done.stdout) == (0, "parts@2 serves parts; before it parts@1\n"), done.stderr
        assert says(gateway) == "parts@2"
        while json.loads(watcher.next().payload)["models"][0]["model"] != "parts@2":
            continue
    head, row = model(gateway, "list").stdout.splitlines()
    assert head.split() == ["binding", "model", "channels", "memory", "folder"]
    assert row.split()[:3] + row.split()[-1:] == ["parts", "parts@2", "*/*", str(versions[1])]

    (versions[2] / "model.tflite").write_bytes(b"half")
    refused = model(gateway, "swap", "parts", str(versions[2]))
    assert refused.returncode == 1
    assert "it was changed or half copied: copy it again; parts@2 serves on" in refused.stderr
    unknown = model(gateway, "swap", "surface", str(versions[2]))
    assert (unknown.returncode, unknown.stderr) == (1, "Error: no model is bound as 'surface'; there are: parts\n")
    assert says(gateway) == "parts@2"

    gateway.process.kill()
    gateway.process.wait()
    nobody = model(gateway, "swap", "parts", str(versions[0]))
    assert nobody.returncode == 69
    assert "no gateway answers on" in nobody.stderr


def test_a_gateway_killed_in_the_middle_of_a_swap_serves_the_old_or_the_new_one_afterwards(
    tmp_path: Path, embedded_broker: EmbeddedBroker, versions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [{"bundle": str(versions[0]), "name": "parts"}]
    monkeypatch.setenv("MILLRACE_CRASH_AT", "swap.loaded")
    with running(tmp_path / "gateway", embedded_broker.address, models=models) as gateway:
        for point, after in [("swap.noted", "parts@1"), ("", "parts@2")]:
            assert model(gateway, "swap", "parts", str(versions[1])).returncode == 69
            assert gateway.process.wait() == -signal.SIGKILL
            monkeypatch.setenv("MILLRACE_CRASH_AT", point)
            gateway.start()
            wait_until(gateway.answers, "the gateway answers", START_S)
            assert says(gateway) == after
