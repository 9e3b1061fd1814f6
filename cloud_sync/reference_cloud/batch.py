"""A batch as a gateway sends it: which of its events may be stored, under which key, and what they declare; no I/O."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from millrace import events, jsontext, topics
from millrace.mending import Sighting, Tie

MAX_EVENTS = 10_000
MAX_SEQ = 10**18 - 1  # what an id can spell, and what a 64-bit column holds

_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode

Origin = Annotated[str, Field(pattern=r"^(device|gateway)/[a-z0-9-]{1,64}$")]
BootId = Annotated[str, Field(min_length=1, max_length=64)]
Uptime = Annotated[str, Field(pattern=r"^[0-9]{1,18}$")]
Epoch = Annotated[str, Field(pattern=r"^[a-z0-9]{8}$")]


class BadBatch(ValueError):
    """A body that is no batch at all: nothing of it was stored, and sending it again will not help."""


class _Unfit(ValueError):
    """One event that is refused while the others of its batch go on."""


class BlobRef(BaseModel):
    """What stands in a frame's `data`: the picture, which was uploaded before."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=1)]
    content_type: Annotated[str, Field(min_length=1, max_length=64)]


class _Buried(BaseModel):
    """An event that its gateway could not get stored here, and gave up."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    origin: Origin
    epoch: Epoch
    seq: Annotated[int, Field(ge=1, le=MAX_SEQ)]
    reason: Annotated[str, Field(max_length=500)]


class _Tie(BaseModel):
    """How a device's uptime stands to its gateway's: when it was `low[0]`, the other was `low[1]` or more.

    At `high[0]` it was `high[1]` at most.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    origin: Annotated[str, Field(pattern=r"^device/[a-z0-9-]{1,64}$")]
    bootid: BootId
    with_: Annotated[BootId, Field(alias="with")]
    low: Annotated[list[Uptime], Field(min_length=2, max_length=2)]
    high: Annotated[list[Uptime], Field(min_length=2, max_length=2)]


