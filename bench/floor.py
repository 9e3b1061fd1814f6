"""A frame's way over MQTT to its durable result, against bare decode + invoke on as many threads as there are cores."""

from __future__ import annotations

import hashlib
import os
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import yaml

from bench.measures import Measure, at_least, at_most
from edge_gateway.models import Models
from edge_gateway.settings import ModelSettings
from millrace import events, jsontext, topics
from millrace.demo.stage import shipped_bundle, wait_until
from millrace.inbox import Delivery, Inbox
from millrace.mqtt import Connection
from millrace.settings import BrokerSettings

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
FRAMES = 400
IN_FLIGHT = 8
ROUNDS = 3
BARE_MS = {"mosquitto": 10.0, "embedded": 25.0}  # amqtt itself takes some milliseconds for each frame


def measures(home: Path, broker_port: int, broker: str) -> list[Measure]:
    """Return frames a second and latency of a real gateway process at the given broker."""
    bundle, name = _bundle(home)
    frames = _frames()
    limit = statistics.median(_limit_per_s(bundle, frames) for _ in range(ROUNDS))
    lone_limit_ms = _lone_limit_ms(bundle, frames)
    gateway = _start_gateway(home, bundle, broker_port)
    try:
        floor = _Floor(broker_port, frames)
        floor.run(64, IN_FLIGHT)  # warm
        rates = [FRAMES / floor.run(FRAMES, IN_FLIGHT) for _ in range(ROUNDS)]
        floor.latencies_ms.clear()
        floor.run(FRAMES // 2, 1)
        p50_ms = statistics.median(floor.latencies_ms)
        floor.close()
        resident = int(Path(f"/proc/{gateway.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    finally:
        gateway.terminate()
        gateway.wait(20)
    return [
        at_least(f"frames/s, {name}, 640x480, {broker} (decode + invoke alone)", statistics.median(rates), limit, 0.5),
        at_most(f"p50 ms of a lone frame, less decode + invoke ({broker})", p50_ms - lone_limit_ms, BARE_MS[broker]),
        at_most("MB resident, gateway", resident, 170.0),
    ]


class _Floor:
    """Publishes frames in a closed loop, so many in flight, and waits for each one's result."""

    def __init__(self, port: int, frames: list[bytes]) -> None:
        self._frames, self._seq = frames, 0
        self._inbox = Inbox(1 << 30)
        result = topics.subscription("millrace", topics.Kind.RESULT)
        self._connection = Connection(
            BrokerSettings(port=port),
            "bench",
            None,
            [result],
            persistent=False,
            max_payload_bytes=4 << 20,
            inbox=self._inbox,
        )
        self._thread = threading.Thread(target=self._connection.run, daemon=True)
        self._thread.start()
        assert wait_until(lambda: self._connection.connected, 10)
        self._sent_s: dict[str, float] = {}
        self.latencies_ms: list[float] = []

    def run(self, count: int, in_flight: int) -> float:
        """Return the seconds that `count` frames took."""
        begun_s = time.perf_counter()
        sent = done = 0
        while done < count:
            while sent < count and sent - done < in_flight:
                self._publish()
                sent += 1
            arrival = self._inbox.get(10)
            assert arrival is not None, "no result within 10 s"
            if isinstance(arrival, Delivery):
                arrival.ack()
                event = jsontext.parse(arrival.payload)
                self.latencies_ms.append((time.perf_counter() - self._sent_s.pop(event["subject"])) * 1000)
                done += 1
        return time.perf_counter() - begun_s

    def _publish(self) -> None:
        self._seq += 1
        key = events.Key("/millrace/device/bench/top", "benchmrk", self._seq)
        event = events.Event(events.FRAME, key, "2026-01-01T00:00:00.000000Z", base=1, datacontenttype="image/jpeg")
        payload = events.encode_frame(event, self._frames[self._seq % len(self._frames)])
        self._sent_s[f"bench/top/{key.id}"] = time.perf_counter()
        self._connection.publish("millrace/device/bench/frame/top", payload)

    def close(self) -> None:
        self._connection.interrupt()
        self._thread.join(5)


def _bundle(home: Path) -> tuple[Path, str]:
    """Return MobileNetV2 where the data is at hand, else the shipped model; and its name."""
    model = DATA / "models" / "mobilenet_v2_1.0_224_quant.tflite"
    if not model.exists():
        return shipped_bundle("parts"), "parts"
    folder = home / "mobilenet"
    folder.mkdir()
    (folder / "model.tflite").write_bytes(model.read_bytes())
    (folder / "labels.txt").write_text("\n".join(f"class {number}" for number in range(1001)))
    manifest = {
        "name": "mobilenet-v2",
        "version": 1,
        "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "input": {"width": 224, "height": 224, "mean": 128.0, "std": 128.0},
        "labels_file": "labels.txt",
        "licence": "Apache-2.0",
    }
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    return folder, "MobileNetV2 224 INT8"


def _frames() -> list[bytes]:
    rng = np.random.default_rng(1)
    frames = []
    for _ in range(16):
        small = rng.integers(0, 255, (60, 80, 3), np.uint8)
        picture = cv2.resize(small, (640, 480), interpolation=cv2.INTER_CUBIC)
        frames.append(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes())
    return frames


def _limit_per_s(bundle: Path, frames: list[bytes]) -> float:
    """Return decode + invoke alone, one interpreter for each core."""
    threads = len(os.sched_getaffinity(0))
    models = Models([ModelSettings(bundle=bundle)], 12_000_000, threads)
    with ThreadPoolExecutor(threads) as pool:
        begun_s = time.perf_counter()
        list(pool.map(lambda number: models.infer(frames[number % len(frames)], [0]), range(FRAMES)))
        return FRAMES / (time.perf_counter() - begun_s)


def _lone_limit_ms(bundle: Path, frames: list[bytes]) -> float:
    models = Models([ModelSettings(bundle=bundle)], 12_000_000)
    spent = []
    for number in range(100):
        begun_s = time.perf_counter()
        models.infer(frames[number % len(frames)], [0])
        spent.append((time.perf_counter() - begun_s) * 1000)
    return statistics.median(spent)


def _start_gateway(home: Path, bundle: Path, broker_port: int) -> subprocess.Popen[bytes]:
    settings = {
        "gateway": "bench",
        "state_dir": str(home / "gateway"),
        "broker": {"port": broker_port},
        "uplink": "none",
        "models": [{"bundle": str(bundle)}],
        "limits": {"cache_bytes": 0},  # the same few frames go round: each is to cost its inference
        "policies": [{"keep_frames": "none"}],
        "http": {"port": 0},
    }
    path = home / "gateway.yaml"
    path.write_text(yaml.safe_dump(settings))
    log = (home / "gateway.log").open("wb")
    process = subprocess.Popen([sys.executable, "-m", "millrace", "gateway", "--config", str(path)], stderr=log)
    assert wait_until(lambda: b"broker_connected" in (home / "gateway.log").read_bytes(), 20), "no gateway"
    return process
