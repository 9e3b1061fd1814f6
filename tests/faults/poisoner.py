"""A device that sends good readings among all that can be wrong, and knows for each what must become of it."""

from __future__ import annotations

import json
import random
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import paho.mqtt.client as paho

from millrace import clock, events, topics
from millrace.ranges import RangeSet

PREFIX, EPOCH, CHANNEL = topics.DEFAULT_PREFIX, "poison01", "stew"
WINDOW = 500
RESEND_S = 5.0
PATIENCE_S = 60.0
REJECTED_EVERY = 1000
MALFORMED_EVERY = 50
GARBAGE_EVERY = 40
REPLAYS = 1000


@dataclass
class Poisoner:
    """Sends keyed events in windows, each until the gateway's receipt covers it; garbage without a key goes between."""

    client: paho.Client
    account: str
    chance: random.Random
    good: RangeSet = field(default_factory=RangeSet)
    malformed: RangeSet = field(default_factory=RangeSet)
    rejected: RangeSet = field(default_factory=RangeSet)
    garbage: int = 0
    recorded: list[tuple[str, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._clock = clock.SystemClock()
        self._receipted = RangeSet()
        self._news = threading.Event()
        self._connected = threading.Event()
        receipts = topics.topic(PREFIX, topics.Kind.RECEIPT, self.account)
        self.client.on_connect = lambda *_: (self.client.subscribe(receipts, 1), self._connected.set())
        self.client.on_message = lambda _client, _data, message: self._hear(message.payload)
        self.client.loop_start()
        assert self._connected.wait(PATIENCE_S)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def send(self, count: int) -> None:
        """Send so many keyed events; return when the gateway has receipted all of them."""
        for first in range(1, count + 1, WINDOW):
            last = min(first + WINDOW - 1, count)
            window = [self._event(seq) for seq in range(first, last + 1)]
            self._until_receipted(first, last, window)

    def replay(self) -> None:
        """Send again what was recorded from the beginning on, and wait until the broker has it."""
        infos = [self.client.publish(topic, payload, qos=1) for topic, payload in self.recorded]
        for info in infos:
            info.wait_for_publish(PATIENCE_S)

    def _until_receipted(self, first: int, last: int, window: list[tuple[str, bytes]]) -> None:
        end_s = time.monotonic() + PATIENCE_S
        while True:
            for topic, payload in window:
                self.client.publish(topic, payload, qos=1)
                if self.chance.randrange(GARBAGE_EVERY) == 0:
                    self.garbage += 1
                    self.client.publish(*self.chance.choice(list(_garbage(self.account))), qos=1)
            resend_s = time.monotonic() + RESEND_S
            while self._receipted.gaps(first, last):
                assert time.monotonic() < end_s, f"no receipt for {self._receipted.gaps(first, last)}"
                if time.monotonic() > resend_s:
                    break
                self._news.wait(0.1)
                self._news.clear()
            else:
                return

    def _hear(self, payload: bytes) -> None:
        receipt = json.loads(payload)
        if receipt["epoch"] == EPOCH:
            self._receipted = RangeSet((first, last) for first, last in receipt["ranges"])
            self._news.set()

    def _event(self, seq: int) -> tuple[str, bytes]:
        """Return an event's topic and payload, and note what must become of it."""
        if seq % REJECTED_EVERY == 0:
            self.rejected.add(seq)
            return self._refused_by_the_cloud(seq)
        topic = topics.topic(PREFIX, topics.Kind.READING, self.account, CHANNEL)
        event = events.new_event(events.READING, self._key(CHANNEL, seq), self._clock.now(), data={"salt_g": seq})
        payload = events.encode_json(event)
        if seq % MALFORMED_EVERY == 0:
            self.malformed.add(seq)
            return topic, payload.replace(b'"salt_g":', b'"salt_g":[[],{}],"more":', 1)
        self.good.add(seq)
        if len(self.recorded) < REPLAYS:
            self.recorded.append((topic, payload))
        return topic, payload

    def _refused_by_the_cloud(self, seq: int) -> tuple[str, bytes]:
        """Return a ledger record that the gateway believes and the cloud does not: it names a device and a gateway."""
        data = {"device": self.account, "gateway": "gw-1", "epoch": EPOCH, "from": seq, "to": seq}
        data |= {"disposition": "local", "reason": "to be refused"}
        event = events.new_event(events.LEDGER, self._key("ledger", seq), self._clock.now(), data=data)
        return topics.topic(PREFIX, topics.Kind.DEVICE_LEDGER, self.account), events.encode_json(event)

    def _key(self, channel: str, seq: int) -> events.Key:
        return events.Key(topics.device_source(PREFIX, self.account, channel), EPOCH, seq)


def _garbage(account: str) -> Iterator[tuple[str, bytes]]:
    """Yield messages that nobody can believe, none with a key: all end in quarantine."""
    frame = topics.topic(PREFIX, topics.Kind.FRAME, account, "camera")
    reading = topics.topic(PREFIX, topics.Kind.READING, account, CHANNEL)
    yield frame, b"\xff\xd8\xff\xe0 no picture after all"
    yield frame, bomb(50_000, 50_000)
    yield frame, b""
    yield reading, b"{" * 2000
    yield reading, b'{"salt_g": "much"}'
    yield reading, b"\x00\x01\x02"
    yield topics.topic(PREFIX, topics.Kind.WAVEFORM, account, CHANNEL), b"[]"


def bomb(width_px: int, height_px: int) -> bytes:
    """Return a PNG of a few KiB that would unfold into gigabytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
        + chunk(b"IEND", b"")
    )
