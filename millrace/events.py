"""Events on the wire: CloudEvents 1.0 with the key (source, id); encode, decode, and refuse what is malformed.

A frame is a plain picture with its attributes inside; every other event is one JSON object in structured mode. On
MQTT 5 the attributes are mirrored as user properties and content type, which is CloudEvents' binary mode.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from millrace import clock, images, jsontext, topics

FRAME = "io.millrace.frame.v1"
READING = "io.millrace.reading.v1"
WAVEFORM = "io.millrace.waveform.v1"
RESULT = "io.millrace.result.v1"
VERDICT = "io.millrace.verdict.v1"
ALARM = "io.millrace.alarm.v1"
LEDGER = "io.millrace.ledger.v1"
JSON_CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"

TYPE_OF_KIND = {
    topics.Kind.FRAME: FRAME,
    topics.Kind.READING: READING,
    topics.Kind.WAVEFORM: WAVEFORM,
    topics.Kind.DEVICE_LEDGER: LEDGER,
}
EPOCH = re.compile(r"[a-z0-9]{8}\Z")
SEQ_MAX = 10**18 - 1
_ID = re.compile(r"([a-z0-9]{8})-([1-9][0-9]{0,17})\Z")
_NAMES = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}\Z")

Scalar = float | int | str | bool
Disposition = Literal["lost", "shed", "buried", "aggregated", "local", "unproven"]


class MalformedEvent(ValueError):
    """An event that cannot be believed: quarantine it. `key` is set where the event's own key could be read."""

    def __init__(self, why: str, key: Key | None = None) -> None:
        super().__init__(why)
        self.key = key


@dataclass(frozen=True, slots=True)
class Key:
    """What makes an event itself: who sent it, in which epoch, and its number there."""

    source: str
    epoch: str
    seq: int

    @property
    def id(self) -> str:
        """The CloudEvents id."""
        return f"{self.epoch}-{self.seq}"


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class LedgerData(BaseModel):
    """A range of seqs that does not arrive as itself, and why."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, populate_by_name=True)

    device: Annotated[str, AfterValidator(topics.check_level)] | None = None
    gateway: Annotated[str, AfterValidator(topics.check_level)] | None = None
    epoch: Annotated[str, Field(pattern=r"^[a-z0-9]{8}$")]
    first: Annotated[int, Field(ge=1, le=SEQ_MAX, alias="from")]
    last: Annotated[int, Field(ge=1, le=SEQ_MAX, alias="to")]
    disposition: Disposition
    reason: Annotated[str, Field(max_length=500)]

    @model_validator(mode="after")
    def _right_way_round(self) -> Self:
        if self.first > self.last:
            raise ValueError(f"range {self.first}..{self.last} is the wrong way round")
        return self


class WaveformData(_Strict):
    """Equally spaced samples."""

    rate_hz: Annotated[float, Field(gt=0)]
    unit: Annotated[str, Field(max_length=32)]
    samples: Annotated[list[float], Field(min_length=1, max_length=1_000_000)]


class _Wire(_Strict):
    """The attributes that we write and read, all of them strings as CloudEvents' binary mode has them."""

    specversion: Literal["1.0"]
    type: Annotated[str, Field(min_length=1, max_length=128)]
    source: Annotated[str, Field(min_length=1, max_length=256)]
    id: str
    time: str
    bootid: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    uptimens: Annotated[str, Field(pattern=r"^[0-9]{1,18}$")] | None = None
    base: Annotated[str, Field(pattern=r"^[0-9]{1,18}$")] | None = None
    subject: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    truth: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    datacontenttype: Annotated[str, Field(min_length=1, max_length=64)] | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `data` is a JSON object, flat but for `detections`; None for a frame: its data is the picture itself.

    `base` is the lowest seq that the sender still holds. `truth` is what is really there, where a test source knows.
    """

    type: str
    key: Key
    time: str
    bootid: str | None = None
    uptimens: int | None = None
    base: int | None = None
    subject: str | None = None
    truth: str | None = None
    datacontenttype: str | None = None
    data: Mapping[str, Any] | None = None

    def attributes(self) -> dict[str, str]:
        """Return the CloudEvents attributes, all as strings, unset ones left out."""
        values = {
            "specversion": "1.0",
            "type": self.type,
            "source": self.key.source,
            "id": self.key.id,
            "time": self.time,
            "bootid": self.bootid,
            "uptimens": None if self.uptimens is None else str(self.uptimens),
            "base": None if self.base is None else str(self.base),
            "subject": self.subject,
            "truth": self.truth,
            "datacontenttype": self.datacontenttype,
        }
        return {name: value for name, value in values.items() if value is not None}

    def with_base(self, base: int) -> Event:
        """Return the event as sent while `base` is the lowest seq still held."""
        return replace(self, base=base)


def new_event(
    type_: str,
    key: Key,
    instant: clock.Instant,
    *,
    data: Mapping[str, Any] | None = None,
    subject: str | None = None,
    truth: str | None = None,
    datacontenttype: str = "application/json",
) -> Event:
    """Return an event born at `instant`; one without a boot id says no uptime."""
    return Event(
        type=type_,
        key=key,
        time=clock.rfc3339(instant.wall_ns),
        bootid=instant.boot_id or None,
        uptimens=instant.uptime_ns if instant.boot_id else None,
        subject=subject,
        truth=truth,
        datacontenttype=datacontenttype,
        data=data,
    )


def subject_of(device: str, channel: str, event_id: str) -> str:
    """Return the `subject` of a result, verdict or alarm that speaks of a device's event."""
    return f"{device}/{channel}/{event_id}"


