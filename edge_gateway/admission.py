"""What a delivery is: an event with a key, a bare one that will get a key, a device's status, or malformed. No I/O."""

from __future__ import annotations

import re
from concurrent.futures import Future
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from edge_gateway.prediction import Prediction
from millrace import bare_readings, clock, events, images, jsontext, mending, plain_readings, topics
from millrace.events import MalformedEvent


@dataclass(slots=True)
class Outcome:
    """What the workers made of a frame: a prediction for each model that serves it, or why it cannot be one."""

    predictions: list[tuple[Prediction, float, float | None]] = field(default_factory=list)
    """(prediction, threshold, infer_ms) for each model; infer_ms is None where an equal picture was answered before."""
    malformed: str | None = None
    failed: bool = False
    """Whether that is for an engine that failed on it, not for what came."""


@dataclass(slots=True)
class Arrived:
    """One event on its way through the pipeline. `event` is None for a bare one: it gets its key with the commit."""

    topic: topics.Topic
    event: events.Event | None
    type: str
    digest: str
    instant: clock.Instant
    payload: bytes
    redelivered: bool = False
    bare_values: dict[str, Any] | None = None
    outcome: Future[Outcome] | None = None
    pack: int = 1
    """How many events came in the same message."""
    body: bytes | None = None
    """The event as it is kept, where that was made already."""
    reply: Future[list[dict[str, Any]]] | None = None
    """Who asked by HTTP gets the results' data here, once they are committed."""

    @property
    def device(self) -> str:
        """The device: the topic's, whatever the payload says."""
        return self.topic.owner

    @property
    def remembered_as(self) -> str:
        """What tells a repeat from news: for a bare event, which has no key, its topic's part in it too."""
        return self.digest if self.event is not None else f"{self.topic.kind.value}/{self.topic.channel} {self.digest}"

    def topic_text(self, prefix: str) -> str:
        """Return the topic that it came on."""
        return topics.topic(prefix, self.topic.kind, self.device, self.topic.channel)


@dataclass(frozen=True, slots=True)
class Malformed:
    """A message that cannot be believed; with `device` and `key`, its sender is told that it need not come again."""

    topic: str
    payload: bytes
    reason: str
    device: str | None = None
    key: events.Key | None = None


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """What a device said of itself; a device that is online wants to know what we have of its epoch."""

    device: str
    online: bool
    epoch: str | None
    minted: int
    met: tuple[str, mending.Tie] | None = None
    """Its boot, and how that one's uptime stands to ours."""
    held_epochs: frozenset[str] | None = None
    """Of which of its epochs it holds events; None where it does not say, or said it long ago."""
    older_minted: tuple[tuple[str, int], ...] = ()
    """Those of them that are not the present one, the oldest first, and how far it minted in each."""
    session: str | None = None
    """Which run of the agent says so; None where it does not say, or said it long ago."""
    said_ns: int | None = None
    """At which uptime of its own it said so."""
    ended: bool = False
    """It says that an agent has ended."""


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """What a gateway said of itself, we or another; `session` is None unless it is online."""

    gateway: str
    session: str | None
    said_ns: int
    """At which uptime of its own it said so."""


CLAIM_WITHIN_BYTES = 128 << 10
SESSION = re.compile(r"[A-Za-z0-9-]{1,64}\Z")


def claims_key(payload: bytes, properties: tuple[tuple[str, str], ...]) -> bool:
    """Say whether a message claims to have a key, so that its sender keeps it; cheap, for what is not decoded."""
    return payload.find(b'"specversion"', 0, CLAIM_WITHIN_BYTES) >= 0 or any(n == "specversion" for n, _ in properties)


def admit(
    prefix: str,
    topic_text: str,
    payload: bytes,
    properties: tuple[tuple[str, str], ...],
    now: clock.Instant,
    redelivered: bool,
) -> list[Arrived] | DeviceStatus | GatewayStatus:
    """Return the events of one delivery (SenML may hold several), or a device's or gateway's status.

    Errors: topics.BadTopic (refuse the name), MalformedEvent (quarantine; `key` where it could be read and fits).
    """
    topic = topics.parse(prefix, topic_text)
    if topic.kind is topics.Kind.DEVICE_STATUS:
        return _status(topic.owner, payload, now)
    if topic.kind is topics.Kind.GATEWAY_STATUS:
        value = _said(payload) if payload else {}
        online = value.get("state") == "online"
        session = _name(value.get("session")) if online else None
        return GatewayStatus(topic.owner, session, mending.uptime(value.get("uptimens")) or 0)
    type_ = events.TYPE_OF_KIND.get(topic.kind)
    if type_ is None:
        raise topics.BadTopic(topic_text, "a gateway does not take this kind")
    source = topics.device_source(prefix, topic.owner, topic.channel or "ledger")
    try:
        if topic.kind is topics.Kind.FRAME:
            return [_frame(source, topic, payload, properties, now, redelivered)]
        if topic.kind is topics.Kind.READING:
            if (plain := plain_readings.decode(payload)) is not None:
                event, digest = _believable(source, topic, plain[0], type_), plain[1]
                return [Arrived(topic, event, type_, digest, now, payload, redelivered, body=payload)]
            if not events.is_structured(payload):
                return _bare_readings(topic, payload, now, redelivered)
        event = _believable(source, topic, events.decode_json(payload, len(payload)), type_)
        body, digest = events.encode_and_digest(event)
    except MalformedEvent as error:
        if error.key is not None and error.key.source != source:
            raise MalformedEvent(str(error)) from None
        raise
    return [Arrived(topic, event, type_, digest, now, payload, redelivered, body=body)]


