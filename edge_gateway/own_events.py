"""What the gateway says in its own name: results, alarms and ledger records, each a row before it is published."""

from __future__ import annotations

import logging
from typing import Any

from edge_gateway.settings import GatewaySettings
from edge_gateway.store import Store
from edge_gateway.work import Message, Work
from millrace import clock, events, topics
from millrace.entries import Draft, Lane

log = logging.getLogger(__name__)

ALARM_EVERY_S = 60.0


def result_message(prefix: str, device: str, channel: str, body: bytes) -> Message:
    """Return how a result is published."""
    return Message(topics.topic(prefix, topics.Kind.RESULT, device, channel), body, structured=True)


def repeated_result(prefix: str, body: bytes) -> Message:
    """Return how a result that was stored is published."""
    device, channel, _ = str(events.decode_json(body).subject).split("/")
    return result_message(prefix, device, channel, body)


def alarm_message(prefix: str, gateway: str, body: bytes) -> Message:
    """Return how an alarm is published."""
    return Message(topics.topic(prefix, topics.Kind.GATEWAY_ALARM, gateway), body, retain=True, structured=True)


class OwnEvents:
    """Mints and appends them inside the present transaction."""

    def __init__(self, settings: GatewaySettings, store: Store, time: clock.Clock) -> None:
        self._settings, self._store, self._clock = settings, store, time
        self._source = topics.gateway_source(settings.prefix, settings.gateway)
        self._alarmed_s: dict[tuple[str, str], float] = {}

    def result(
        self, device: str, channel: str, subject: str, data: dict[str, Any], work: Work, now: clock.Instant
    ) -> None:
        """Say what a model made of a frame."""
        body, work.done.last_position = self._say(Lane.RESULT, events.RESULT, data, subject, now)
        work.done.results.append(result_message(self._settings.prefix, device, channel, body))

    def alarm(self, name: str, device: str, text: str, work: Work, every_s: float = ALARM_EVERY_S) -> None:
        """Raise an alarm, unless the same was raised less than `every_s` ago; devices not known share theirs."""
        now_s, which = self._clock.uptime_s(), (name, device if self._store.epochs_of(device) else "")
        said_s = work.alarmed_s.get(which, self._alarmed_s.get(which, float("-inf")))
        if now_s - said_s < every_s:
            return
        log.error("alarm name=%s device=%s text=%r", name, device, text)
        work.alarmed_s[which] = now_s
        data = {"alarm": name, "device": device, "text": text}
        body, work.done.last_position = self._say(Lane.ALARM, events.ALARM, data, None, self._clock.now())
        work.done.results.append(alarm_message(self._settings.prefix, self._settings.gateway, body))

    def committed(self, work: Work) -> None:
        """Take note of the alarms that a transaction raised, now that it is committed."""
        self._alarmed_s.update(work.alarmed_s)

    def declare(self, work: Work) -> None:
        """Write one ledger record for each range that does not go up as itself."""
        now = self._clock.now()
        for (device, epoch, disposition, reason), ranges in work.declared.items():
            for first, last in ranges:
                self.record("device", device, epoch, first, last, disposition, reason, now)

    def record(
        self,
        kind: str,
        name: str,
        epoch: str,
        first: int,
        last: int,
        disposition: str,
        reason: str,
        now: clock.Instant,
    ) -> None:
        """Write a ledger record on a range of seqs of a `kind` ("device" or "gateway") of this name."""
        data = {
            kind: name,
            "epoch": epoch,
            "from": first,
            "to": last,
            "disposition": disposition,
            "reason": reason[:500],
        }
        self._say(Lane.RESULT, events.LEDGER, data, None, now)

    def _say(
        self, lane: Lane, type_: str, data: dict[str, Any], subject: str | None, now: clock.Instant
    ) -> tuple[bytes, int]:
        """Append an event of the gateway's own; return its body and position."""
        outbox = self._store.outbox
        key = events.Key(self._source, outbox.epoch, outbox.mint())
        body = events.encode_json(events.new_event(type_, key, now, data=data, subject=subject))
        entry = self._store.append([Draft(lane, key.epoch, key.seq, body)], self._clock.uptime_s())[0]
        return body, entry.position
