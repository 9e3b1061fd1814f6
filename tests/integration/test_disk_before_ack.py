"""Disk before acknowledgement, as the kernel saw it: the gateway under strace, message by message."""

from __future__ import annotations

import codecs
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from integration.brokers import HOST, Address, Client, wait_until
from paho.mqtt.enums import MQTTProtocolVersion

from millrace import clock, events, topics
from millrace.topics import Kind

DEVICE, CHANNEL, EPOCH, COUNT = "press-1", "force", "k3v9x0pa", 30
PUBLISH, PUBACK = 3, 4
LINE = re.compile(r"(?P<thread>\d+) +(?P<rest>.*)")
DATA = re.compile(r'\w+\(\d+<(?P<file>.*?)>, *"(?P<data>(?:[^"\\]|\\.)*)"')
SYNC = re.compile(r"(?:fdatasync|fsync)\(\d+<(?P<file>.*?)>\) += 0")


@dataclass(frozen=True)
class Call:
    """One system call: the places in the trace at which it began and ended, its text, its result."""

    begun: int
    ended: int
    text: str
    result: int


@dataclass(frozen=True)
class Packet:
    """One MQTT packet and the places in the trace at which its first byte's call began and its last byte's ended."""

    begun: int
    ended: int
    kind: int
    body: bytes

    @property
    def message_id(self) -> int:
        """The id by which an acknowledgement speaks of a message."""
        at = 2 + int.from_bytes(self.body[:2], "big") if self.kind == PUBLISH else 0
        return int.from_bytes(self.body[at : at + 2], "big")

    @property
    def topic(self) -> str:
        return self.body[2 : 2 + int.from_bytes(self.body[:2], "big")].decode()

    @property
    def value(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.body[self.body.index(b"{") :])
        return value


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed here")
def test_puback_and_receipt_leave_only_after_a_sync_of_the_database_that_began_after_the_message_was_read(
    tmp_path: Path, any_broker: Address
) -> None:
    trace = tmp_path / "trace"
    _run_traced_gateway(tmp_path, any_broker, trace)
    calls = list(_calls(trace.read_text().splitlines()))
    syncs = [call for call in calls if (m := SYNC.match(call.text)) and m["file"].endswith("gateway.db-wal")]
    came = [packet for packet in _packets(calls, "recvfrom", any_broker.port) if _is_reading(packet)]
    went = list(_packets(calls, "sendto", any_broker.port))
    assert len(came) == COUNT

    def synced_between(packet: Packet, answer: Packet) -> bool:
        return any(packet.ended < sync.begun and sync.ended < answer.begun for sync in syncs)

    acknowledgements = [packet for packet in went if packet.kind == PUBACK]
    receipts = [packet for packet in went if packet.kind == PUBLISH and packet.topic.endswith("/receipt")]
    for packet in came:
        seq = int(packet.value["id"].rsplit("-", 1)[1])
        answers = [a for a in acknowledgements if a.message_id == packet.message_id and a.begun > packet.ended]
        assert answers, f"no PUBACK of {seq}"
        assert synced_between(packet, answers[0]), f"PUBACK of {seq} before the disk had it"
        speaking = [r for r in receipts if any(low <= seq <= high for low, high in r.value["ranges"])]
        assert speaking, f"no receipt for {seq}"
        assert synced_between(packet, speaking[0]), f"receipt for {seq} before the disk had it"


