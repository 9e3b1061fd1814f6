"""A model for windows of readings, as it is run: results on the floor, and after a kill each of them once."""

from __future__ import annotations

import hashlib
import io
import json
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from integration.brokers import Client, EmbeddedBroker, wait_until
from integration.test_gateway import EPOCH, INSTANT, START_S, Gateway, running
from paho.mqtt.enums import MQTTProtocolVersion

from millrace import events, topics
from millrace.entries import Lane
from millrace.outbox_reader import Reader

SAMPLES, HOP, LIMIT = 8, 4, 100.0
RESULTS = "millrace/device/press-1/result/bearing"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A model that adds up the samples of a window: 100 and more is strange."""
    file = io.BytesIO()
    np.savez(file, shape=np.array([1, SAMPLES, 1]), weights=np.ones((SAMPLES, 1)), bias=np.zeros(1))
    folder = tmp_path / "bearing"
    folder.mkdir()
    (folder / "model.npz").write_bytes(file.getvalue())
    (folder / "manifest.yaml").write_text(
        f"""
name: bearing
version: 1
task: score
file: model.npz
sha256: {hashlib.sha256(file.getvalue()).hexdigest()}
input: {{kind: window, values: [vibration_g], samples: {SAMPLES}, hop: {HOP}}}
output: {{limit: {LIMIT}}}
labels: [normal, strange]
ok_labels: [normal]
licence: Apache-2.0
"""
    )
    return folder


def reading(seq: int) -> bytes:
    key = events.Key(topics.device_source("millrace", "press-1", "bearing"), EPOCH, seq)
    data = {"vibration_g": float(seq), "temperature_c": 41.2}
    return events.encode_json(events.new_event(events.READING, key, INSTANT, data=data))


def send(device: Client, seqs: Iterable[int]) -> None:
    for seq in seqs:
        device.publish("millrace/device/press-1/reading/bearing", reading(seq))


def expected(last: int) -> list[tuple[str, str, float]]:
    """Return first reading, subject and sum of each window up to a reading."""
    spans = [(end - SAMPLES + 1, end) for end in range(SAMPLES, last + 1, HOP)]
    return [
        (f"{EPOCH}-{first}", f"press-1/bearing/{EPOCH}-{end}", float(sum(range(first, end + 1))))
        for first, end in spans
    ]


def told(body: dict[str, Any]) -> tuple[str, str, float]:
    return body["data"]["first"], body["subject"], body["data"]["value"]


def stored(gateway: Gateway) -> list[tuple[str, str, float]]:
    reader = Reader(gateway.home / "state" / "gateway.db")
    bodies = [json.loads(row.body) for row in reader.read(Lane.RESULT, 0, 10_000)]
    reader.close()
    return [told(body) for body in bodies if body["type"] == events.RESULT]


def test_a_device_hears_what_the_model_makes_of_its_readings(
    tmp_path: Path, embedded_broker: EmbeddedBroker, bundle: Path
) -> None:
    models = [{"bundle": str(bundle), "channels": ["*/bearing"]}]
    with (
        running(tmp_path / "gateway", embedded_broker.address, models=models) as gateway,
        Client(embedded_broker.address, "device", protocol=MQTTProtocolVersion.MQTTv311) as device,
    ):
        wait_until(lambda: gateway.health()[0] == 200, "the gateway is on the broker", START_S)
        device.subscribe(RESULTS)
        send(device, range(1, 22))
        results = [json.loads(device.next().payload) for _ in expected(21)]
        assert [told(result) for result in results] == expected(21)
        assert [(result["data"]["label"], result["data"]["defect"]) for result in results] == [
            ("normal", False),
            ("normal", False),
            ("strange", True),
            ("strange", True),
        ]
        send(device, [23])
        send(device, [22])
        send(device, [24])
        assert told(json.loads(device.next().payload)) == expected(24)[-1]
        assert gateway.metric("millrace_windows_bytes") > 0
        answer = gateway.ask("POST", "/v2/models/bearing/infer", json.dumps(a_window()).encode())
        assert answer.json()["outputs"][0]["data"] == [36.0], answer.data
        picture = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["AAAA"]}]}
        refused = gateway.ask("POST", "/v2/models/bearing/infer", json.dumps(picture).encode())
        assert (refused.status, "takes a window" in refused.data.decode()) == (400, True), refused.data


def a_window() -> dict[str, Any]:
    data = [float(number) for number in range(1, SAMPLES + 1)]
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, SAMPLES, 1], "data": data}]}


def test_a_gateway_killed_before_or_after_a_commit_gives_each_result_once(
    tmp_path: Path, embedded_broker: EmbeddedBroker, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"models": [{"bundle": str(bundle)}], "store": {"commit_rows": 1}}
    deaths = ["gateway.inferred:3", "gateway.committed:3", "gateway.results_said:3"]
    monkeypatch.setenv("MILLRACE_CRASH_AT", deaths[0])
    with (
        running(tmp_path / "gateway", embedded_broker.address, **settings) as gateway,
        Client(embedded_broker.address, "device", protocol=MQTTProtocolVersion.MQTTv311) as device,
    ):
        for last, following in zip((40, 80, 120), [*deaths[1:], ""], strict=True):
            wait_until(lambda: gateway.health()[0] == 200, "the gateway is on the broker", START_S)
            send(device, range(1, last + 1))
            assert gateway.process.wait(START_S) == -signal.SIGKILL
            monkeypatch.setenv("MILLRACE_CRASH_AT", following)
            gateway.start()
            wait_until(gateway.answers, "the gateway answers", START_S)
        wait_until(lambda: gateway.health()[0] == 200, "the gateway is on the broker", START_S)
        send(device, range(1, 121))
        wait_until(lambda: expected(120)[-1] in stored(gateway), "the last window is answered", START_S)
        assert sorted(stored(gateway), key=lambda one: one[2]) == expected(120)