def is_of_window(data: Mapping[str, Any]) -> bool:
    """Say whether a result with this data is of a window of readings.

    That one accounts for no event: readings go up, or are declared, as themselves. A frame's result does for its frame.
    """
    return "samples" in data


def parse_id(event_id: str) -> tuple[str, int]:
    """Return epoch and seq of an id; MalformedEvent if it is not `{epoch}-{seq}`."""
    match = _ID.match(event_id)
    if match is None:
        raise MalformedEvent(
            f"id {event_id[:40]!r} is not '{{8 characters}}-{{number}}';"
            " leave the attributes out and the gateway gives the event a key"
        )
    return match[1], int(match[2])


def encode_json(event: Event) -> bytes:
    """Return the event in CloudEvents' JSON structured mode."""
    return jsontext.dump({**event.attributes(), "data": event.data})


def encode_and_digest(event: Event) -> tuple[bytes, str]:
    """Return the event in JSON structured mode, and its digest, which leaves `base` out: that grows while it waits."""
    attributes, data = jsontext.dump(event.attributes()), jsontext.dump(event.data)
    body = b'%b,"data":%b}' % (attributes[:-1], data)
    if event.base is not None:  # no value can hold these bytes: its quotes are escaped
        attributes = attributes.replace(b',"base":"%d"' % event.base, b"", 1)
    return body, sha256(b"[%b,%b]" % (attributes, data)).hexdigest()


def encode_frame(event: Event, picture: bytes) -> bytes:
    """Return the picture (JPEG or PNG) with the event's attributes inside."""
    return images.embed(picture, jsontext.dump(event.attributes()))


def user_properties(event: Event) -> list[tuple[str, str]]:
    """Return the attributes as MQTT 5 user properties (`datacontenttype` travels as the content type)."""
    return [(name, value) for name, value in event.attributes().items() if name != "datacontenttype"]


def decode_json(payload: bytes, max_bytes: int = 1 << 20) -> Event:
    """Return the event of a structured-mode payload; MalformedEvent for anything else."""
    return from_json(_json_object(payload, max_bytes))


def from_json(value: Mapping[str, Any]) -> Event:
    """Return the event of an already parsed structured-mode object; MalformedEvent if it is none."""
    attributes = dict(value)
    data = attributes.pop("data", None)
    return from_attributes(attributes, data)