def _run_traced_gateway(home: Path, broker: Address, trace: Path) -> None:
    config = home / "gateway.yaml"
    address = f"{{host: {HOST}, port: {broker.port}}}"
    config.write_text(f"gateway: g1\nstate_dir: state\nbroker: {address}\nhttp: {{enabled: false}}\n")
    strace = ["strace", "-f", "-yy", "-s", "65536", "-e", "trace=recvfrom,sendto,fdatasync,fsync", "-o", str(trace)]
    with (home / "gateway.log").open("wb") as log:
        traced = subprocess.Popen(
            [*strace, sys.executable, "-m", "millrace", "gateway", "--config", str(config)], stdout=log, stderr=log
        )
    lock = home / "state" / "gateway.db.lock"
    try:
        with (
            Client(broker, "reader", protocol=MQTTProtocolVersion.MQTTv311) as reader,
            Client(broker, DEVICE, protocol=MQTTProtocolVersion.MQTTv311) as device,
        ):
            reader.subscribe(topics.topic(topics.DEFAULT_PREFIX, Kind.GATEWAY_STATUS, "g1"))
            reader.subscribe(topics.topic(topics.DEFAULT_PREFIX, Kind.RECEIPT, DEVICE))
            _wait_for_word(reader, traced, home / "gateway.log")
            topic = topics.topic(topics.DEFAULT_PREFIX, Kind.READING, DEVICE, CHANNEL)
            for seq in range(1, COUNT + 1):
                device.paho.publish(topic, _reading(seq), qos=1)
            while json.loads(reader.next().payload).get("ranges") != [[1, COUNT]]:
                pass
    finally:
        if traced.poll() is None and lock.exists():
            subprocess.run(["kill", f"-{signal.SIGTERM:d}", lock.read_text().strip()], check=True)
        traced.wait(120)


def _wait_for_word(reader: Client, traced: subprocess.Popen[bytes], log: Path) -> None:
    wait_until(lambda: traced.poll() is not None or not reader.received.empty(), "the gateway is online")
    if traced.poll() is not None:
        words = log.read_text(errors="replace")
        if "ptrace" in words.lower():
            pytest.skip(f"strace may not trace here: {words.strip()[:200]}")
        pytest.fail(f"the gateway ended:\n{words}")


def _reading(seq: int) -> bytes:
    key = events.Key(topics.device_source(topics.DEFAULT_PREFIX, DEVICE, CHANNEL), EPOCH, seq)
    event = events.new_event(events.READING, key, clock.SystemClock().now(), data={"force_kn": float(seq)})
    return events.encode_json(event.with_base(1))


def _is_reading(packet: Packet) -> bool:
    return packet.kind == PUBLISH and "/reading/" in packet.topic


def _calls(lines: Iterable[str]) -> Iterator[Call]:
    """Yield the calls of a trace, those in two halves joined, in the order of their ends."""
    open_: dict[str, tuple[int, str]] = {}
    for place, line in enumerate(lines):
        match = LINE.match(line)
        assert match is not None, line
        thread, rest = match["thread"], match["rest"]
        if rest.endswith("<unfinished ...>"):
            open_[thread] = (place, rest.removesuffix("<unfinished ...>").rstrip())
            continue
        begun, text = place, rest
        if rest.startswith("<..."):
            begun, first = open_.pop(thread)
            text = first + rest.partition(" resumed>")[2]
        result = re.search(r"\) += (-?\d+)", text)
        if result is not None:
            yield Call(begun, place, text, int(result[1]))


def _packets(calls: Iterable[Call], name: str, broker_port: int) -> Iterator[Packet]:
    """Yield the MQTT packets of each connection to the broker, put together from its bytes."""
    streams: dict[str, list[tuple[int, Call]]] = {}
    for call in calls:
        match = DATA.match(call.text)
        if call.text.startswith(name + "(") and call.result > 0 and match and f":{broker_port}]" in match["file"]:
            data, _ = codecs.escape_decode(match["data"].encode())
            streams.setdefault(match["file"], []).extend((byte, call) for byte in data[: call.result])
    for stream in streams.values():
        yield from _taken_apart(stream)


def _taken_apart(stream: list[tuple[int, Call]]) -> Iterator[Packet]:
    """Yield the packets of one connection; what only began is left out: the probe reads no more of an answer."""
    at = 0
    while at + 2 <= len(stream):
        length, shift, header = 0, 0, at + 1
        while stream[header][0] >= 0x80:
            length, shift, header = length | (stream[header][0] & 0x7F) << shift, shift + 7, header + 1
        length |= stream[header][0] << shift
        begin, end = header + 1, header + 1 + length
        if end > len(stream):
            return
        body = bytes(byte for byte, _ in stream[begin:end])
        yield Packet(stream[at][1].begun, stream[end - 1][1].ended, stream[at][0] >> 4, body)
        at = end
