"""How long to leave a disk alone that has refused: a pause that doubles; pure, time is passed in."""

from __future__ import annotations


class Patience:
    """For one kind of work."""

    def __init__(self, first_s: float, max_s: float) -> None:
        self._first_s, self._max_s = first_s, max_s
        self._pause_s, self._until_s = first_s, float("-inf")

    def due(self, now_s: float) -> bool:
        """Whether the work may be tried now."""
        return now_s >= self._until_s

    def refused(self, now_s: float) -> float:
        """Note that it failed; return the seconds until it may be tried again."""
        pause_s = self._pause_s
        self._until_s, self._pause_s = now_s + pause_s, min(pause_s * 2, self._max_s)
        return pause_s

    def done(self) -> None:
        """Note that it went well: the next failure waits for the shortest time again."""
        self._pause_s = self._first_s