def decode_frame(payload: bytes, properties: Iterable[tuple[str, str]] = ()) -> Event | None:
    """Return the event of a picture, or None for a bare one, which gets its key from the gateway.

    The attributes inside the picture count; without any, those of MQTT 5's user properties.
    """
    inside = images.extract(payload)
    if inside is not None:
        return from_attributes(_json_object(inside, images.MAX_ATTRIBUTES_BYTES), None)
    mirrored = dict(properties)
    return from_attributes(mirrored, None) if "specversion" in mirrored else None


def from_attributes(attributes: Mapping[str, Any], data: object) -> Event:
    """Return the event of its attributes and data, each checked; MalformedEvent says what is wrong."""
    try:
        wire = _Wire.model_validate(attributes if isinstance(attributes, dict) else dict(attributes))
    except ValidationError as error:
        raise MalformedEvent(_first_problem(error), _readable_key(attributes)) from None
    epoch, seq = parse_id(wire.id)
    key = Key(wire.source, epoch, seq)
    try:
        clock.parse_rfc3339(wire.time)
        checked = check_data(wire.type, data)
    except ValueError as error:
        raise MalformedEvent(str(error), key) from None
    return Event(
        type=wire.type,
        key=key,
        time=wire.time,
        bootid=wire.bootid,
        uptimens=None if wire.uptimens is None else int(wire.uptimens),
        base=None if wire.base is None else int(wire.base),
        subject=wire.subject,
        truth=wire.truth,
        datacontenttype=wire.datacontenttype,
        data=checked,
    )


def check_data(type_: str, data: object) -> Mapping[str, Any] | None:
    """Return `data` if it is what `type_` carries; ValueError says what is wrong."""
    if type_ == FRAME:
        if data is not None:
            raise ValueError("a frame's data is the picture itself")
        return None
    if not isinstance(data, dict):
        raise ValueError("data must be a JSON object")
    try:
        if type_ == LEDGER:
            LedgerData.model_validate(data)
            if not {"from", "to"} <= data.keys():
                raise ValueError('data: a range is written "from" and "to"')
        elif type_ == WAVEFORM:
            WaveformData.model_validate(data)
        elif type_ == READING:
            check_reading(data)
    except ValidationError as error:
        raise ValueError(f"data: {_first_problem(error)}") from None
    return data


def check_reading(values: Mapping[str, Any]) -> Mapping[str, Scalar]:
    """Return flat readings (1 to 256 names; finite numbers, booleans, strings up to 256 characters) or ValueError."""
    if not 1 <= len(values) <= 256:
        raise ValueError(f"a reading has 1 to 256 values, not {len(values)}")
    for name, value in values.items():
        if not _NAMES.match(name):
            raise ValueError(f"value name {name[:40]!r} must be a letter, then letters, digits, '_', '.', ':', '-'")
        if not _is_scalar(value):
            raise ValueError(f"value of {name!r} must be a finite number, a boolean or a short string")
    return values


def _is_scalar(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= 256
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and abs(value) < 10**jsontext.MAX_INTEGER_DIGITS


def is_structured(payload: bytes) -> bool:
    """Say whether a JSON payload claims to be a CloudEvent."""
    return payload.lstrip()[:1] == b"{" and b'"specversion"' in payload


def _json_object(payload: bytes, max_bytes: int) -> dict[str, Any]:
    try:
        value = jsontext.parse(payload, max_bytes)
    except jsontext.BadJson as error:
        raise MalformedEvent(str(error)) from None
    if not isinstance(value, dict):
        raise MalformedEvent("an event is one JSON object")
    return value


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:80] or "event"
    return f"{where}: {first['msg']}"


def _readable_key(attributes: Mapping[str, Any]) -> Key | None:
    source, event_id = attributes.get("source"), attributes.get("id")
    if isinstance(source, str) and isinstance(event_id, str) and (match := _ID.match(event_id)):
        return Key(source[:256], match[1], int(match[2]))
    return None
