"""What cannot be believed is kept for a look; whoever sent it learns that it need not come again."""

from __future__ import annotations

import logging

from edge_gateway.admission import Arrived, Malformed
from edge_gateway.metrics import Metrics
from edge_gateway.own_events import OwnEvents
from edge_gateway.register import Crowded
from edge_gateway.settings import GatewaySettings
from edge_gateway.store import Store
from edge_gateway.work import Work
from millrace import clock

log = logging.getLogger(__name__)


class Quarantine:
    """Takes messages in inside the present transaction."""

    def __init__(
        self, settings: GatewaySettings, store: Store, metrics: Metrics, time: clock.Clock, own: OwnEvents
    ) -> None:
        self._settings, self._store, self._metrics, self._clock, self._own = settings, store, metrics, time, own

    def bury(self, bad: Malformed, work: Work) -> None:
        """Keep a malformed message; one whose key could be read is accounted for and declared."""
        work.counts.append(self._metrics.quarantined.inc)
        log.warning("event_quarantined topic=%s reason=%r bytes=%d", bad.topic, bad.reason, len(bad.payload))
        self._keep(bad.topic, bad.reason, bad.payload, self._clock.now().wall_ns)
        if bad.device is None or bad.key is None:
            return
        try:
            stream = work.stream(bad.device, bad.key.epoch, self._clock.uptime_s())
        except Crowded as error:
            self._own.alarm(error.name, bad.device, str(error), work)
            return
        work.owed[bad.device, bad.key.epoch] = stream
        if not stream.has(bad.key.seq) and not work.register.scatters(stream, bad.key.seq, bad.key.seq):
            stream.account(bad.key.seq, bad.key.seq)
            work.declare(bad.device, bad.key.epoch, bad.key.seq, bad.key.seq, "buried", bad.reason)

    def bury_frame(self, item: Arrived, why: str, work: Work) -> None:
        """Keep a frame that no worker can decode; whoever accepts it accounts for it."""
        self.bury(Malformed(item.topic_text(self._settings.prefix), item.payload, why), work)

    def keep_conflict(self, item: Arrived, why: str) -> None:
        """Keep what came under a key that another content has."""
        self._keep(item.topic_text(self._settings.prefix), why, item.payload, item.instant.wall_ns)

    def _keep(self, topic: str, why: str, payload: bytes, wall_ns: int) -> None:
        self._store.quarantine(topic, why, payload, wall_ns, self._settings.store.quarantine_rows)
