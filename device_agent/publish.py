"""When to send what: never without a gateway, never over a window unreceipted, again when in doubt. No I/O here.

How long to wait before sending again is learned from what was sent once: twice its delay. A receipt for what was sent
twice does not say which of the two it is for, and shortens no wait (Karn): else a line slower than the wait would
be filled with repeats. For the same reason a hole in a receipt has only that sent again which is missing and late: on
a line that loses something because it is full, the rest is still on its way.
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
        self.in_flight: dict[int, tuple[int, float, bool]] = {}
        """Of each position its bytes, when it was sent, and whether that was the first time on this connection."""
        self.in_flight_bytes = 0
        self.cursor = 0
        self._highest = 0
        self._wait_s = resend_after_s
        self._learned_s = 0.0
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
        self.in_flight[position] = size_bytes, now_s, position > self._highest
        self._highest = max(self._highest, position)
        self.in_flight_bytes += size_bytes
        self.cursor = max(self.cursor, position)

    def passed_by(self, position: int) -> None:
        """Note that an entry is under way already, or cannot go on this connection, and that what is behind it may."""
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
                sent_s, is_first = self._take_out(position)
                if is_first:
                    delays_s.append(now_s - sent_s)
            if settled:
                self._progress_s = now_s
        if delays_s:
            self._learn(2 * max(delays_s), now_s)
        if now_s - self._hole_s >= self._resend_after_s:
            self._send_holes_again(highest, now_s)

    def resend_due(self, now_s: float) -> bool:
        """Say whether nothing has moved for too long; if so, everything unreceipted is due again, with backoff.

        So is our own word: a gateway that hears it answers with a receipt.
        """
        waiting = bool(self.in_flight) or not self._greeted or self.window_bytes <= 0
        if not self.far_side_known or not waiting or now_s - self._progress_s < self._wait_s:
            return False
        self._back_off()
        self.window_bytes = max(self.window_bytes, 1)
        self._rewind(now_s)
        return True

    def _back_off(self) -> None:
        self._wait_s = max(self._wait_s, min(self._wait_s * 2, self._resend_max_s))

    def _learn(self, wait_s: float, now_s: float) -> None:
        """Take what a receipt tells of the line. A longer wait is forgotten by and by: not all take equally long."""
        known_s = self._wait_s * 0.5 ** ((now_s - self._learned_s) / self._resend_max_s)
        self._wait_s, self._learned_s = max(self._resend_after_s, wait_s, known_s), now_s

    def _send_holes_again(self, highest: int, now_s: float) -> None:
        """Have that sent again which is missing below the end of a receipt, and is later than others ever were."""
        late = [p for p, (_, sent_s, _) in self.in_flight.items() if p < highest and now_s - sent_s >= self._wait_s]
        for position in late:
            self._take_out(position)
            self.cursor = min(self.cursor, position - 1)
        if late:  # and if they only take longer than we know, those after them are to tell us
            self._hole_s = now_s
            self._back_off()

    def _take_out(self, position: int) -> tuple[float, bool]:
        """Count a position as not under way any more; return when it was sent, and whether for the first time."""
        size_bytes, sent_s, is_first = self.in_flight.pop(position)
        self.in_flight_bytes -= size_bytes
        return sent_s, is_first

    def _await_greeting(self, now_s: float) -> None:
        self._greeted = False
        self._highest = 0
        self._wait_s, self._learned_s = self._resend_after_s, now_s
        self._rewind(now_s)

    def _rewind(self, now_s: float) -> None:
        self.in_flight.clear()
        self.in_flight_bytes = 0
        self.cursor = 0
        self._progress_s = now_s
