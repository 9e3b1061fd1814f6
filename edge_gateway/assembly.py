"""Windows of readings, from what is accepted to the results of models: each in the transaction that made it whole.

What is held in memory is a copy of the store's last rows, so a restart, or a transaction that failed, costs no window.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from typing import Any

from edge_gateway.admission import Arrived, Outcome
from edge_gateway.engines.engine import Tensor
from edge_gateway.metrics import Metrics
from edge_gateway.own_events import OwnEvents
from edge_gateway.router import decide_window
from edge_gateway.settings import GatewaySettings
from edge_gateway.store import Answer, Store
from edge_gateway.streams import Stream
from edge_gateway.window_input import WindowSettings
from edge_gateway.windows import (
    SOURCE_BYTES,
    Reading,
    Source,
    SourceKey,
    Sources,
    Window,
    begins_in,
    cut,
    ring_bytes,
    row_of,
)
from edge_gateway.work import Work
from millrace import clock, events, topics
from millrace.settings import ConfigError

CHANNELS_KEPT = 1024
LOOKED_BACK = 4096
"""To go on after a restart, so many of a device's last events are looked at, at most."""


@dataclass(frozen=True, slots=True)
class WindowModels:
    """The models that take windows of readings, by their place in the settings, and how one of them is asked."""

    wanted: Mapping[int, WindowSettings]
    names: Mapping[int, str]
    """Each one's name, without its version."""
    ask: Callable[[int, Tensor], Future[Outcome]]
    """Begin an inference of the model at a place for a window."""

    def check_room(self, max_bytes: int) -> None:
        """Raise ConfigError if a single window takes more than all may."""
        for place, wanted in self.wanted.items():
            size_bytes = SOURCE_BYTES + ring_bytes(wanted)
            if size_bytes > max_bytes:
                raise ConfigError(
                    [
                        f"limits.windows_bytes: a window of {self.names[place]} takes {size_bytes} bytes,"
                        f" and all windows may take {max_bytes}: raise it"
                    ]
                )


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
        self._longest = max(max(wanted.samples, wanted.hop) for wanted in models.wanted.values())
        self._models_of = lru_cache(CHANNELS_KEPT)(self._bound)
        self._is_watched = lru_cache(CHANNELS_KEPT)(self._may_be_bound)

    def weight(self, item: object) -> float:
        """Return how many windows an arrival makes whole: a reading, on the average."""
        if not isinstance(item, Arrived) or item.type not in (events.READING, events.WAVEFORM):
            return 0.0
        wanted = [self._models.wanted[place] for place in self._models_of(item.device, str(item.topic.channel))]
        if item.type == events.READING:
            return sum(1 / each.hop for each in wanted)
        samples = len(item.event.data["samples"]) if item.event is not None and item.event.data else 0
        return float(sum(len(begins_in(samples, each)) for each in wanted))

    def came(self, item: Arrived, event: events.Event, stream: Stream, work: Work) -> Callable[[], int] | None:
        """Take an event that was accepted; if windows are whole with it, begin to ask the models.

        What is returned waits for them, appends their results and says how many.
        """
        if not self._is_watched(item.device):
            return None
        key, channel = (item.device, stream.epoch), str(item.topic.channel)
        reading = self._reading(item.device, channel, event) if item.type == events.READING else None
        self._touched.add(key)
        begin = partial(self._begin, stream, event.key.seq)
        windows = self._sources.came(key, begin, event.key.seq, reading, stream.watermark, self._broken)
        if item.type == events.WAVEFORM:
            windows += self._in_waveform(item.device, channel, event)
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

    # --- which models look at what

    def _bound(self, device: str, channel: str) -> tuple[int, ...]:
        return tuple(place for place in self._models.wanted if self._settings.models[place].serves(device, channel))

    def _may_be_bound(self, device: str) -> bool:
        """Whether a channel of a device may have a model: then all that the device numbers has to be followed."""
        patterns = [pattern for place in self._models.wanted for pattern in self._settings.models[place].channels]
        return any("/" not in pattern or fnmatchcase(device, pattern.partition("/")[0]) for pattern in patterns)

    def _reading(
        self, device: str, channel: str, event: events.Event, answered: frozenset[int] = frozenset()
    ) -> Reading:
        data, wanted = event.data or {}, self._models.wanted
        rows = {place: row_of(data, wanted[place]) for place in self._models_of(device, channel)}
        return Reading(event.key.seq, channel, event.time, rows, answered)

    def _in_waveform(self, device: str, channel: str, event: events.Event) -> list[Window]:
        windows, data = [], event.data or {}
        reading = Reading(event.key.seq, channel, event.time, {})
        for place in self._models_of(device, channel):
            wanted = self._models.wanted[place]
            fits = wanted.numbers == 1 and wanted.rate_hz in (None, data["rate_hz"])
            found = cut(data["samples"], wanted) if fits else []
            if not found:
                self._broken["waveform"] += 1
            windows += [Window(place, reading, event.key.seq, values, offset) for offset, values in found]
        return windows

    # --- going on after a restart

    def _begin(self, stream: Stream, seq: int) -> Source:
        """Return a source as the store's last rows leave it, the first time; else one that begins with `seq`."""
        key = stream.device, stream.epoch
        history = self._history(stream) if key in self._stored else []
        self._stored.discard(key)
        first = history[0][0] if history else min(seq, stream.watermark + 1)
        source = Source(self._models.wanted, first)
        for before, reading in history:
            source.came(before, reading, min(stream.watermark, seq - 1), Counter())
        return source

    def _history(self, stream: Stream) -> list[tuple[int, Reading | None]]:
        """Return the last events of a stream, the lowest seq first, as far back as each is known."""
        answered: defaultdict[int, set[int]] = defaultdict(set)
        known: list[tuple[int, events.Event | None]] = []
        found: Counter[str] = Counter()
        for seq, answer, entry in self._store.latest(stream, LOOKED_BACK):
            event = events.decode_json(entry.body) if entry is not None else None
            if event is not None and topics.origin_of(event.key.source) != f"device/{stream.device}":
                event = None
            if not self._note_results(answer, answered) and event is None:
                break
            known.append((seq, event if event is not None and event.type == events.READING else None))
            found.update([_channel(event)] if event is not None and event.type == events.READING else [])
            if found and min(found.values()) >= self._longest:
                break
        return [
            (
                seq,
                self._reading(stream.device, _channel(event), event, frozenset(answered[seq]))
                if event is not None
                else None,
            )
            for seq, event in reversed(known)
        ]

    def _note_results(self, answer: Answer, answered: defaultdict[int, set[int]]) -> bool:
        """Note which models answered which windows by what stands in an answer; say whether it is a frame's."""
        for result in self._store.results_of(answer):
            event = events.decode_json(result.body)
            data = event.data or {}
            if not events.is_of_window(data):
                return True
            _, seq = events.parse_id(str(event.subject).rpartition("/")[2])
            name = str(data["model"]).partition("@")[0]
            places = {place for place, known in self._models.names.items() if known == name}
            answered[seq] |= places
        return False

    # --- answering

    def _answer(self, item: Arrived, epoch: str, asked: Sequence[tuple[Window, Future[Outcome]]], work: Work) -> int:
        """Wait for the models, and say what they made of the windows; return how many results that are."""
        failed, said = "", 0
        for window, promised in asked:
            outcome = promised.result()
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


def _channel(event: events.Event) -> str:
    """Return on which channel of its device an event came."""
    return event.key.source.rpartition("/")[2]
