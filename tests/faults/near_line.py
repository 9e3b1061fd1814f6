"""The whole line in one process, step by step: the programs' own spool, committer, drain and cloud, without a network.

What a keeper, a broker and the wire do between them is done here in order and at once; nothing arrives late or twice.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.spool_writer import admission, open_spool
from faults.store_writer import committer

from cloud_sync.drain import Drain
from cloud_sync.link import Link
from cloud_sync.progress import Progress
from cloud_sync.reference_cloud.batch import read_batch
from cloud_sync.reference_cloud.ledger import Ledger
from cloud_sync.settings import SyncSettings
from cloud_sync.submit import Answer
from device_agent.spool import Spool
from edge_gateway.admission import Arrived, DeviceStatus, Outcome, admit
from edge_gateway.prediction import Prediction
from edge_gateway.settings import GatewaySettings
from edge_gateway.store import Store
from millrace import clock, events, jsontext, topics
from millrace.ranges import RangeSet

SITE, GATEWAY, DEVICE = "s1", "gw-1", "cam-1"
MAX_STEPS = 400
Key = tuple[str, str, int]  # origin, epoch, seq
Capture = tuple[str, str]  # when, what


class NearCloud:
    """The reference cloud's own rules and ledger behind the interface that the drain speaks to."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def has_news(self) -> bool:
        return False

    def submit(
        self,
        bodies: Sequence[bytes],
        minted: Mapping[str, Mapping[str, int]],
        buried: Sequence[Mapping[str, Any]] = (),
    ) -> Answer:
        """Have a batch committed."""
        envelope = {"batch": "1", "minted": minted, "buried": list(buried)}
        batch = read_batch(jsontext.dump(envelope)[:-1] + b',"events":[' + b",".join(bodies) + b"]}", GATEWAY)
        tally = self._ledger.ingest(SITE, batch.rows, batch.minted, clock.Instant(0, "cloud", 0), batch.buried)
        rejected = {one.index: one.reason for one in [*batch.rejected, *tally.conflicts]}
        return Answer(tally.accepted, tally.duplicates, rejected)

    def upload(self, sha256: str, content: bytes) -> None:
        """Take a picture, which nobody asks for."""

    def another(self) -> NearCloud:
        """Return itself: there is no connection."""
        return self

    def close(self) -> None:
        """End a connection that is none."""

    def refresh_token(self) -> bool:
        """Say that there is none."""
        return False


@dataclass(slots=True)
class Held:
    """What the cloud has: keys held, keys declared not to come, and each capture's content, as often as it is there."""

    keys: set[Key]
    declared: Mapping[tuple[str, str], list[RangeSet]]
    captures: list[Capture]

    def knows(self, key: Key) -> bool:
        """Whether the cloud has the event, or a word on why it does not come."""
        return key in self.keys or any(key[2] in ranges for ranges in self.declared.get(key[:2], ()))


