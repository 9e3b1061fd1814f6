"""Windows of readings, from what is accepted to the results of models: each in the transaction that made it whole.

What is held in memory is a copy of the store's last rows, so a restart, or a transaction that failed, costs no window.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from edge_gateway import window_history
from edge_gateway.admission import Arrived, Outcome
from edge_gateway.metrics import Metrics
from edge_gateway.own_events import OwnEvents
from edge_gateway.router import decide_window
from edge_gateway.settings import GatewaySettings
from edge_gateway.store import Store
from edge_gateway.streams import Stream
from edge_gateway.window_models import WindowModels
from edge_gateway.windows import Source, SourceKey, Sources, Window
from edge_gateway.work import Work
from millrace import clock, events


class Assembly:
    """Used by the thread that writes, inside its transactions."""

    def __init__(
        self,
        settings: GatewaySettings,
        store: Store,
        metrics: Metrics,
        time: clock.Clock,
        own: OwnEvents,
        models: WindowModels,
    ) -> None:
        self._settings, self._store, self._metrics, self._clock = settings, store, metrics, time
        self._own, self._models = own, models
        self._sources = Sources(settings.limits.windows_bytes)
        self._stored = {(stream.device, stream.epoch) for stream in store.streams()}
        self._touched: set[SourceKey] = set()
        self._broken: Counter[str] = Counter()

    def weight(self, item: object) -> float:
        """Return how many windows an arrival makes whole: a reading, on the average."""
        if not isinstance(item, Arrived) or item.type not in (events.READING, events.WAVEFORM):
            return 0.0
        data = item.event.data if item.event is not None else None
        samples = len(data["samples"]) if item.type == events.WAVEFORM and data is not None else None
        return self._models.weight(item.device, str(item.topic.channel), samples)

    def came(self, item: Arrived, event: events.Event, stream: Stream, work: Work) -> Callable[[], int] | None:
        """Take an event that was accepted; if windows are whole with it, begin to ask the models.

        What is returned waits for them, appends their results and says how many.
        """
        if not self._models.may_watch(item.device):
            return None
        key, channel = (item.device, stream.epoch), str(item.topic.channel)
        reading = self._models.reading(item.device, channel, event) if item.type == events.READING else None
        self._touched.add(key)
        begin = partial(self._begin, stream, event.key.seq)
        windows = self._sources.came(key, begin, event.key.seq, reading, stream.watermark, self._broken)
        if item.type == events.WAVEFORM:
            windows += self._models.in_waveform(item.device, channel, event, self._broken)
        asked = [(window, self._models.ask(window.model, window.values)) for window in windows]
        return partial(self._answer, item, stream.epoch, asked, work) if asked else None

    def committed(self) -> None:
        """Count what came since the last call as stored."""
        self._touched.clear()
        for reason, count in self._broken.items():
            self._metrics.windows_broken.labels(reason).inc(count)
        self._broken.clear()
        self._metrics.windows_bytes.set(self._sources.held_bytes)

    def undo(self) -> None:
        """Forget what came since then: it was not stored, so the store says how far the windows are."""
        for key in self._touched:
            self._sources.drop(key)
        self._stored |= self._touched
        self._touched.clear()
        self._broken.clear()

    def _begin(self, stream: Stream, seq: int) -> Source:
        """Return a source as the store's last rows leave it, the first time; else one that begins with `seq`."""
        key, accounted = (stream.device, stream.epoch), min(stream.watermark, seq - 1)
        history = window_history.read(self._store, self._models, stream, accounted) if key in self._stored else []
        self._stored.discard(key)
        source = Source(self._models.wanted, history[0][0] if history else min(seq, stream.watermark + 1))
        for before, reading in history:
            source.came(before, reading, accounted, Counter())
        return source

    def _answer(self, item: Arrived, epoch: str, asked: Sequence[tuple[Window, Future[Outcome]]], work: Work) -> int:
        """Wait for the models, and say what they made of the windows; return how many results that are."""
        failed, said = "", 0
        for window, promised in asked:
            outcome = promised.result()
            work.progress()
            if outcome.malformed is not None:
                self._broken["inference"] += 1
                failed = outcome.malformed
                continue
            self._say(item, epoch, window, outcome, work)
            said += 1
        if failed:
            self._own.alarm("window_failed", item.device, f"a window of readings has no result: {failed}", work)
        return said

    def _say(self, item: Arrived, epoch: str, window: Window, outcome: Outcome, work: Work) -> None:
        ((prediction, threshold, infer_ms),) = outcome.predictions
        last, now = window.last, self._clock.now()
        decision = decide_window(prediction.score, threshold, self._settings.policy(item.device, last.channel))
        data: dict[str, Any] = {
            "label": prediction.label,
            "score": round(prediction.score, 4),
            "defect": prediction.defect,
            "model": prediction.model,
            "decision": decision.decision,
            "reason": decision.reason,
            "infer_ms": round(infer_ms or 0.0, 2),
            "total_ms": round((now.uptime_ns - item.instant.uptime_ns) / 1e6, 2),
            "window_time": last.time,
            "first": f"{epoch}-{window.first_seq}",
            "samples": len(window.values),
        }
        if window.offset is not None:
            data["offset"] = window.offset
        if prediction.value is not None:
            data["value"] = prediction.value
        subject = events.subject_of(item.device, last.channel, f"{epoch}-{last.seq}")
        self._own.result(item.device, last.channel, subject, data, work, now)
        work.counts.append(partial(self._metrics.inference.labels(prediction.model).observe, (infer_ms or 0.0) / 1000))
        work.counts.append(self._metrics.routed.labels(decision.decision).inc)