def _frame(
    source: str,
    topic: topics.Topic,
    payload: bytes,
    properties: tuple[tuple[str, str], ...],
    now: clock.Instant,
    redelivered: bool,
) -> Arrived:
    event = events.decode_frame(payload, properties)
    if event is not None:
        _believable(source, topic, event, events.FRAME)
    key = event.key if event is not None else None
    try:
        images.read_header(payload)
    except images.BadPicture as error:
        raise MalformedEvent(str(error), key) from None
    return Arrived(topic, event, events.FRAME, images.digest(payload), now, payload, redelivered)


def _believable(source: str, topic: topics.Topic, event: events.Event, type_: str) -> events.Event:
    """Return the event if it agrees with its topic, which means `source`: nobody publishes as another."""
    if event.key.source != source:
        raise MalformedEvent(f"source {event.key.source[:120]!r} contradicts its topic, which means {source!r}")
    if event.base is not None and event.base > event.key.seq:
        raise MalformedEvent(f"base {event.base} is above the event's own seq {event.key.seq}", event.key)
    if event.type != type_:
        raise MalformedEvent(f"type {event.type[:80]!r} on a topic for {type_!r}", event.key)
    if type_ == events.LEDGER and (event.data or {}).get("device") != topic.owner:
        raise MalformedEvent(f"a ledger record of {topic.owner} must name that device", event.key)
    return event


def _bare_readings(topic: topics.Topic, payload: bytes, now: clock.Instant, redelivered: bool) -> list[Arrived]:
    readings = bare_readings.parse(payload, len(payload), now_s=0.0)
    arrived = []
    whole = sha256(payload)
    for number, (time_s, values) in enumerate(readings):
        instant = now if time_s is None else _born(time_s, now)
        digest = whole.copy()
        digest.update(b"#%d" % number)
        arrived.append(
            Arrived(
                topic,
                None,
                events.READING,
                digest.hexdigest(),
                instant,
                payload,
                redelivered,
                bare_values=dict(values),
                pack=len(readings),
            )
        )
    return arrived


def _born(time_s: float, now: clock.Instant) -> clock.Instant:
    """Return the moment that a SenML time means: so far from now, or by the sender's own clock, which nothing mends."""
    ns = int(time_s * 1e9)
    if time_s >= bare_readings.ABSOLUTE_FROM_S:
        return clock.Instant(ns, "", 0)
    uptime_ns = now.uptime_ns + ns
    return clock.Instant(now.wall_ns + ns, now.boot_id if uptime_ns >= 0 else "", max(0, uptime_ns))


def _status(device: str, payload: bytes, now: clock.Instant) -> DeviceStatus:
    if not payload:  # somebody took a retained status back
        return DeviceStatus(device, online=False, epoch=None, minted=0)
    value = _said(payload)
    epoch, minted = value.get("epoch"), value.get("minted")
    held_epochs = _held_epochs(value.get("held_epochs"))
    older = value.get("older_minted")
    older_minted = older if isinstance(older, dict) else {}
    known = isinstance(epoch, str) and events.EPOCH.match(epoch) is not None
    return DeviceStatus(
        device,
        online=value.get("state") == "online",
        epoch=epoch if known else None,
        minted=_seq(minted),
        met=mending.met(value, now.boot_id, now.uptime_ns),
        held_epochs=None if held_epochs is None else frozenset(held_epochs),
        older_minted=tuple(
            (held, _seq(older_minted.get(held))) for held in reversed(held_epochs or []) if held != epoch
        ),
        session=_name(value.get("session")),
        said_ns=mending.uptime(value.get("uptimens")),
        ended=value.get("state") in ("offline", "lost"),
    )


def _said(payload: bytes) -> dict[str, Any]:
    try:
        value = jsontext.parse(payload, 65536)
    except jsontext.BadJson as error:
        raise MalformedEvent(f"status: {error}") from None
    if not isinstance(value, dict):
        raise MalformedEvent("status: must be a JSON object")
    return value


def _name(value: object) -> str | None:
    return value if isinstance(value, str) and SESSION.match(value) else None


def _seq(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= events.SEQ_MAX else 0


def _held_epochs(value: object) -> list[str] | None:
    if not isinstance(value, list):
        return None
    return [epoch for epoch in value if isinstance(epoch, str) and events.EPOCH.match(epoch)]
