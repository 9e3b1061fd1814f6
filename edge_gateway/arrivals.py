"""Whether an event that arrives is new, came before, or has to wait: a key is taken once, a bare event gets one."""

from __future__ import annotations

from edge_gateway.accepting import Accepting
from edge_gateway.admission import Arrived
from edge_gateway.assembly import Assembly
from edge_gateway.metrics import Metrics
from edge_gateway.own_events import OwnEvents, repeated_result
from edge_gateway.quarantine import Quarantine
from edge_gateway.receipts import Receipts
from edge_gateway.settings import GatewaySettings
from edge_gateway.store import Store
from edge_gateway.streams import Stream
from edge_gateway.taken import mark
from edge_gateway.work import NoRoomNow, Work
from millrace import clock, events, images, topics

RECENT_DIGESTS = 32


class Arrivals:
    """Takes events in inside the present transaction."""

    def __init__(
        self,
        settings: GatewaySettings,
        store: Store,
        metrics: Metrics,
        time: clock.Clock,
        own: OwnEvents,
        receipts: Receipts,
        quarantine: Quarantine,
        assembly: Assembly | None = None,
    ) -> None:
        self._settings, self._store, self._metrics, self._clock = settings, store, metrics, time
        self._own, self._receipts, self._quarantine = own, receipts, quarantine
        self._accepting = Accepting(settings, store, metrics, time, own, quarantine, assembly)

    def take(self, item: Arrived, work: Work) -> None:
        """Accept an event that is new, answer one that came before, leave alone what there is no room for.

        Errors: Crowded.
        """
        if item.event is not None:
            self._take_keyed(item, item.event, work)
        else:
            self._take_bare(item, work)

    def withhold(self, item: Arrived, why: str, work: Work) -> None:
        """Leave an event that the disk refuses with the device that keeps it; give a bare one up, and declare it.

        Errors: Crowded.
        """
        text = f"an event is not stored, the disk refuses it: {why}"
        if item.event is not None:
            work.counts.append(self._metrics.withheld.labels(item.device).inc)
        else:
            epoch = self._store.outbox.epoch
            stream = work.stream(item.device, epoch, self._clock.uptime_s())
            seq = stream.highest() + 1
            stream.account(seq, seq)
            work.declare(item.device, epoch, seq, seq, "shed", text)
            work.counts.append(self._metrics.shed.inc)
        self._own.alarm("event_refused", item.device, text, work)
        work.leave_unanswered(item, text)

    def _take_keyed(self, item: Arrived, event: events.Event, work: Work) -> None:
        epoch, seq = event.key.epoch, event.key.seq
        stream = work.stream(item.device, epoch, self._clock.uptime_s())
        work.owed[item.device, epoch] = stream
        if stream.took(seq):
            self._repeat(item, stream, seq, work)
            return
        if self._store.full:
            work.counts.append(self._metrics.withheld.labels(item.device).inc)
            self._receipts.withhold(item.device, epoch)
            work.leave_unanswered(item, "the gateway is full", NoRoomNow)
            return
        for first, last in stream.gaps_below(event.base or 0):
            work.declare(item.device, epoch, first, last, "unproven", "below the lowest seq that the device still held")
            stream.declare(first, last)
        if work.register.scatters(stream, seq, seq):
            work.counts.append(self._metrics.withheld.labels(item.device).inc)
            work.leave_unanswered(item, "too many holes before it")
            return
        self._accepting.accept(item, event, stream, work)

    def _take_bare(self, item: Arrived, work: Work) -> None:
        epoch = self._store.outbox.epoch
        stream = work.stream(item.device, epoch, self._clock.uptime_s())
        if item.redelivered:
            recent = self._recent(item, stream, work)
            known = recent.get(item.remembered_as, recent.get(mark(item.remembered_as)))
            if known is not None:
                self._repeat(item, stream, known, work)
                return
        seq = stream.highest() + 1
        if self._store.full:
            work.shed[item.device, "the gateway is full and the device keeps nothing"] += 1
            work.counts.append(self._metrics.shed.inc)
            work.leave_unanswered(item, "the gateway is full", NoRoomNow)
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
        self._accepting.accept(item, event, stream, work)
        for (no, _), digests in work.recent.items():
            if no == stream.no:
                digests.setdefault(item.remembered_as, seq)

    def _recent(self, item: Arrived, stream: Stream, work: Work) -> dict[str, int]:
        """Return digest -> seq of a stream's last events, read once in a transaction: each moment of a pack asks."""
        digests = work.recent.get((stream.no, item.pack))
        if digests is None:
            digests = self._store.recent_digests(stream, RECENT_DIGESTS + item.pack)
            work.recent[stream.no, item.pack] = digests
        return digests

    def _repeat(self, item: Arrived, stream: Stream, seq: int, work: Work) -> None:
        """Answer a duplicate with what was stored for it."""
        work.counts.append(self._metrics.duplicates.labels(item.device).inc)
        answer = self._store.recall(stream, seq)
        if answer is None:
            work.leave_unanswered(item, "answered long ago")
            return
        if answer.digest not in (item.remembered_as, mark(item.remembered_as)):
            work.counts.append(self._metrics.conflicts.inc)
            text = f"{item.device} sent {stream.epoch}-{seq} again with another content; the first is kept"
            self._own.alarm("key_conflict", item.device, text, work)
            self._quarantine.keep_conflict(item, text)
        bodies = [entry.body for entry in self._store.results_of(answer)]
        work.done.results += [repeated_result(self._settings.prefix, body) for body in bodies]
        work.done.replies.append((item, [dict(events.decode_json(body).data or {}) for body in bodies]))
