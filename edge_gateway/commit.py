"""Accepting: a batch of finished arrivals becomes rows, watermarks and answers in one transaction, or nothing.

What it returns is to be published only after it returned: results first, then receipts, then the acknowledgements.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from edge_gateway.admission import Arrived, DeviceStatus, GatewayStatus, Malformed, Outcome
from edge_gateway.company import Gateways, Twins
from edge_gateway.metrics import Metrics
from edge_gateway.overflow import Overflow
from edge_gateway.register import Crowded, Register
from edge_gateway.relearn import relearn, unproven
from edge_gateway.router import Decision, decide, frame_goes
from edge_gateway.settings import GatewaySettings
from edge_gateway.shares import Shares
from edge_gateway.sheds import Sheds, Why
from edge_gateway.store import Answer, Store
from edge_gateway.streams import Stream
from millrace import clock, crashpoints, events, images, jsontext, topics
from millrace.blobs import StorageFailed
from millrace.entries import Draft, Lane
from millrace.mending import Sighting
from millrace.ranges import RangeSet

log = logging.getLogger(__name__)

RECENT_DIGESTS = 32
ALARM_EVERY_S = 60.0
TWINS_ALARM_EVERY_S = 3600.0
KEEP_RESULT_DROP_FRAME = "keep_result_drop_frame: the store is above store.high_water_ratio"
Finished = Arrived | Malformed | DeviceStatus | GatewayStatus


@dataclass(frozen=True, slots=True)
class Message:
    """What is to be published."""

    topic: str
    payload: bytes
    retain: bool = False
    structured: bool = False


@dataclass(slots=True)
class Committed:
    """What a transaction made true, and who is to hear of it."""

    results: list[Message] = field(default_factory=list)
    receipts: dict[tuple[str, str], Message] = field(default_factory=dict)
    replies: list[tuple[Arrived, list[dict[str, Any]] | NotAnswered]] = field(default_factory=list)
    last_position: int = 0
    """Up to where results and alarms are published once `results` are."""


class Committer:
    """Owns the store. Used by the one thread that writes."""

    def __init__(
        self,
        settings: GatewaySettings,
        store: Store,
        metrics: Metrics,
        time: clock.Clock,
        *,
        register: Register | None = None,
        shares: Shares[Any] | None = None,
        sheds: Sheds | None = None,
        twins: Twins | None = None,
        gateways: Gateways | None = None,
    ) -> None:
        """`shares` says how much each device may have under way, all of it by default."""
        self._settings, self._store, self._metrics, self._clock = settings, store, metrics, time
        self._register = register or Register(store, settings.limits)
        self._shares, self._sheds = shares, sheds or Sheds()
        self._twins, self._gateways = twins or Twins(), gateways or Gateways(settings.gateway, "")
        self._source = topics.gateway_source(settings.prefix, settings.gateway)
        self._alarmed_s: dict[tuple[str, str], float] = {}
        self._withheld: set[tuple[str, str]] = set()
        self._overflow = Overflow(settings, store)
        self._account_for_doubt()

    def commit(self, batch: Sequence[Finished]) -> Committed:
        """Accept the batch; StorageFailed if the disk refuses: then nothing of it happened, try again."""
        work = _Work(Committed())
        try:
            with self._store.outbox.transaction():
                for item in batch:
                    self._take(item, work)
                sheds = self._own_up(work)
                self._declare(work)
                for stream in work.touched.values():
                    self._store.save_stream(stream)
                self._store.save_published()
        except StorageFailed:
            self._store.reload_streams()
            self._metrics.storage_failures.inc()
            raise
        crashpoints.reached("gateway.committed")
        if sheds:
            self._sheds.said(sheds, self._clock.uptime_s())
        for (device, reason), number in work.shed.items():
            self._sheds.add(device, reason, number)
        self._alarmed_s.update(work.alarmed_s)
        self._metrics.commits.inc()
        for count in work.counts:
            count()
        for (device, epoch), owed in work.owed.items():
            work.done.receipts[device, epoch] = self._receipt(device, epoch, owed)
        return work.done

    def make_room(self) -> int:
        """Above high water let go of unsent rows as overflow policies say; return how many. Errors: StorageFailed."""
        if not self._overflow.excess_bytes:
            return 0
        work = _Work(Committed())
        with self._store.outbox.transaction():
            gone = self._overflow.shed(work.declare)
            self._declare(work)
        if gone:
            self._metrics.overflowed.inc(gone)
            log.warning("rows_shed count=%d held_bytes=%d", gone, self._store.outbox.held_bytes)
        return gone

    @property
    def has_sheds(self) -> bool:
        """Whether a commit is due, even of an empty batch, to say what was given up."""
        return self._sheds.due(self._clock.uptime_s())

    def _account_for_doubt(self) -> None:
        """After damage or loss, write ledger records for all that was accepted or minted and is not proven."""
        outbox = self._store.outbox
        doubt = outbox.doubt()
        if doubt is None:
            return
        now, reason = self._clock.now(), doubt.why[:400]
        try:
            with outbox.transaction():
                accounted = relearn(self._store)
                lost = [("device", *found) for found in unproven(self._store, doubt, accounted)]
                lost += [("gateway", self._settings.gateway, *found) for found in outbox.unproven(doubt)]
                for kind, name, epoch, first, last in lost:
                    data = {
                        kind: name,
                        "epoch": epoch,
                        "from": first,
                        "to": last,
                        "disposition": "unproven",
                        "reason": reason,
                    }
                    self._say(Lane.RESULT, events.LEDGER, data, None, now)
                outbox.resolve()
        except StorageFailed:
            self._store.reload_streams()
            raise

    def reopened(self) -> list[Message]:
        """Return the receipts with which devices that were held back learn that there is room again, once."""
        if self._store.full or not self._withheld:
            return []
        told, self._withheld = self._withheld, set()
        return [self._receipt(device, epoch, self._store.stream(device, epoch)) for device, epoch in sorted(told)]

    def _receipt(self, device: str, epoch: str, stream: Stream | None) -> Message:
        now = self._clock.now()
        value = {
            "gateway": self._settings.gateway,
            "epoch": epoch,
            "ranges": stream.receipt_ranges() if stream else [],
            "window_bytes": self._window_bytes(device),
            "bootid": now.boot_id,
            "uptimens": str(now.uptime_ns),
        }
        return Message(topics.topic(self._settings.prefix, topics.Kind.RECEIPT, device), jsontext.dump(value))

    def _window_bytes(self, device: str) -> int:
        if self._store.full:
            return 0
        if self._shares is None:
            return self._settings.limits.window_bytes
        return self._shares.window_bytes(device, self._clock.uptime_s())

    def _take(self, item: Finished, work: _Work) -> None:
        if isinstance(item, Malformed):
            self._quarantine(item, work)
            return
        if isinstance(item, GatewayStatus):
            self._hear_gateway(item, work)
            return
        try:
            if isinstance(item, DeviceStatus):
                self._greet(item, work)
            elif item.event is not None:
                self._take_keyed(item, item.event, work)
            else:
                self._take_bare(item, work)
        except Crowded as error:
            work.counts.append(self._metrics.crowded.inc)
            self._alarm(error.name, item.device, str(error), work)
            if isinstance(item, Arrived):
                work.done.replies.append((item, NotAnswered(str(error))))

    def _stream(self, device: str, epoch: str, work: _Work) -> Stream:
        """Return the stream of an epoch, to be saved with the transaction. Errors: Crowded."""
        return work.touch(self._register.stream(device, epoch, self._clock.uptime_s(), work.declare))

    def _scatters(self, stream: Stream, first: int, last: int) -> bool:
        """Whether a range would be one too many ahead of a hole."""
        return len(stream.ahead) >= self._settings.limits.ahead_ranges and stream.scatters(first, last)

    # --- who comes

    def _greet(self, status: DeviceStatus, work: _Work) -> None:
        if not self._register.admits(status.device):
            return
        if status.met is not None:
            boot_id, tie = status.met
            ours = (f"gateway/{self._settings.gateway}", self._clock.now().boot_id)
            self._store.note_sighting(Sighting((f"device/{status.device}", boot_id), ours, tie))
        self._tell_apart(status, work)
        if status.epoch is None:
            return
        if status.minted:
            self._stream(status.device, status.epoch, work)
            self._store.outbox.note_minted(f"device/{status.device}", status.epoch, status.minted)
        if status.online:
            work.owed[status.device, status.epoch] = self._store.stream(status.device, status.epoch)
        if status.online and status.held_epochs is not None:
            self._close_epochs(status, status.held_epochs | {status.epoch, self._store.outbox.epoch}, work)

    def _tell_apart(self, status: DeviceStatus, work: _Work) -> None:
        """Say it when two agents run under one name."""
        device, now_s = status.device, self._clock.uptime_s()
        if status.ended:
            self._twins.ended(device)
        if not status.online or None in (status.session, status.epoch, status.said_ns):
            return
        self._twins.heard(device, str(status.session), str(status.epoch), status.said_ns or 0, now_s)
        twins = self._twins.of(device, now_s)
        if twins:
            both = " and ".join(f"session {session} (epoch {epoch})" for session, epoch in twins.items())
            text = f"two agents run as {device}: {both}; nothing is lost; stop one, or give it another name (device:)"
            self._alarm("two_agents", device, text, work, TWINS_ALARM_EVERY_S)

    def _hear_gateway(self, status: GatewayStatus, work: _Work) -> None:
        now_s, name = self._clock.uptime_s(), status.gateway
        if self._gateways.heard(name, status.session, status.said_ns, now_s):
            log.warning("gateway_beside gateway=%s: both store and answer all that devices send", name)
        namesake = self._gateways.namesake(now_s)
        if namesake and name == self._gateways.name:
            text = (
                f"another gateway under this name: session {namesake} speaks as {name} beside {self._gateways.session};"
                " nothing is lost; stop one, or give it another name (gateway:)"
            )
            self._alarm("another_gateway", name, text, work, TWINS_ALARM_EVERY_S)

    def _close_epochs(self, status: DeviceStatus, held: frozenset[str], work: _Work) -> None:
        """Declare what is owed of epochs that a device has left and holds nothing of: it should not come any more."""
        device = status.device
        for stream in self._store.epochs_of(device):
            if stream.epoch in held or self._twins.may_live(
                device, stream.epoch, status.session, self._clock.uptime_s()
            ):
                continue
            for first, last in stream.gaps_below(self._store.minted_of(stream) + 1):
                work.declare(device, stream.epoch, first, last, "unproven", "the device holds nothing of this epoch")
                work.touch(stream).declare(first, last)

    def _take_keyed(self, item: Arrived, event: events.Event, work: _Work) -> None:
        epoch, seq = event.key.epoch, event.key.seq
        stream = self._stream(item.device, epoch, work)
        work.owed[item.device, epoch] = stream
        if stream.took(seq):
            self._repeat(item, stream, seq, work)
            return
        if self._store.full:
            work.counts.append(self._metrics.withheld.labels(item.device).inc)
            self._withheld.add((item.device, epoch))
            work.done.replies.append((item, NotAnswered("the gateway is full")))
            return
        for first, last in stream.gaps_below(event.base or 0):
            work.declare(item.device, epoch, first, last, "unproven", "below the lowest seq that the device still held")
            stream.declare(first, last)
        if self._scatters(stream, seq, seq):
            work.counts.append(self._metrics.withheld.labels(item.device).inc)
            work.done.replies.append((item, NotAnswered("too many holes before it")))
            return
        self._accept(item, event, stream, work)

    def _take_bare(self, item: Arrived, work: _Work) -> None:
        epoch = self._store.outbox.epoch
        stream = self._stream(item.device, epoch, work)
        if item.redelivered:
            seq = self._store.recent_digests(stream, RECENT_DIGESTS + item.pack).get(_remembered_as(item))
            if seq is not None:
                self._repeat(item, stream, seq, work)
                return
        seq = stream.highest() + 1
        if self._store.full:
            work.shed[item.device, "the gateway is full and the device keeps nothing"] += 1
            work.counts.append(self._metrics.shed.inc)
            work.done.replies.append((item, NotAnswered("the gateway is full")))
            return
        source = topics.device_source(self._settings.prefix, item.device, str(item.topic.channel))
        content_type = (
            "application/json" if item.type != events.FRAME else images.read_header(item.payload).content_type
        )
        event = events.new_event(
            item.type,
            events.Key(source, epoch, seq),
            item.instant,
            data=item.bare_values,
            datacontenttype=content_type,
        )
        self._accept(item, event, stream, work)

    def _repeat(self, item: Arrived, stream: Stream, seq: int, work: _Work) -> None:
        """Answer a duplicate with what was stored for it."""
        work.counts.append(self._metrics.duplicates.labels(item.device).inc)
        answer = self._store.recall(stream, seq)
        if answer is None:
            work.done.replies.append((item, NotAnswered("answered long ago")))
            return
        if answer.digest != _remembered_as(item):
            work.counts.append(self._metrics.conflicts.inc)
            text = f"{item.device} sent {stream.epoch}-{seq} again with another content; the first is kept"
            self._alarm("key_conflict", item.device, text, work)
            self._store.quarantine(
                self._topic_text(item), text, item.payload, item.instant.wall_ns, self._settings.store.quarantine_rows
            )
        bodies = [entry.body for entry in self._store.results_of(answer)]
        work.done.results += [self.result_message(item.device, str(item.topic.channel), body) for body in bodies]
        work.done.replies.append((item, [dict(events.decode_json(body).data or {}) for body in bodies]))

    # --- what it becomes

    def _accept(self, item: Arrived, event: events.Event, stream: Stream, work: _Work) -> None:
        stream.account(event.key.seq, event.key.seq)
        work.counts.append(self._metrics.received.labels(item.device, item.topic.kind.value).inc)
        if item.type == events.FRAME:
            self._accept_frame(item, event, stream, work)
            return
        if item.type == events.LEDGER:
            self._accept_ledger(item, event, work)
            lane = Lane.RESULT
        elif self._settings.policy(item.device, str(item.topic.channel)).readings == "all":
            lane = Lane.BULK
        else:
            lane = Lane.LOCAL
            work.declare(item.device, stream.epoch, event.key.seq, event.key.seq, "local", "readings: none")
        position = self._append(lane, event)
        self._store.remember(stream, event.key.seq, Answer(position, 0, _remembered_as(item)))
        work.done.replies.append((item, []))

    def _accept_ledger(self, item: Arrived, event: events.Event, work: _Work) -> None:
        record = events.LedgerData.model_validate(event.data)
        try:
            spoken_of = self._stream(item.device, record.epoch, work)
        except Crowded as error:  # the record itself stands: it goes to the cloud
            self._alarm(error.name, item.device, str(error), work)
            return
        if not self._scatters(spoken_of, record.first, record.last):
            account = spoken_of.declare if record.disposition == "unproven" else spoken_of.account
            account(record.first, record.last)
        work.owed[item.device, record.epoch] = spoken_of

    def _accept_frame(self, item: Arrived, event: events.Event, stream: Stream, work: _Work) -> None:
        key, channel = event.key, str(item.topic.channel)
        outcome = item.outcome.result() if item.outcome is not None else Outcome()
        if outcome.malformed is not None:
            self._quarantine(Malformed(self._topic_text(item), item.payload, outcome.malformed), work)
            work.declare(item.device, key.epoch, key.seq, key.seq, "buried", outcome.malformed)
            self._store.remember(stream, key.seq, Answer(0, 0, _remembered_as(item)))
            work.done.replies.append((item, NotAnswered(outcome.malformed)))
            return
        policy = self._settings.policy(item.device, channel)
        decisions = [decide(prediction.score, limit, policy) for prediction, limit, _ in outcome.predictions]
        defect = any(prediction.defect for prediction, _, _ in outcome.predictions)
        datas = self._results(item, event, outcome, decisions, work)
        first = self._store.outbox.next_position - len(datas)
        goes_up = frame_goes(policy.frames, decisions, defect, key.id, policy.sample_ratio)
        kept = frame_goes(policy.keep_frames, decisions, defect, key.id, policy.sample_ratio)
        drops = policy.overflow.frame == "keep_result_drop_frame"
        if drops and datas and (goes_up or kept) and self._store.above(self._settings.store.high_water_ratio):
            if goes_up:
                work.declare(item.device, key.epoch, key.seq, key.seq, "shed", KEEP_RESULT_DROP_FRAME)
            work.counts.append(self._metrics.frames_dropped.inc)
            goes_up = kept = False
        if goes_up or kept:
            picture = images.bare(item.payload)
            self._store.outbox.put_pictures({item.digest: picture})
            self._append(Lane.FRAME if goes_up else Lane.LOCAL, event, item.digest, len(picture))
        if not goes_up and not datas:
            disposition, reason = ("local", "no model serves it") if kept else ("shed", "no model serves it")
            work.declare(item.device, key.epoch, key.seq, key.seq, disposition, reason)
            if disposition == "shed":
                work.counts.append(self._metrics.shed.inc)
        self._store.remember(stream, key.seq, Answer(first, len(datas), _remembered_as(item)))
        work.done.replies.append((item, datas))

    def _results(
        self, item: Arrived, event: events.Event, outcome: Outcome, decisions: Sequence[Decision], work: _Work
    ) -> list[dict[str, Any]]:
        now = self._clock.now()
        total_ms = (now.uptime_ns - item.instant.uptime_ns) / 1e6
        subject = events.subject_of(item.device, str(item.topic.channel), event.key.id)
        datas = []
        for (prediction, _, infer_ms), decision in zip(outcome.predictions, decisions, strict=True):
            data: dict[str, Any] = {
                "label": prediction.label,
                "score": round(prediction.score, 4),
                "defect": prediction.defect,
                "model": prediction.model,
                "decision": decision.decision,
                "reason": decision.reason,
                "infer_ms": round(infer_ms, 2),
                "total_ms": round(total_ms, 2),
                "frame_time": event.time,
            }
            if event.truth is not None:
                data["truth"] = event.truth
            body, position = self._say(Lane.RESULT, events.RESULT, data, subject, now)
            work.done.results.append(self.result_message(item.device, str(item.topic.channel), body))
            work.done.last_position = position
            work.counts.append(self._metrics.routed.labels(decision.decision).inc)
            work.counts.append(partial(self._metrics.inference.labels(prediction.model).observe, infer_ms / 1000))
            datas.append(data)
        if datas:
            work.counts.append(partial(self._metrics.answer.observe, total_ms / 1000))
        return datas

    def _quarantine(self, bad: Malformed, work: _Work) -> None:
        work.counts.append(self._metrics.quarantined.inc)
        log.warning("event_quarantined topic=%s reason=%r bytes=%d", bad.topic, bad.reason, len(bad.payload))
        self._store.quarantine(
            bad.topic, bad.reason, bad.payload, self._clock.now().wall_ns, self._settings.store.quarantine_rows
        )
        if bad.device is None or bad.key is None:
            return
        try:
            stream = self._stream(bad.device, bad.key.epoch, work)
        except Crowded as error:
            self._alarm(error.name, bad.device, str(error), work)
            return
        work.owed[bad.device, bad.key.epoch] = stream
        if not stream.has(bad.key.seq) and not self._scatters(stream, bad.key.seq, bad.key.seq):
            stream.account(bad.key.seq, bad.key.seq)
            work.declare(bad.device, bad.key.epoch, bad.key.seq, bad.key.seq, "buried", bad.reason)

    def _declare(self, work: _Work) -> None:
        """Write one ledger record for each range that does not go up as itself."""
        now = self._clock.now()
        for (device, epoch, disposition, reason), ranges in work.declared.items():
            for first, last in ranges:
                data = {
                    "device": device,
                    "epoch": epoch,
                    "from": first,
                    "to": last,
                    "disposition": disposition,
                    "reason": reason[:500],
                }
                self._say(Lane.RESULT, events.LEDGER, data, None, now)

    def _own_up(self, work: _Work) -> dict[Why, int]:
        """Give numbers to what was given up, and declare them, once a second; return what this speaks of."""
        if not self._sheds.due(self._clock.uptime_s()):
            return {}
        counts = self._sheds.pending()
        epoch = self._store.outbox.epoch
        for (device, reason), count in counts.items():
            try:
                stream = self._stream(device, epoch, work)
            except Crowded:
                continue  # counted; there is no room to number it
            first = stream.highest() + 1
            stream.account(first, first + count - 1)
            work.declare(device, epoch, first, first + count - 1, "shed", reason)
        return counts

    def _alarm(self, name: str, device: str, text: str, work: _Work, every_s: float = ALARM_EVERY_S) -> None:
        now_s, which = self._clock.uptime_s(), (name, device if self._store.epochs_of(device) else "")
        said_s = work.alarmed_s.get(which, self._alarmed_s.get(which, float("-inf")))
        if now_s - said_s < every_s:
            return
        log.error("alarm name=%s device=%s text=%r", name, device, text)
        work.alarmed_s[which] = now_s
        data = {"alarm": name, "device": device, "text": text}
        body, work.done.last_position = self._say(Lane.ALARM, events.ALARM, data, None, self._clock.now())
        work.done.results.append(self.alarm_message(body))

    def _say(
        self, lane: Lane, type_: str, data: dict[str, Any], subject: str | None, now: clock.Instant
    ) -> tuple[bytes, int]:
        """Append an event of the gateway's own; return its body and position."""
        outbox = self._store.outbox
        key = events.Key(self._source, outbox.epoch, outbox.mint())
        body = events.encode_json(events.new_event(type_, key, now, data=data, subject=subject))
        entry = self._store.append([Draft(lane, key.epoch, key.seq, body)], self._clock.uptime_s())[0]
        return body, entry.position

    def result_message(self, device: str, channel: str, body: bytes) -> Message:
        """Return how a result is published."""
        return Message(topics.topic(self._settings.prefix, topics.Kind.RESULT, device, channel), body, structured=True)

    def alarm_message(self, body: bytes) -> Message:
        """Return how an alarm is published."""
        topic = topics.topic(self._settings.prefix, topics.Kind.GATEWAY_ALARM, self._settings.gateway)
        return Message(topic, body, retain=True, structured=True)

    def _topic_text(self, item: Arrived) -> str:
        return topics.topic(self._settings.prefix, item.topic.kind, item.device, item.topic.channel)

    def _append(self, lane: Lane, event: events.Event, blob: str | None = None, blob_bytes: int = 0) -> int:
        """Append a device's event; return its position."""
        body = events.encode_json(event)
        draft = Draft(lane, event.key.epoch, event.key.seq, body, blob, blob_bytes)
        return self._store.append([draft], self._clock.uptime_s())[0].position


class NotAnswered(Exception):
    """Who asked by HTTP gets no answer, and why."""


@dataclass(slots=True)
class _Work:
    """What one transaction has touched so far."""

    done: Committed
    touched: dict[int, Stream] = field(default_factory=dict)
    owed: dict[tuple[str, str], Stream | None] = field(default_factory=dict)
    declared: dict[tuple[str, str, str, str], RangeSet] = field(default_factory=dict)
    shed: Counter[Why] = field(default_factory=Counter)
    counts: list[Callable[[], None]] = field(default_factory=list)
    alarmed_s: dict[tuple[str, str], float] = field(default_factory=dict)

    def touch(self, stream: Stream) -> Stream:
        self.touched[stream.no] = stream
        return stream

    def declare(self, device: str, epoch: str, first: int, last: int, disposition: str, reason: str) -> None:
        self.declared.setdefault((device, epoch, disposition, reason), RangeSet()).add(first, last)


def _remembered_as(item: Arrived) -> str:
    """Return what tells a repeat from news: for a bare event, which has no key, its topic's part in it too."""
    return item.digest if item.event is not None else f"{item.topic.kind.value}/{item.topic.channel} {item.digest}"
