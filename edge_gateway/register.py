"""Who is known: a bound on devices and on each one's epochs, so that invented names take no room for ever.

An epoch that was quiet for long makes room for a new one; what it still owed is declared: nothing goes in silence.
"""

from __future__ import annotations

from collections.abc import Callable

from edge_gateway.settings import LimitSettings
from edge_gateway.store import Store
from edge_gateway.streams import Stream

QUIET_S = 3600.0  # an epoch that was heard within this is in use
Declare = Callable[[str, str, int, int, str, str], None]
"""(device, epoch, first seq, last seq, disposition, reason)"""


class Crowded(Exception):
    """There is no room for another device, or another epoch of one; `name` is the alarm's."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


class Register:
    """The bounds on a store's streams. The writer's thread uses it; others may ask `admits`."""

    def __init__(self, store: Store, limits: LimitSettings) -> None:
        self._store, self._limits = store, limits
        self._heard_s: dict[int, float] = {}

    def admits(self, device: str) -> bool:
        """Whether a device is known or may become so."""
        return bool(self._store.epochs_of(device)) or self._store.devices < self._limits.devices

    def stream(self, device: str, epoch: str, now_s: float, declare: Declare) -> Stream:
        """Return the stream of an epoch, made if it is new, inside the present transaction. Errors: Crowded."""
        stream = self._store.stream(device, epoch)
        if stream is None:
            if not self.admits(device):
                raise Crowded(
                    "too_many_devices",
                    f"{device} is new and {self._limits.devices} are known; raise limits.devices if it is one",
                )
            if len(self._store.epochs_of(device)) >= self._limits.epochs_per_device:
                self._retire_one(device, now_s, declare)
            stream = self._store.open_stream(device, epoch)
        self._heard_s[stream.no] = now_s
        return stream

    def scatters(self, stream: Stream, first: int, last: int) -> bool:
        """Whether a range would be one too many ahead of a hole."""
        return len(stream.ahead) >= self._limits.ahead_ranges and stream.scatters(first, last)

    def _retire_one(self, device: str, now_s: float, declare: Declare) -> None:
        own = self._store.outbox.epoch  # bare events are numbered in it
        epochs = [stream for stream in self._store.epochs_of(device) if stream.epoch != own]
        oldest = min(epochs, key=lambda stream: self._heard_s.setdefault(stream.no, now_s), default=None)
        if oldest is None or now_s - self._heard_s[oldest.no] < QUIET_S:
            raise Crowded(
                "too_many_epochs",
                f"{device} has begun {self._limits.epochs_per_device} epochs of late; does it keep its spool?",
            )
        minted = self._store.minted_of(oldest)
        for first, last in oldest.gaps_below(minted + 1):
            declare(device, oldest.epoch, first, last, "unproven", "its epoch ended long ago")
        self._heard_s.pop(oldest.no)
        self._store.retire(oldest)
