"""The real gateway, recorded while devices send it frames and readings: its receipts and results are its word."""

from __future__ import annotations

import json
import random
import signal
import subprocess
from pathlib import Path

import cv2
import numpy as np
import yaml
from faults.systemcalls import Recording, read_trace, traced
from integration.brokers import Address, Client, wait_until

from millrace import clock, events, topics
from millrace.demo.stage import shipped_bundle
from millrace.topics import Kind

DEVICE, EPOCH = "cam-1", "k3v9x0pa"


def record_gateway(home: Path, broker: Address, seed: int, count: int) -> Recording:
    """Send `count` events, wait for the receipt of all, end the gateway and return what it did to its state folder."""
    (home / "disk").mkdir(parents=True)
    config, state = home / "gateway.yaml", home / "disk" / "state"
    settings = {
        "gateway": "g1",
        "state_dir": str(state),
        "broker": {"host": broker.host, "port": broker.port},
        "http": {"enabled": False},
        "models": [{"bundle": str(shipped_bundle("parts"))}],
        "policies": [{"frames": "defects", "keep_frames": "all"}],
    }
    config.write_text(yaml.safe_dump(settings))
    program = traced(home / "trace", "millrace", "gateway", "--config", str(config))
    try:
        _send_all(broker, program, random.Random(seed), count)
    finally:
        lock = state / "gateway.db.lock"
        if program.poll() is None and lock.exists():
            subprocess.run(["kill", f"-{signal.SIGTERM:d}", lock.read_text().strip()], check=True)
        _, words = program.communicate(timeout=30)
    assert program.returncode == 0, words.decode()
    return read_trace(home / "trace", home / "disk")


def _send_all(broker: Address, program: subprocess.Popen[bytes], chance: random.Random, count: int) -> None:
    with Client(broker, "reader") as reader, Client(broker, DEVICE) as device:
        reader.subscribe(topics.topic(topics.DEFAULT_PREFIX, Kind.GATEWAY_STATUS, "g1"))
        reader.subscribe(topics.topic(topics.DEFAULT_PREFIX, Kind.RECEIPT, DEVICE))
        wait_until(lambda: program.poll() is not None or not reader.received.empty(), "the gateway is online", 60.0)
        for seq in range(1, count + 1):
            device.paho.publish(*_message(seq, chance), qos=1)
        while json.loads(reader.next().payload).get("ranges") != [[1, count]]:
            pass


def _message(seq: int, chance: random.Random) -> tuple[str, bytes]:
    kind, channel = (Kind.FRAME, "top") if chance.random() < 0.5 else (Kind.READING, "belt")
    key = events.Key(topics.device_source(topics.DEFAULT_PREFIX, DEVICE, channel), EPOCH, seq)
    data = {"force_kn": chance.random()} if kind is Kind.READING else None
    event = events.new_event(events.TYPE_OF_KIND[kind], key, clock.SystemClock().now(), data=data).with_base(1)
    topic = topics.topic(topics.DEFAULT_PREFIX, kind, DEVICE, channel)
    if kind is Kind.READING:
        return topic, events.encode_json(event)
    pixels = np.frombuffer(chance.randbytes(32 * 32 * 3), np.uint8).reshape(32, 32, 3)
    return topic, events.encode_frame(event, cv2.imencode(".jpg", pixels)[1].tobytes())
