"""Which captures are worth sending: at most one an interval, and only what changed; pure, with time passed in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from device_agent.sources.source import Picture, Reading, Scalar, Waveform

Signature = bytes | Mapping[str, Scalar] | None


def signature(content: Picture | Reading | Waveform) -> Signature:
    """Return what change is judged by: a grey thumbnail, a reading's values, or None (always counts as changed).

    Errors: encode.Unencodable if the picture's bytes cannot be decoded.
    """
    if isinstance(content, Reading):
        return content.values
    if isinstance(content, Picture):
        from device_agent.encode import thumbnail

        return thumbnail(content)
    return None


class Gate:
    """Admits captures of one channel and counts those it refuses.

    `interval_s`: at most one in each interval of a steady grid (0: all). `change_ratio`: only what differs by more than
    this from the last one admitted (None: all), but one for each `keepalive_s`.
    """

    def __init__(self, interval_s: float, change_ratio: float | None, keepalive_s: float) -> None:
        self._interval_s = interval_s
        self._change_ratio = change_ratio
        self._keepalive_s = keepalive_s
        self._due_s = -math.inf
        self._admitted_s = -math.inf
        self._last: Signature = None
        self.refused_early = 0
        self.refused_unchanged = 0

    def admits(self, sign: Callable[[], Signature], now_s: float) -> bool:
        """Say whether the capture of `now_s` (monotonic) is sent; `sign` is called only if its signature matters."""
        if now_s < self._due_s:
            self.refused_early += 1
            return False
        if self._change_ratio is not None:
            current = sign()
            quiet = now_s - self._admitted_s < self._keepalive_s
            if quiet and not differs(self._last, current, self._change_ratio):
                self.refused_unchanged += 1
                return False
            self._last = current
        grid_s = self._due_s if now_s < self._due_s + self._interval_s else now_s
        self._due_s = grid_s + self._interval_s
        self._admitted_s = now_s
        return True


def differs(before: Signature, now: Signature, ratio: float) -> bool:
    """Say whether two signatures of one channel differ by more than `ratio`.

    Thumbnails: mean difference as a share of full brightness. Readings: any number by its larger size, any other value
    or set of names at all.
    """
    if isinstance(before, bytes) and isinstance(now, bytes) and len(before) == len(now):
        total = sum(abs(old - new) for old, new in zip(before, now, strict=True))
        return total > ratio * 255 * len(now)
    if isinstance(before, Mapping) and isinstance(now, Mapping) and before.keys() == now.keys():
        return any(_value_differs(before[name], now[name], ratio) for name in now)
    return True


def _value_differs(before: Scalar, now: Scalar, ratio: float) -> bool:
    if isinstance(before, str | bool) or isinstance(now, str | bool):
        return before != now
    return abs(now - before) > ratio * max(abs(before), abs(now))
