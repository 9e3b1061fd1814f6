"""An admission becomes a row of the queue, and a row a parcel as it travels; nothing is read or written here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from millrace import events, jsontext, topics
from millrace.clock import Instant
from millrace.entries import Draft, Entry, Lane

KIND_OF_TYPE = {type_: kind for kind, type_ in events.TYPE_OF_KIND.items()}


@dataclass(frozen=True, slots=True)
class Admission:
    """What the gate let through, encoded and ready to be kept: `picture` for a frame, `data` for all else."""

    channel: str
    type: str
    instant: Instant
    data: dict[str, object] | None = None
    picture: bytes | None = None
    content_type: str = "application/json"
    truth: str | None = None

    @property
    def size_bytes(self) -> int:
        """What it will take on the disk, roughly."""
        return len(self.picture) if self.picture is not None else 400


@dataclass(frozen=True, slots=True)
class Parcel:
    """An entry as it travels: the topic's kind and channel, the payload, and the event for MQTT 5's mirror."""

    entry: Entry
    kind: topics.Kind
    channel: str | None
    payload: bytes
    event: events.Event


class Packer:
    """Makes the rows of one device."""

    def __init__(self, prefix: str, device: str) -> None:
        self._prefix, self._device = prefix, device

    def draft(self, admission: Admission, epoch: str, seq: int) -> Draft:
        """Return an admission as a row under this key; its picture's digest is that of all its bytes."""
        key = events.Key(topics.device_source(self._prefix, self._device, admission.channel), epoch, seq)
        event = events.new_event(
            admission.type,
            key,
            admission.instant,
            data=admission.data,
            truth=admission.truth,
            datacontenttype=admission.content_type,
        )
        body = events.encode_json(event)
        if admission.picture is None:
            return Draft(Lane.BULK, epoch, seq, body)
        return Draft(Lane.FRAME, epoch, seq, body, digest_of(admission.picture), len(admission.picture))

    def record(self, lost: tuple[str, int, int], disposition: str, reason: str, instant: Instant) -> Admission:
        """Return the ledger record that accounts for seqs of an epoch of this device: (epoch, first, last)."""
        epoch, first, last = lost
        data: dict[str, object] = {
            "device": self._device,
            "epoch": epoch,
            "from": first,
            "to": last,
            "disposition": disposition,
            "reason": reason,
        }
        return Admission("ledger", events.LEDGER, instant, data)


def digest_of(picture: bytes) -> str:
    """Return the name under which a picture is kept."""
    return hashlib.sha256(picture).hexdigest()


def event_of(entry: Entry) -> events.Event:
    """Return the event that a row holds. Errors: events.MalformedEvent."""
    return events.decode_json(entry.body, len(entry.body))


def kind_of(entry: Entry) -> tuple[topics.Kind, str]:
    """Return kind and channel; what cannot be read counts as what no policy gives up: it is buried when sent."""
    try:
        event = event_of(entry)
        return KIND_OF_TYPE[event.type], _channel(event)
    except (events.MalformedEvent, KeyError):
        return topics.Kind.DEVICE_LEDGER, ""


def parcel(entry: Entry, event: events.Event, picture: bytes | None) -> Parcel:
    """Return an entry as it travels; `picture` is that of a row that speaks of one."""
    kind = KIND_OF_TYPE[event.type]
    if picture is not None:
        return Parcel(entry, kind, _channel(event), events.encode_frame(event, picture), event)
    channel = None if kind is topics.Kind.DEVICE_LEDGER else _channel(event)
    return Parcel(entry, kind, channel, events.encode_json(event), event)


def rekeyed(entry: Entry, epoch: str, seq: int) -> Draft:
    """Return a row's event under another key."""
    body: dict[str, object] = jsontext.parse(entry.body, len(entry.body))  # type: ignore[assignment]
    body["id"] = f"{epoch}-{seq}"
    return Draft(entry.lane, epoch, seq, jsontext.dump(body), entry.blob)


def _channel(event: events.Event) -> str:
    return event.key.source.rsplit("/", 1)[1]
