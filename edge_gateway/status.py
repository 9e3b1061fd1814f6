"""What the gateway says of itself: a retained status that devices wait for, its models, and the facts for /health."""

from __future__ import annotations

import queue
import threading
from typing import Any

from edge_gateway.bundle import Bundle
from edge_gateway.company import Gateways, Twins
from edge_gateway.engines.accelerated import Served
from edge_gateway.engines.choice import Plan
from edge_gateway.intake import Intake
from edge_gateway.models import Models
from edge_gateway.settings import GatewaySettings
from edge_gateway.store import Store
from millrace import __version__, clock, jsontext, topics
from millrace.database import storage_errors
from millrace.healing import damaged_files
from millrace.inbox import Connected
from millrace.mqtt import Connection
from millrace.outbox_reader import Reader
from millrace.ranges import RangeSet
from millrace.settled import SILENT_AFTER_S, SettledReader

LABELS_SHOWN = 100
SHOWN = 10
SAID_CHARACTERS = 300


class Herald:
    """Publishes the gateway's status and models; an actor. Other threads may ask `facts`."""

    def __init__(
        self,
        settings: GatewaySettings,
        connection: Connection,
        intake: Intake,
        store: Store,
        models: Models,
        uplink: Uplink,
        time: clock.Clock,
        gateways: Gateways,
        twins: Twins,
    ) -> None:
        self._settings, self._connection, self._intake = settings, connection, intake
        self._store, self._models, self._uplink, self._clock = store, models, uplink, time
        self._gateways, self._twins = gateways, twins
        self._stop = threading.Event()
        self._topic = topics.topic(settings.prefix, topics.Kind.GATEWAY_STATUS, settings.gateway)

    def run(self) -> None:
        """Work until interrupted; the last word is `offline`."""
        said_s, shown, serving = float("-inf"), 0, self._serving()
        while not self._stop.is_set():
            now_s = self._clock.uptime_s()
            connected_anew = self._new_connection()
            if connected_anew or self._serving() != serving:
                serving = self._serving()
                self._say_models()
                said_s = float("-inf")
            if len(self._intake.turns.refused) != shown:
                said_s = float("-inf")
            if self._connection.connected and now_s - said_s >= self._settings.status_interval_s:
                said_s, shown = now_s, len(self._intake.turns.refused)
                self._connection.publish(self._topic, jsontext.dump(self.facts()), retain=True)
        self._connection.farewell(self._topic, jsontext.dump({**self.facts(), "state": "offline"}))

    def interrupt(self) -> None:
        """End `run`."""
        self._stop.set()

    def _new_connection(self) -> bool:
        try:
            event = self._intake.connection_events.get(timeout=0.1)
        except queue.Empty:
            return False
        return isinstance(event, Connected)

    def _serving(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Return which models serve, and of each accelerator its state and why, without what changes by the second."""
        return [
            (bundle.name, [(one.state, one.reason) for one in served])
            for bundle, served in zip(self._models.bundles, self._models.accelerators, strict=True)
        ]

    def _say_models(self) -> None:
        topic = topics.topic(self._settings.prefix, topics.Kind.GATEWAY_MODEL, self._settings.gateway)
        models = self._models
        facts = [_model_facts(*model) for model in zip(models.bundles, models.plans, models.accelerators, strict=True)]
        self._connection.publish(topic, jsontext.dump({"models": facts}), retain=True)

    def facts(self) -> dict[str, Any]:
        """Return what is true of this gateway now; small enough to be read on a terminal."""
        outbox = self._store.outbox
        now = self._clock.now()
        return {
            "state": "online",
            "session": self._gateways.session,
            "version": __version__,
            "mqtt": self._connection.protocol,
            "connected": self._connection.connected,
            "denied": list(self._connection.denied),
            "epoch": outbox.epoch,
            "minted": outbox.next_seq - 1,
            "models": [bundle.name for bundle in self._models.bundles],
            "accelerators": [_accelerator_facts(one) for served in self._models.accelerators for one in served],
            "held_rows": outbox.held_rows,
            "held_bytes": outbox.held_bytes,
            "full": self._store.full,
            "bad_folders": self._store.bad_folders.said(self._clock.uptime_s())[:SHOWN],
            "damaged": damaged_files(self._settings.state_dir),
            "uplink": self._settings.uplink,
            **self._uplink.link(),
            "paused": self._uplink.paused(),
            "over_share": [
                {"device": device, "turned_away": count}
                for device, count in list(self._intake.turns.turned_away().items())[:SHOWN]
            ],
            "two_agents": [
                {"device": device, "sessions": list(both)}
                for device, both in list(self._twins.seen(self._clock.uptime_s()).items())[:SHOWN]
            ],
            "others": self._gateways.others()[:SHOWN],
            "namesake": self._gateways.namesake(self._clock.uptime_s()),
            "refused": [
                {"topic": topic, "try": nearest} for topic, nearest in list(self._intake.turns.refused.items())
            ],
            "time": clock.rfc3339(now.wall_ns),
            "clock": clock.wall_state(),
            "bootid": now.boot_id,
            "uptimens": str(now.uptime_ns),
        }


def _accelerator_facts(served: Served) -> dict[str, Any]:
    return {
        "model": served.model,
        "accelerator": served.accelerator,
        "state": served.state,
        "reason": served.reason[:SAID_CHARACTERS],
        "for_s": round(served.for_s, 1),
        "retry_s": round(served.retry_s, 1),
        "fallbacks": served.fallbacks,
    }


def _model_facts(bundle: Bundle, plan: Plan, served: list[Served]) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "model": bundle.name,
        "task": manifest.task,
        "sha256": manifest.sha256,
        "labels": list(bundle.labels)[:LABELS_SHOWN],
        "engine": str(plan),
        "engine_reason": plan.reason,
        "accelerators": [
            {"accelerator": one.accelerator, "state": one.state, "reason": one.reason[:SAID_CHARACTERS]}
            for one in served
        ],
        "licence": manifest.licence,
    }


class Uplink:
    """What the sync worker beside us has settled and says of the link; read-only, for /health and /metrics."""

    def __init__(self, settings: GatewaySettings, time: clock.Clock) -> None:
        self._clock = time
        self._file = settings.state_dir / "gateway.db"
        self._outbox = Reader(self._file)
        self._settled = SettledReader(settings.state_dir / "sync.db")
        self._uplink = settings.uplink
        self._lock = threading.Lock()

    def facts(self) -> dict[str, Any]:
        """Return `link`, and for each lane how many rows wait (counted up to 100,000).

        Errors: Damaged, StorageFailed if the gateway's own file does not say.
        """
        if self._uplink == "none":
            return {**self.link(), "backlog": {}}
        with self._lock, storage_errors(self._file):
            epochs = list(self._outbox.epochs())
            settled = self._settled.read(epochs[-1]) if epochs else {}
            # What was sent ahead of a backlog counts as waiting until the backlog has caught up with it.
            backlog = self._outbox.backlog({lane: _without_a_gap(ranges) for lane, ranges in settled.items()})
        return {
            **self.link(),
            "backlog": {lane.name.lower(): count for lane, count in backlog.items()},
        }

    def link(self) -> dict[str, str]:
        """Return the link's state, and in `link_said` what is wrong with it or with a lane."""
        if self._uplink == "none":
            return {"link": "none", "link_said": ""}
        with self._lock:
            link, silent_s = self._settled.link(), self._settled.silent_s(self._clock.uptime_s())
        if link is None:
            return {"link": "no sync worker seen", "link_said": ""}
        if silent_s > SILENT_AFTER_S:
            said = f"sync worker silent for {silent_s:.0f} s; before that the link was {link['state']}"
            return {"link": "unknown", "link_said": said}
        return {"link": str(link["state"]), "link_said": str(link["said"])[:SAID_CHARACTERS]}

    def paused(self) -> list[str]:
        """Return the lanes that a person holds back from the cloud."""
        with self._lock:
            return [lane.name.lower() for lane in self._settled.paused()]


def _without_a_gap(settled: RangeSet) -> int:
    """Return the position up to which all is settled."""
    first = next(iter(settled), None)
    return first[1] if first is not None and first[0] == 1 else 0
