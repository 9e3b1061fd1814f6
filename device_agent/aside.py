"""Events that come to nothing again and again wait aside, by their size, so that what is behind them goes. Pure.

A broker that is too small for an event may say nothing: it ends the connection, or takes the event and drops it. That
cannot be told from a bad line, so nothing is given up here: what is as large as the suspect waits, and the smallest
of it is sent now and then. The first receipt for one of them acquits all.
"""

from __future__ import annotations

TRIES = 5


class Aside:
    """The suspicion and who waits for it, by positions in the spool; time is passed in."""

    def __init__(self, pause_s: float, pause_max_s: float) -> None:
        """`pause_s` lies between two tries, and doubles up to `pause_max_s`."""
        self._first_pause_s, self._pause_max_s = pause_s, pause_max_s
        self._pause_s = pause_s
        self._due_s = self._since_s = 0.0
        self._blamed, self._times = 0, 0
        self._waiting: dict[int, int] = {}
        self.at_least_bytes: int | None = None
        """Events of so many bytes wait, and larger ones; None while there is no suspicion."""

    @property
    def count(self) -> int:
        """How many events wait, as far as is known."""
        return len(self._waiting)

    def connected(self, now_s: float) -> None:
        """Note that a connection begins: others come first on it."""
        self._since_s = now_s

    def blame(self, position: int, size_bytes: int, now_s: float) -> None:
        """Count that the oldest event under way came to nothing, on a line on which others were heard."""
        self._times = self._times + 1 if position == self._blamed else 1
        self._blamed = position
        if self._times < TRIES:
            return
        self._times = 0
        self.at_least_bytes = min(size_bytes, self.at_least_bytes or size_bytes)
        self._pause_s = self._first_pause_s
        self._due_s = now_s + self._pause_s

    def has(self, position: int) -> bool:
        """Whether an event is known to wait."""
        return position in self._waiting

    def takes(self, position: int, size_bytes: int) -> bool:
        """Whether an event is to wait; if so it is remembered."""
        if self.at_least_bytes is None or size_bytes < self.at_least_bytes:
            return False
        self._waiting[position] = size_bytes
        return True

    def due(self, now_s: float, *, all_else_sent: bool) -> int | None:
        """Return which event is to be tried now: the smallest that waits; follow it by `tried` or `gone`.

        It may end the connection, and goes when all else is sent, or has had a pause's time on this connection.
        """
        if not self._waiting or now_s < self._due_s:
            return None
        if not all_else_sent and now_s - self._since_s < self._pause_s:
            return None
        return min(self._waiting, key=lambda position: (self._waiting[position], position))

    def tried(self, now_s: float) -> None:
        """Note that one was sent."""
        self._due_s = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, self._pause_max_s)

    def gone(self, position: int) -> None:
        """Note that an event is not held any more."""
        self._waiting.pop(position, None)

    def acquitted(self, first: int, last: int) -> bool:
        """Whether a receipt's range has one that waits; if so the suspicion and the waiting end."""
        if last - first < len(self._waiting):
            found = any(position in self._waiting for position in range(first, last + 1))
        else:
            found = any(first <= position <= last for position in self._waiting)
        if found:
            self._waiting.clear()
            self.at_least_bytes = None
        return found
