"""What the cloud has committed is owed to sync.db until the disk takes it: before that nothing more is sent."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from cloud_sync.batches import Batch
from cloud_sync.link import Backoff
from cloud_sync.news import Untold
from cloud_sync.parcel import Parcel
from cloud_sync.progress import Progress
from millrace.blobs import StorageFailed
from millrace.clock import Clock
from millrace.entries import Entry, Lane

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Settlement:
    """What the cloud has committed and the account must hold."""

    epoch: str
    lane: Lane
    first: int
    last: int
    buried: list[tuple[Entry, str]]
    seen: tuple[int, int]


class Debt:
    """Stands between the drain and the account, which a disk may refuse for a while."""

    def __init__(self, progress: Progress, pause: Backoff, clock: Clock) -> None:
        """`pause` grows while the disk refuses."""
        self._progress, self._pause, self._clock = progress, pause, clock
        self._owed: _Settlement | None = None
        self._told: Untold = ()
        self.moved_s = clock.uptime_s()
        """At which uptime something was last settled, or left alone for a while."""

    @property
    def is_owed(self) -> bool:
        """Whether rows are committed in the cloud that the account does not hold yet."""
        return self._owed is not None

    def wait_s(self, now_s: float) -> float:
        """Return for how long the disk is left alone; 0 or less for not at all."""
        return self._pause.wait_s(now_s)

    def moved(self) -> float:
        """Take note that there is progress now; return the uptime."""
        self.moved_s = self._clock.uptime_s()
        return self.moved_s

    def settle(
        self, epoch: str, batch: Batch, parcel: Parcel, refused: list[tuple[Entry, str]], seen: tuple[int, int]
    ) -> None:
        """Settle what the cloud has committed of a batch, the refused and the lost as buried.

        `seen` is what the lane's BurialCap has seen with it. Errors: StorageFailed.
        """
        buried = parcel.lost + refused
        for row, reason in buried:
            log.error("row_buried position=%d seq=%s-%d reason=%r", row.position, row.epoch, row.seq, reason)
        self._owed = _Settlement(epoch, batch.lane, batch.first, parcel.rows[-1].position, buried, seen)
        self.pay()

    def owe_told(self, untold: Untold) -> None:
        """Take note of burials that the cloud has been told of; they are written with what is paid next."""
        self._told = untold

    def pay(self) -> None:
        """Write what the cloud has committed and the account does not hold yet. Errors: StorageFailed."""
        if self._owed is not None:
            owed = self._owed
            self._progress.settle(
                owed.epoch, owed.lane, owed.first, owed.last, owed.buried, self._clock.now().wall_ns, owed.seen
            )
            self._owed = None
            self.moved()
        if self._told:
            self._progress.told(self._told)
            self._told = ()

    def note_link(self, state: str, rows_per_s: float, said: str, rates: Mapping[Lane, float]) -> None:
        """Write the link's state for those who read the account; a disk that refuses is left alone for a while."""
        try:
            self._progress.note_link(state, self._clock.now().wall_ns, rows_per_s, said, rates)
        except StorageFailed as error:
            self.disk_failed(error)
        else:
            if self._pause.failures:
                log.info("account_written tries=%d", self._pause.failures)
                self._pause.succeeded()

    def disk_failed(self, error: StorageFailed) -> None:
        """Leave the disk alone for a while, each time longer."""
        self._pause.failed(self._clock.uptime_s())
        log.error("account_not_written tries=%d error=%s: nothing is sent until it can be", self._pause.failures, error)
