"""What the gateway counts, under the names that Prometheus reads; the words are those of the logs."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edge_gateway.cache import Cache
from edge_gateway.engines.accelerated import Served
from edge_gateway.engines.standby import State
from millrace import __version__

_LATENCY_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """The gateway's own registry."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = self.registry = CollectorRegistry()
        self.received = Counter(
            "millrace_events_received", "Events accepted, by device and type.", ["device", "type"], registry=registry
        )
        self.duplicates = Counter(
            "millrace_events_deduplicated", "Events that had been accepted before.", ["device"], registry=registry
        )
        self.quarantined = Counter(
            "millrace_events_quarantined", "Messages that could not be believed.", registry=registry
        )
        self.refused_topics = Counter(
            "millrace_topics_refused", "Messages on topics whose names are refused.", registry=registry
        )
        self.withheld = Counter(
            "millrace_events_withheld",
            "Events left with their device because the gateway is full.",
            ["device"],
            registry=registry,
        )
        self.turned_away = Counter(
            "millrace_events_turned_away",
            "Messages of a device over its share, dismissed before they were decoded.",
            ["device"],
            registry=registry,
        )
        self.crowded = Counter(
            "millrace_events_crowded_out",
            "Messages of devices or epochs for which there is no room (limits.devices, limits.epochs_per_device).",
            registry=registry,
        )
        self.frames_dropped = Counter(
            "millrace_frames_dropped",
            "Frames whose result is kept and whose picture is not, for want of room or of a folder that takes it.",
            registry=registry,
        )
        self.overflowed = Counter(
            "millrace_rows_overflowed",
            "Unsent rows that went for want of room, as overflow policies say; each is declared.",
            registry=registry,
        )
        self.shed = Counter(
            "millrace_events_shed", "Events given up by policy, each with a ledger record.", registry=registry
        )
        self.conflicts = Counter(
            "millrace_key_conflicts", "Events with a known key and another content.", registry=registry
        )
        self.routed = Counter("millrace_route", "Results by decision.", ["decision"], registry=registry)
        self.inference = Histogram(
            "millrace_inference_duration_seconds",
            "Time in the engine.",
            ["model"],
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.windows_broken = Counter(
            "millrace_windows_broken",
            "Windows of readings that were broken off, left out or have no result, by reason.",
            ["reason"],
            registry=registry,
        )
        self.windows_bytes = Gauge(
            "millrace_windows_bytes", "Bytes of readings held for windows (limits.windows_bytes).", registry=registry
        )
        self.raw_inferences = Counter(
            "millrace_raw_inferences",
            "Bare inferences for callers of /v2; nothing of them is stored.",
            ["model"],
            registry=registry,
        )
        self.http_requests = Gauge(
            "millrace_http_requests", "Requests for inference over HTTP that are served now.", registry=registry
        )
        self.http_bodies_bytes = Gauge(
            "millrace_http_bodies_bytes", "Bytes of their bodies that are held.", registry=registry
        )
        self.answer = Histogram(
            "millrace_answer_duration_seconds",
            "Time from a frame's arrival to its committed result.",
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.commits = Counter("millrace_commits", "Transactions committed.", registry=registry)
        self.storage_failures = Counter(
            "millrace_storage_failures", "Commits that the disk refused.", registry=registry
        )
        self.held_rows = Gauge("millrace_outbox_items", "Rows held.", registry=registry)
        self.held_bytes = Gauge("millrace_outbox_bytes", "Bytes of rows and frames held.", registry=registry)
        self.backlog = Gauge("millrace_backlog_items", "Rows that wait for the cloud.", ["lane"], registry=registry)
        self.full = Gauge("millrace_store_full", "1 while nothing new is accepted.", registry=registry)
        self.damaged_files = Gauge(
            "millrace_damaged_files", "Damaged databases that are kept beside the new ones.", registry=registry
        )
        self.damaged_bytes = Gauge("millrace_damaged_bytes", "Bytes that these take.", registry=registry)
        self.connected = Gauge("millrace_broker_connected", "1 while connected to the broker.", registry=registry)
        Info("millrace_build", "Version of the program.", registry=registry).info({"version": __version__})

    def show(self, cache: Cache[Any]) -> None:
        """Have what the result cache counts among the rest."""
        self.registry.register(_CacheCounts(cache))

    def watch(self, accelerators: Callable[[], list[list[Served]]]) -> None:
        """Have among the rest whether accelerators serve, and how often the CPU had to take over."""
        self.registry.register(_Accelerators(accelerators))

    def text(self) -> bytes:
        """Return all of it in Prometheus' text form."""
        return generate_latest(self.registry)


class _CacheCounts(Collector):
    """What the result cache has counted, read when somebody asks."""

    def __init__(self, cache: Cache[Any]) -> None:
        self._cache = cache

    def collect(self) -> Iterator[Metric]:
        cache = self._cache
        yield CounterMetricFamily("millrace_cache_hits", "Answers of a model that cost no inference.", cache.hits)
        yield CounterMetricFamily("millrace_cache_misses", "Answers that were not there yet.", cache.misses)
        yield GaugeMetricFamily("millrace_cache_bytes", "Bytes of answers kept.", cache.held_bytes)


class _Accelerators(Collector):
    """What accelerators say of themselves, read when somebody asks."""

    def __init__(self, accelerators: Callable[[], list[list[Served]]]) -> None:
        self._accelerators = accelerators

    def collect(self) -> Iterator[Metric]:
        primary = GaugeMetricFamily(
            "millrace_engine_primary",
            "1 while the accelerator serves, 0 while the CPU does in its place.",
            labels=["model", "accelerator"],
        )
        fallbacks = CounterMetricFamily(
            "millrace_engine_fallbacks",
            "How often the CPU took over from an accelerator, by reason.",
            labels=["model", "accelerator", "reason"],
        )
        serves: dict[tuple[str, str], bool] = {}
        counts: Tally[tuple[str, str, str]] = Tally()
        # One model may be bound twice, and a series may stand once.
        for one in (one for served in self._accelerators() for one in served):
            name = one.model, one.accelerator
            serves[name] = serves.get(name, True) and one.state is State.SERVING
            counts.update({(*name, reason): count for reason, count in one.fallbacks.items()})
        for labels, is_serving in serves.items():
            primary.add_metric(labels, float(is_serving))
        for all_labels, count in counts.items():
            fallbacks.add_metric(all_labels, count)
        yield primary
        yield fallbacks
