"""Receipts: what of a device's epoch is committed here and how much may come; held back while there is no room."""

from __future__ import annotations

from typing import Any

from edge_gateway.settings import GatewaySettings
from edge_gateway.shares import Shares
from edge_gateway.store import Store
from edge_gateway.streams import Stream
from edge_gateway.work import Message
from millrace import clock, jsontext, topics


class Receipts:
    """Makes them, and remembers who was held back. Used by the one thread that writes."""

    def __init__(
        self, settings: GatewaySettings, store: Store, time: clock.Clock, shares: Shares[Any] | None = None
    ) -> None:
        """`shares` says how much each device may have under way, all of it by default."""
        self._settings, self._store, self._clock, self._shares = settings, store, time, shares
        self._withheld: set[tuple[str, str]] = set()

    def receipt(self, device: str, epoch: str, stream: Stream | None) -> Message:
        """Return the receipt for an epoch of a device, of which nothing may be known."""
        now = self._clock.now()
        value = {
            "gateway": self._settings.gateway,
            "epoch": epoch,
            "ranges": stream.receipt_ranges() if stream else [],
            "window_bytes": self._window_bytes(device),
            "bootid": now.boot_id,
            "uptimens": str(now.uptime_ns),
        }
        return Message(topics.topic(self._settings.prefix, topics.Kind.RECEIPT, device), jsontext.dump(value))

    def withhold(self, device: str, epoch: str) -> None:
        """Take note that a device was held back for want of room, and waits to hear that there is some again."""
        self._withheld.add((device, epoch))

    def reopened(self) -> list[Message]:
        """Return the receipts with which devices that were held back learn that there is room again, once."""
        if self._store.full or not self._withheld:
            return []
        told, self._withheld = self._withheld, set()
        return [self.receipt(device, epoch, self._store.stream(device, epoch)) for device, epoch in sorted(told)]

    def _window_bytes(self, device: str) -> int:
        if self._store.full:
            return 0
        if self._shares is None:
            return self._settings.limits.window_bytes
        return self._shares.window_bytes(device, self._clock.uptime_s())
