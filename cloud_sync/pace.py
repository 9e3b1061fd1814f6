"""How much goes in one batch: what the link carried lately fits well inside a request's time. No I/O here."""

from __future__ import annotations

GROWTH_SHARE = 1 / 16


class Pace:
    """The share of the largest batch that is sent at a time, from one row's to 1.

    It grows with each full batch that is done in time: twofold up to half of the size that last took too long, by a
    sixteenth from there on, and never beyond what the measured rate carries in `target_s`. A batch that was given up
    halves it.
    """

    def __init__(self, max_rows: int, max_bytes: int, target_s: float) -> None:
        self._max_rows, self._max_bytes, self._target_s = max_rows, max_bytes, target_s
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget what was measured: the next batch may be a full one."""
        self._share = 1.0
        self._too_much = 2.0

    @property
    def rows(self) -> int:
        """The most rows for the next batch, 1 at least."""
        return max(1, int(self._share * self._max_rows))

    @property
    def bytes(self) -> int:
        """The most bytes for the next batch; a first row that is larger goes all the same."""
        return max(1, int(self._share * self._max_bytes))

    def done(self, rows: int, size_bytes: int, spent_s: float) -> None:
        """Take note of a batch that was committed `spent_s` after it was begun."""
        used = self._used(rows, size_bytes)
        carried = used * self._target_s / max(spent_s, 1e-6)
        if spent_s > self._target_s:
            self._set(min(self._share, carried))
        elif used >= self._share / 2:
            doubled = self._share * 2
            grown = doubled if doubled < self._too_much / 2 else self._share + GROWTH_SHARE
            self._set(max(self._share, min(grown, carried)))

    def given_up(self, rows: int, size_bytes: int) -> None:
        """Take note of a batch that was not done in time."""
        self._too_much = min(self._share, self._used(rows, size_bytes))
        self._set(self._too_much / 2)

    def _used(self, rows: int, size_bytes: int) -> float:
        return max(rows / self._max_rows, size_bytes / self._max_bytes)

    def _set(self, share: float) -> None:
        self._share = min(1.0, max(share, 1 / self._max_rows))