class NearLine:
    """A device, a gateway with its sync worker, and a cloud, each with its folder below `home`; opened, then closed."""

    def __init__(self, home: Path) -> None:
        self.spool: Spool = open_spool(home / "device")
        self.store = Store(home / "gateway", "machine-1", 1 << 30)
        self.account = Progress(home / "gateway" / "sync.db")
        self._ledger = Ledger(home / "cloud" / "cloud.db")
        self._clock = _Clock()
        loaded = GatewaySettings.model_validate(
            {"gateway": GATEWAY, "state_dir": home / "gateway", "policies": [{"frames": "all"}]}
        )
        self._committer = committer(loaded, self.store, self._clock)
        sync = SyncSettings.model_validate(
            {
                "gateway": GATEWAY,
                "state_dir": home / "gateway",
                "cloud": {"url": "http://127.0.0.1", "token_file": home / "none"},
                "batch": {"max_rows": 8},
            }
        )
        link = Link(0.1, 1.0, lambda low, _high: low)
        self._drain = Drain(sync, self.account, NearCloud(self._ledger), link, self._clock)  # type: ignore[arg-type]
        self._cursor = 0

    def close(self) -> None:
        """Close every file."""
        self._drain.interrupt()
        self._drain.run()
        for part in (self.spool, self.store, self.account, self._ledger):
            part.close()

    # --- what moves

    def capture(self, chance: random.Random, count: int) -> list[Capture]:
        """Have the device keep so many captures and return them: they are promised."""
        entries = self.spool.admit([admission(chance) for _ in range(count)])
        bodies = [(entry, json.loads(entry.body)) for entry in entries]
        return [
            _capture(body if entry.blob is None else body | {"data": {"sha256": entry.blob}}) for entry, body in bodies
        ]

    def greet(self) -> None:
        """Have the device say who it is, and hear what the gateway has of it."""
        status = DeviceStatus(DEVICE, online=True, epoch=self.spool.epoch, minted=self.spool.minted()[self.spool.epoch])
        self._hear(self._committer.commit([status]).receipts)
        self._cursor = 0

    def send(self, count: int) -> bool:
        """Send the next events and settle their receipts; bury what cannot be sent. False: none was left."""
        entries = self.spool.read(self._cursor, count)
        batch = []
        for entry in entries:
            self._cursor = entry.position
            parcel = self.spool.parcel(entry)
            if parcel is None:
                self.spool.bury(entry, "the spool's copy is damaged")
            else:
                batch.append(_arrival(parcel.kind, parcel.channel, parcel.payload))
        if batch:
            self._hear(self._committer.commit(batch).receipts)
        return bool(entries)

    def drain(self, steps: int) -> bool:
        """Let the sync worker make so many steps; return whether it still had something to do."""
        for _ in range(steps):
            pause_s = self._drain.step(self._clock.uptime_s())
            self._clock.seconds += pause_s + 0.001
            if pause_s > 0 and self._drain.step(self._clock.uptime_s()) > 0:
                return False
        return True

    def purge(self) -> None:
        """Let the gateway drop what is settled."""
        self.store.purge(uplink=True, retention_s=0, retention_bytes=1, uptime_s=self._clock.uptime_s())

    def run_dry(self) -> None:
        """Go on until nothing moves any more."""
        self.greet()
        for _ in range(MAX_STEPS):
            if not self.send(50):
                break
        assert not self.send(1), "the spool never runs empty"
        assert not self.drain(MAX_STEPS), "the drain never ends"

    def _hear(self, receipts: Mapping[tuple[str, str], Any]) -> None:
        for (_, epoch), message in receipts.items():
            ranges = [(int(low), int(high)) for low, high in json.loads(message.payload)["ranges"]]
            if self.spool.is_ahead(epoch, ranges):
                self.spool.begin_epoch("a receipt is ahead of what was sent", ranges)
                self.greet()
            else:
                self.spool.settle(epoch, ranges)

    # --- what is true

    def minted(self) -> set[Key]:
        """Return every key that device and gateway have given out, by their own ledgers."""
        ledgers = {f"device/{DEVICE}": self.spool.minted(), f"gateway/{GATEWAY}": self.store.outbox.minted()}
        return {
            (origin, epoch, seq)
            for origin, epochs in ledgers.items()
            for epoch, last in epochs.items()
            for seq in range(1, last + 1)
        }

    def held(self) -> Held:
        """Return what the cloud has."""
        streams = self._ledger.streams(SITE)
        keys = {
            (stream.origin, stream.epoch, seq)
            for stream in streams
            for low, high in stream.held
            for seq in range(low, high + 1)
        }
        declared = {(stream.origin, stream.epoch): list(stream.declared.values()) for stream in streams}
        rows = self._ledger._connection.execute("SELECT body FROM event").fetchall()
        bodies = [json.loads(body) for (body,) in rows]
        return Held(keys, declared, [_capture(body) for body in bodies if _is_capture(body)])


def _is_capture(body: Mapping[str, Any]) -> bool:
    return body["type"] in (events.FRAME, events.READING)


def _capture(body: Mapping[str, Any]) -> Capture:
    """Return what tells a capture from all others, and its content: values, or a picture's digest."""
    data = body["data"]
    return body["uptimens"], data.get("sha256") or json.dumps(data)


def _arrival(kind: topics.Kind, channel: str | None, payload: bytes) -> Arrived:
    topic = topics.topic(topics.DEFAULT_PREFIX, kind, DEVICE, channel)
    found = admit(topics.DEFAULT_PREFIX, topic, payload, (), clock.SystemClock().now(), redelivered=False)
    assert isinstance(found, list)
    if kind is topics.Kind.FRAME:
        found[0].outcome = Future()
        found[0].outcome.set_result(Outcome([(Prediction("parts@1", "scratch", 0.97, defect=True), 0.8, 3.9)]))
    return found[0]


@dataclass(slots=True)
class _Clock:
    """Time that goes on when somebody pauses."""

    seconds: float = 100.0

    def now(self) -> clock.Instant:
        return clock.SystemClock().now()

    def uptime_s(self) -> float:
        return self.seconds
