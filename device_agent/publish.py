"""When to send what: never without a gateway, never over a window unreceipted, again when in doubt. No I/O here.

How long to wait before sending again is learned from what was sent once: twice its delay. A receipt for what was sent
twice does not say which of the two it is for, and shortens no wait (Karn): else a line slower than the wait would
be filled with repeats.
"""

from __future__ import annotations

from collections.abc import Iterable


class Sender:
    """The rules of the first hand-off, over positions in the spool; time is passed in."""

    def __init__(self, window_bytes: int, resend_after_s: float, resend_max_s: float) -> None:
        self._limit_bytes = window_bytes
        self._resend_after_s, self._resend_max_s = resend_after_s, resend_max_s
        self._gateways: dict[str, str] = {}
        self._connected = False
        self._greeted = False
        self.window_bytes = window_bytes
        self.in_flight: dict[int, tuple[int, float | None]] = {}
        """Of each position its bytes, and when it was sent; None where it was sent before on this connection."""
        self.in_flight_bytes = 0
        self.cursor = 0
        self._highest = 0
        self._wait_s = resend_after_s
        self._progress_s = 0.0
        self._hole_s = float("-inf")

    def connected(self, now_s: float) -> None:
        """Begin anew: what was in flight on the old connection may or may not have arrived."""
        self._connected = True
        self._gateways.clear()
        self._await_greeting(now_s)

    def disconnected(self) -> None:
        """Stop sending."""
        self._connected = False
        self._gateways.clear()

    def gateway(self, name: str, session: str | None, now_s: float) -> bool:
        """Note that a gateway is online with a session, or (None) is not; return whether it is new and wants a word."""
        if session is None:
            self._gateways.pop(name, None)
            return False
        if self._gateways.get(name) == session:
            return False
        self._gateways[name] = session
        self._await_greeting(now_s)
        return True

    @property
    def far_side_known(self) -> bool:
        """Whether we are connected and a gateway is online."""
        return self._connected and bool(self._gateways)

    def budget_bytes(self) -> int:
        """Return how many bytes may be sent now; 0 or less for none.

        On a new connection or gateway session the first receipt is waited for: it says what is already there, and
        whether this spool was set back.
        """
        if not self.far_side_known or not self._greeted:
            return 0
        return self.window_bytes - self.in_flight_bytes

    def sent(self, position: int, size_bytes: int, now_s: float) -> None:
        """Note that an entry was handed to the connection."""
        if not self.in_flight:
            self._progress_s = now_s
        self.in_flight[position] = size_bytes, now_s if position > self._highest else None
        self._highest = max(self._highest, position)
        self.in_flight_bytes += size_bytes
        self.cursor = max(self.cursor, position)

    def passed_by(self, position: int) -> None:
        """Note that an entry cannot go on this connection, and that what is behind it may; another one tries again."""
        self.cursor = max(self.cursor, position)

    def receipted(
        self, ranges: Iterable[tuple[int, int]], window_bytes: int, now_s: float, *, greets: bool = True
    ) -> None:
        """Take a receipt over position ranges; a hole below its end means that something was lost on the way.

        `greets`: it speaks of the present epoch, and so answers the word that a new far side was given.
        """
        self._greeted |= greets
        self.window_bytes = min(self._limit_bytes, window_bytes)
        highest, delays_s = 0, []
        for first, last in ranges:
            highest = max(highest, last)
            if last - first < len(self.in_flight):
                settled = [position for position in range(first, last + 1) if position in self.in_flight]
            else:
                settled = [position for position in self.in_flight if first <= position <= last]
            for position in settled:
                size_bytes, sent_s = self.in_flight.pop(position)
                self.in_flight_bytes -= size_bytes
                if sent_s is not None:
                    delays_s.append(now_s - sent_s)
            if settled:
                self._progress_s = now_s
        if delays_s:
            self._wait_s = max(self._resend_after_s, 2 * max(delays_s))
        hole = any(position < highest for position in self.in_flight)
        if hole and now_s - self._hole_s >= self._wait_s:
            self._hole_s = now_s
            self._rewind(now_s)

    def resend_due(self, now_s: float) -> bool:
        """Say whether nothing has moved for too long; if so, everything unreceipted is due again, with backoff.

        So is our own word: a gateway that hears it answers with a receipt.
        """
        waiting = bool(self.in_flight) or not self._greeted or self.window_bytes <= 0
        if not self.far_side_known or not waiting or now_s - self._progress_s < self._wait_s:
            return False
        self._wait_s = max(self._wait_s, min(self._wait_s * 2, self._resend_max_s))
        self.window_bytes = max(self.window_bytes, 1)
        self._rewind(now_s)
        return True

    def _await_greeting(self, now_s: float) -> None:
        self._greeted = False
        self._highest = 0
        self._wait_s = self._resend_after_s
        self._rewind(now_s)

    def _rewind(self, now_s: float) -> None:
        self.in_flight.clear()
        self.in_flight_bytes = 0
        self.cursor = 0
        self._progress_s = now_s
