"""A commit: a batch of finished arrivals becomes rows, watermarks and answers in one transaction, or nothing.

What it returns is to be published only after it returned: results first, then receipts, then the acknowledgements.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from edge_gateway.admission import Arrived, DeviceStatus, GatewayStatus, Malformed
from edge_gateway.arrivals import Arrivals
from edge_gateway.assembly import Assembly
from edge_gateway.company import Gateways, Twins
from edge_gateway.metrics import Metrics
from edge_gateway.overflow import Overflow
from edge_gateway.own_events import OwnEvents
from edge_gateway.quarantine import Quarantine
from edge_gateway.receipts import Receipts
from edge_gateway.register import Crowded, Register
from edge_gateway.relearn import declare_doubt
from edge_gateway.settings import GatewaySettings
from edge_gateway.shares import Shares
from edge_gateway.sheds import Sheds, Why
from edge_gateway.statuses import Statuses
from edge_gateway.store import Store
from edge_gateway.window_models import WindowModels
from edge_gateway.work import Committed, Message, Work
from millrace import clock, crashpoints
from millrace.blobs import StorageFailed

log = logging.getLogger(__name__)

Finished = Arrived | Malformed | DeviceStatus | GatewayStatus


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
        windows: WindowModels | None = None,
    ) -> None:
        """`shares` says how much each device may have under way, all of it by default.

        `windows` are the models that take windows of readings, if there are any.
        """
        self._store, self._metrics, self._clock = store, metrics, time
        self._register, self._sheds = register or Register(store, settings.limits), sheds or Sheds()
        self._own = OwnEvents(settings, store, time)
        self._receipts = Receipts(settings, store, time, shares)
        self._quarantine = Quarantine(settings, store, metrics, time, self._own)
        self._assembly = Assembly(settings, store, metrics, time, self._own, windows) if windows is not None else None
        self._arrivals = Arrivals(
            settings, store, metrics, time, self._own, self._receipts, self._quarantine, self._assembly
        )
        self._statuses = Statuses(
            settings, store, time, self._own, twins or Twins(), gateways or Gateways(settings.gateway, "")
        )
        self._overflow = Overflow(settings, store)
        declare_doubt(store, self._own, settings.gateway, time.now())

    def commit(self, batch: Sequence[Finished], progress: Callable[[], None] = lambda: None) -> Committed:
        """Accept the batch; StorageFailed if the disk refuses: then nothing of it happened, try again.

        `progress` is called each time when something that it waits for has come: the answer about a window.
        """

        def take(work: Work) -> None:
            for item in batch:
                self._take(item, work)

        return self._write(take, progress)

    def withhold(self, item: Finished, why: str) -> Committed:
        """Let go of an item that the disk refuses while it takes this; it may be acknowledged then.

        Its device keeps it, or, of a bare event, a ledger record in the same transaction gives it up. Whatever it is,
        something is written: the disk is asked. Errors: StorageFailed; then nothing was let go.
        """

        def leave(work: Work) -> None:
            if isinstance(item, Arrived):
                try:
                    self._arrivals.withhold(item, why, work)
                except Crowded as error:
                    self._leave_out(item, error, work)
            self._store.save_published(anew=True)

        done = self._write(leave)
        log.error("withheld what=%s why=%r", type(item).__name__, why)
        return done

    def _write(self, take: Callable[[Work], None], progress: Callable[[], None] = lambda: None) -> Committed:
        work = Work(self._register, progress=progress)
        try:
            with self._store.outbox.transaction():
                take(work)
                self._store.write_accepted()
                sheds = self._own_up(work)
                self._own.declare(work)
                for stream in work.touched.values():
                    self._store.save_stream(stream)
                self._store.save_published()
        except StorageFailed:
            self._store.reload_streams()
            if self._assembly is not None:
                self._assembly.undo()
            self._metrics.storage_failures.inc()
            raise
        crashpoints.reached("gateway.committed")
        if sheds:
            self._sheds.said(sheds, self._clock.uptime_s())
        for (device, reason), number in work.shed.items():
            self._sheds.add(device, reason, number)
        self._own.committed(work)
        if self._assembly is not None:
            self._assembly.committed()
        self._metrics.commits.inc()
        for (device, kind), number in work.received.items():
            self._metrics.received.labels(device, kind).inc(number)
        for count in work.counts:
            count()
        for (device, epoch), owed in work.owed.items():
            work.done.receipts[device, epoch] = self._receipts.receipt(device, epoch, owed)
        return work.done

    @property
    def weigh(self) -> Callable[[Finished], float] | None:
        """How many windows an item makes whole, for which its commit has to wait; None if there never are any."""
        return self._assembly.weight if self._assembly is not None else None

    def make_room(self) -> int:
        """Above high water let go of unsent rows as overflow policies say; return how many. Errors: StorageFailed."""
        if not self._overflow.excess_bytes:
            return 0
        work = Work(self._register)
        with self._store.outbox.transaction():
            gone = self._overflow.shed(work.declare)
            self._own.declare(work)
        if gone:
            self._metrics.overflowed.inc(gone)
            log.warning("rows_shed count=%d held_bytes=%d", gone, self._store.outbox.held_bytes)
        return gone

    @property
    def has_sheds(self) -> bool:
        """Whether a commit is due, even of an empty batch, to say what was given up."""
        return self._sheds.due(self._clock.uptime_s())

    def reopened(self) -> list[Message]:
        """Return the receipts with which devices that were held back learn that there is room again, once."""
        return self._receipts.reopened()

    def _take(self, item: Finished, work: Work) -> None:
        if isinstance(item, Malformed):
            self._quarantine.bury(item, work)
        elif isinstance(item, GatewayStatus):
            self._statuses.hear_gateway(item, work)
        else:
            try:
                if isinstance(item, DeviceStatus):
                    self._statuses.hear_device(item, work)
                else:
                    self._arrivals.take(item, work)
            except Crowded as error:
                self._leave_out(item, error, work)

    def _leave_out(self, item: Arrived | DeviceStatus, error: Crowded, work: Work) -> None:
        """Count and leave unanswered whoever there is no room for."""
        work.counts.append(self._metrics.crowded.inc)
        self._own.alarm(error.name, item.device, str(error), work)
        if isinstance(item, Arrived):
            work.leave_unanswered(item, str(error))

    def _own_up(self, work: Work) -> dict[Why, int]:
        """Give numbers to what was given up, and declare them, once a second; return what this speaks of."""
        if not self._sheds.due(self._clock.uptime_s()):
            return {}
        counts = self._sheds.pending()
        epoch = self._store.outbox.epoch
        for (device, reason), count in counts.items():
            try:
                stream = work.stream(device, epoch, self._clock.uptime_s())
            except Crowded:
                continue  # counted; there is no room to number it
            first = stream.highest() + 1
            stream.account(first, first + count - 1)
            work.declare(device, epoch, first, first + count - 1, "shed", reason)
        return counts