class _Envelope(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    batch: Annotated[str, Field(min_length=1, max_length=64)]
    events: Annotated[list[Any], Field(max_length=MAX_EVENTS)]
    minted: dict[Origin, dict[Epoch, Annotated[int, Field(ge=0, le=MAX_SEQ)]]] = {}
    buried: Annotated[list[_Buried], Field(max_length=MAX_EVENTS)] = []
    clock: dict[str, Any] = {}
    ties: Annotated[list[_Tie], Field(max_length=MAX_EVENTS)] = []


@dataclass(frozen=True, slots=True)
class Declared:
    """Seqs `first` to `last` of an origin's epoch do not arrive as themselves, or need not."""

    origin: str
    epoch: str
    first: int
    last: int
    disposition: events.Disposition


@dataclass(frozen=True, slots=True)
class Row:
    """An event that may be stored. `body` is its canonical JSON without `base`, and `digest` that text's SHA-256."""

    index: int
    origin: str
    epoch: str
    seq: int
    type: str
    base: str | None
    body: str
    digest: bytes
    blob: BlobRef | None
    declared: Declared | None


@dataclass(frozen=True, slots=True)
class Rejection:
    """An event that was not stored: its place in the batch, and why."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch taken apart. `minted` is how far each origin has minted; `buried` is what its gateway gave up."""

    id: str
    rows: list[Row]
    rejected: list[Rejection]
    minted: Mapping[str, Mapping[str, int]]
    buried: list[Declared]
    clock: Mapping[str, Any] = field(default_factory=dict)
    """What the sender says of its own clock, as it came."""
    met: list[Sighting] = field(default_factory=list)
    """Boots of devices that met one of the sender's."""


def read_batch(body: bytes, gateway: str) -> Batch:
    """Return the batch that `gateway` sent, the events that cannot be stored among the rejected; BadBatch if none."""
    try:
        envelope = _Envelope.model_validate(jsontext.parse(body, len(body)))
    except jsontext.BadJson as error:
        raise BadBatch(f"not JSON: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise BadBatch(f"{'.'.join(map(str, first['loc'])) or 'batch'}: {first['msg']}") from None
    for origin in [*envelope.minted, *(row.origin for row in envelope.buried)]:
        if origin.startswith("gateway/") and origin != f"gateway/{gateway}":
            raise BadBatch(f"minted or buried: {origin} is not the gateway of this credential ({gateway})")
    rows: list[Row] = []
    rejected: list[Rejection] = []
    for index, value in enumerate(envelope.events):
        try:
            rows.append(_row(index, value, gateway))
        except (_Unfit, events.MalformedEvent) as error:
            rejected.append(Rejection(index, str(error)))
    buried = [Declared(row.origin, row.epoch, row.seq, row.seq, "buried") for row in envelope.buried]
    met = [_sighting(tie, gateway) for tie in envelope.ties]
    return Batch(envelope.batch, rows, rejected, envelope.minted, buried, envelope.clock, met)


def _sighting(tie: _Tie, gateway: str) -> Sighting:
    low, high = (int(tie.low[0]), int(tie.low[1])), (int(tie.high[0]), int(tie.high[1]))
    return Sighting((tie.origin, tie.bootid), (f"gateway/{gateway}", tie.with_), Tie(low, high))


def _row(index: int, value: object, gateway: str) -> Row:
    if not isinstance(value, dict):
        raise _Unfit("an event is one JSON object")
    blob = None
    if value.get("type") == events.FRAME:
        blob = _blob_ref(value.get("data"))
        event = events.from_attributes({name: member for name, member in value.items() if name != "data"}, None)
    else:
        event = events.from_json(value)
    origin = _origin(event.key.source, gateway)
    declared = _declared(event, origin)
    kept = {name: member for name, member in value.items() if name != "base"}
    body = _canonical(kept)
    digest = hashlib.sha256(body.encode()).digest()
    key = event.key
    return Row(index, origin, key.epoch, key.seq, event.type, value.get("base"), body, digest, blob, declared)


def _blob_ref(data: object) -> BlobRef:
    try:
        return BlobRef.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(["data", *map(str, first["loc"])])
        raise _Unfit(f"{where}: {first['msg']}; a frame's data here is sha256, bytes and content_type") from None


def _origin(source: str, gateway: str) -> str:
    try:
        origin = topics.origin_of(source)
        topics.check_level(origin.split("/")[1])
    except ValueError as error:
        raise _Unfit(f"source: {error}") from None
    if origin.startswith("gateway/") and origin != f"gateway/{gateway}":
        raise _Unfit(f"source: {origin} is not the gateway of this credential ({gateway})")
    return origin


def _declared(event: events.Event, origin: str) -> Declared | None:
    if event.type == events.RESULT:
        return _answered(event, origin)
    if event.type == events.LEDGER:
        return _ledger_range(event, origin)
    return None


def _answered(event: events.Event, origin: str) -> Declared | None:
    """Return what a frame's result says of its subject: it was answered at the gateway and stays there by policy."""
    if origin.startswith("device/"):
        raise _Unfit("source: a result comes from a gateway")
    try:
        device, channel, event_id = (event.subject or "").split("/")
        topics.check_level(device)
        topics.check_level(channel)
        epoch, seq = events.parse_id(event_id)
    except ValueError:
        raise _Unfit(f"subject: {event.subject!r} is not {{device}}/{{channel}}/{{id}}") from None
    return None if events.is_of_window(event.data or {}) else Declared(f"device/{device}", epoch, seq, seq, "local")


def _ledger_range(event: events.Event, origin: str) -> Declared:
    data = events.LedgerData.model_validate(event.data)
    if (data.device is None) == (data.gateway is None):
        raise _Unfit("data: a ledger record names either a device or a gateway")
    about = f"device/{data.device}" if data.device is not None else f"gateway/{data.gateway}"
    try:
        topics.check_level(about.partition("/")[2])
    except ValueError as error:
        raise _Unfit(f"data: {error}") from None
    if about != origin and (origin.startswith("device/") or about.startswith("gateway/")):
        raise _Unfit(f"data: {origin} cannot account for {about}")
    if not data.first <= data.last <= MAX_SEQ:
        raise _Unfit(f"data: {data.first}..{data.last} is no range")
    return Declared(about, data.epoch, data.first, data.last, data.disposition)
