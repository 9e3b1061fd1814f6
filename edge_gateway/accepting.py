"""What a new event becomes: a row that goes up or stays, a frame's results, or a record of why nothing of it does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

from edge_gateway.admission import Arrived, Outcome
from edge_gateway.assembly import Assembly
from edge_gateway.metrics import Metrics
from edge_gateway.own_events import OwnEvents
from edge_gateway.quarantine import Quarantine
from edge_gateway.register import Crowded
from edge_gateway.router import Decision, decide, frame_goes
from edge_gateway.settings import GatewaySettings
from edge_gateway.store import Answer, Store
from edge_gateway.streams import Stream
from edge_gateway.work import InferenceFailed, NotAnswered, Work
from millrace import clock, events, images
from millrace.blobs import BadFolder
from millrace.entries import Draft, Lane

POLICIES_KEPT = 1024
KEEP_RESULT_DROP_FRAME = "keep_result_drop_frame: the store is above store.high_water_ratio"


class Accepting:
    """Writes what channels' policies say, inside the present transaction."""

    def __init__(
        self,
        settings: GatewaySettings,
        store: Store,
        metrics: Metrics,
        time: clock.Clock,
        own: OwnEvents,
        quarantine: Quarantine,
        assembly: Assembly | None = None,
    ) -> None:
        self._settings, self._store, self._metrics, self._clock = settings, store, metrics, time
        self._own, self._quarantine, self._assembly = own, quarantine, assembly
        self._policy = lru_cache(POLICIES_KEPT)(settings.policy)

    def accept(self, item: Arrived, event: events.Event, stream: Stream, work: Work) -> None:
        """Count the event as taken in its stream, write what it becomes and remember the answer."""
        stream.account(event.key.seq, event.key.seq)
        work.received[item.device, item.topic.kind.value] += 1
        answer = self._assembly.came(item, event, stream, work) if self._assembly is not None else None
        if item.type in (events.FRAME, events.LEDGER):
            if item.type == events.FRAME:
                self._accept_frame(item, event, stream, work)
            else:
                self._accept_ledger(item, event, stream, work)
            if answer is not None:  # readings came ahead of it; who sends it again hears nothing of them
                answer()
            return
        work.done.replies.append((item, []))
        if self._policy(item.device, str(item.topic.channel)).readings == "all":
            lane = Lane.BULK
        else:
            lane = Lane.LOCAL
            work.declare(item.device, stream.epoch, event.key.seq, event.key.seq, "local", "readings: none")
        body = events.encode_json(event) if item.body is None else item.body
        draft = Draft(lane, event.key.epoch, event.key.seq, body)
        self._store.accept(draft, stream, item.remembered_as, self._clock.uptime_s(), answer)

    def _accept_ledger(self, item: Arrived, event: events.Event, stream: Stream, work: Work) -> None:
        work.done.replies.append((item, []))
        self._account_for(item, event, work)
        position = self._append(Lane.RESULT, event)
        self._store.remember(stream, event.key.seq, Answer(position, 0, item.remembered_as))

    def _account_for(self, item: Arrived, event: events.Event, work: Work) -> None:
        record = events.LedgerData.model_validate(event.data)
        try:
            spoken_of = work.stream(item.device, record.epoch, self._clock.uptime_s())
        except Crowded as error:  # the record itself stands: it goes to the cloud
            self._own.alarm(error.name, item.device, str(error), work)
            return
        if not work.register.scatters(spoken_of, record.first, record.last):
            account = spoken_of.declare if record.disposition == "unproven" else spoken_of.account
            account(record.first, record.last)
        work.owed[item.device, record.epoch] = spoken_of

    def _accept_frame(self, item: Arrived, event: events.Event, stream: Stream, work: Work) -> None:
        key, channel = event.key, str(item.topic.channel)
        outcome = item.outcome.result() if item.outcome is not None else Outcome()
        if outcome.malformed is not None:
            self._quarantine.bury_frame(item, outcome.malformed, work)
            work.declare(item.device, key.epoch, key.seq, key.seq, "buried", outcome.malformed)
            self._store.remember(stream, key.seq, Answer(0, 0, item.remembered_as))
            work.leave_unanswered(item, outcome.malformed, InferenceFailed if outcome.failed else NotAnswered)
            return
        policy = self._policy(item.device, channel)
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
        lane = Lane.FRAME if goes_up else Lane.LOCAL
        given_up = (goes_up or kept) and not self._keep_picture(lane, item, event, work)
        if not goes_up and not datas and not given_up:
            disposition, reason = ("local", "no model serves it") if kept else ("shed", "no model serves it")
            work.declare(item.device, key.epoch, key.seq, key.seq, disposition, reason)
            if disposition == "shed":
                work.counts.append(self._metrics.shed.inc)
        self._store.remember(stream, key.seq, Answer(first, len(datas), item.remembered_as))
        work.done.replies.append((item, datas))

    def _keep_picture(self, lane: Lane, item: Arrived, event: events.Event, work: Work) -> bool:
        """Append a frame with its picture; or declare it shed, if its folder has refused all pictures for too long.

        Errors: StorageFailed; before that a frame waits for its picture to be taken.
        """
        picture, key = images.bare(item.payload), event.key
        folder = self._store.blobs.path(item.digest).parent
        try:
            self._store.outbox.put_pictures({item.digest: picture})
        except BadFolder as error:
            if not self._store.bad_folders.refused(folder, str(error), self._clock.uptime_s()):
                raise
            reason = f"the picture could not be stored: {error}"
            self._own.alarm("picture_refused", item.device, reason, work)
            work.declare(item.device, key.epoch, key.seq, key.seq, "shed", reason)
            work.counts.append(self._metrics.frames_dropped.inc)
            return False
        self._store.bad_folders.took(folder)
        self._append(lane, event, item.digest, len(picture))
        return True

    def _results(
        self, item: Arrived, event: events.Event, outcome: Outcome, decisions: Sequence[Decision], work: Work
    ) -> list[dict[str, Any]]:
        now, channel = self._clock.now(), str(item.topic.channel)
        total_ms = (now.uptime_ns - item.instant.uptime_ns) / 1e6
        subject = events.subject_of(item.device, channel, event.key.id)
        datas = []
        for (prediction, _, infer_ms), decision in zip(outcome.predictions, decisions, strict=True):
            data: dict[str, Any] = {
                "label": prediction.label,
                "score": round(prediction.score, 4),
                "defect": prediction.defect,
                "model": prediction.model,
                "decision": decision.decision,
                "reason": decision.reason,
                "infer_ms": round(infer_ms or 0.0, 2),
                "total_ms": round(total_ms, 2),
                "frame_time": event.time,
            }
            if infer_ms is None:
                data["cached"] = True
            else:
                work.counts.append(partial(self._metrics.inference.labels(prediction.model).observe, infer_ms / 1000))
            if event.truth is not None:
                data["truth"] = event.truth
            if prediction.value is not None:
                data["value"] = prediction.value
            if prediction.detections is not None:
                data["detections"] = [one.data() for one in prediction.detections]
            self._own.result(item.device, channel, subject, data, work, now)
            work.counts.append(self._metrics.routed.labels(decision.decision).inc)
            datas.append(data)
        if datas:
            work.counts.append(partial(self._metrics.answer.observe, total_ms / 1000))
        return datas

    def _append(self, lane: Lane, event: events.Event, blob: str | None = None, blob_bytes: int = 0) -> int:
        """Append a device's event; return its position."""
        body = events.encode_json(event)
        draft = Draft(lane, event.key.epoch, event.key.seq, body, blob, blob_bytes)
        return self._store.append([draft], self._clock.uptime_s())[0].position
