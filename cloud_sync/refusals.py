"""What the cloud refuses of a lane: halved down to the one row, buried within a cap, or the lane waits. No I/O here."""

from __future__ import annotations

import math
from collections import deque

from cloud_sync.link import Backoff


class BurialCap:
    """A single poison row is buried; a cloud, a proxy or a release that refuses everything must not bury everything.

    Of the last `window_rows` rows no more than `max_share` or `min_rows` (whichever is more) are buried. A worker that
    is started again begins with what a former life had `seen`: else one that ends all the time could bury everything.
    """

    def __init__(self, max_share: float, min_rows: int, window_rows: int, seen: tuple[int, int] = (0, 0)) -> None:
        self._max_share, self._min_rows, self._window_rows = max_share, min_rows, window_rows
        self._last: deque[tuple[int, int]] = deque()
        self._rows = self._buried = 0
        rows, buried = seen
        if rows > window_rows:  # of several lives: as many as there were on the average
            rows, buried = window_rows, math.ceil(buried * window_rows / rows)
        if rows:
            self.note(rows, buried)

    def after(self, rows: int, buried: int) -> tuple[int, int]:
        """Return what will have been seen once so many more rows are settled: all rows, and the buried among them."""
        return self._rows + rows, self._buried + buried

    def allows(self, rows: int, refused: int) -> bool:
        """Say whether `refused` of the next `rows` rows may be buried."""
        most = max(self._min_rows, self._max_share * min(self._rows + rows, self._window_rows))
        return refused == 0 or self._buried + refused <= most

    def note(self, rows: int, buried: int) -> None:
        """Take note of rows that were settled, and how many of them were buried."""
        self._last.append((rows, buried))
        self._rows += rows
        self._buried += buried
        while self._rows - self._last[0][0] >= self._window_rows:
            gone_rows, gone_buried = self._last.popleft()
            self._rows -= gone_rows
            self._buried -= gone_buried


class LaneState:
    """One lane's own troubles, while the others go on."""

    def __init__(self, cap: BurialCap, pause: Backoff) -> None:
        self.cap, self._pause = cap, pause
        self._piece_rows: int | None = None
        self.held_because = ""

    def wait_s(self, now_s: float) -> float:
        """Return for how long the lane is left alone; 0 or less for not at all."""
        return self._pause.wait_s(now_s)

    def hold(self, now_s: float, why: str) -> None:
        """Leave the lane alone for a while; each time longer, until rows of it are settled."""
        self.held_because = why
        self._pause.failed(now_s)

    @property
    def is_searched(self) -> bool:
        """Whether a row that the cloud refuses is being looked for."""
        return self._piece_rows is not None

    def most_rows(self, rows: int) -> int:
        """Return how many rows go at once where `rows` would do: fewer while a refused row is looked for."""
        return rows if self._piece_rows is None else min(rows, self._piece_rows)

    def refused(self, rows: int) -> None:
        """Take note that a request of so many rows was refused as a whole: the next one has half of them."""
        self._piece_rows = max(1, rows // 2)

    def settled(self, rows: int, buried: int, max_rows: int) -> None:
        """Take note of settled rows: pieces grow again up to `max_rows`, and the lane is held no more."""
        self.cap.note(rows, buried)
        if self._piece_rows is not None:
            self._piece_rows *= 2
            if self._piece_rows >= max_rows:
                self._piece_rows = None
        self.held_because = ""
        self._pause.succeeded()
