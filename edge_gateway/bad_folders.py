"""Which folders refuse the pictures that belong there, and when one has done so for too long to be waited for. No I/O.

Until then a frame waits with its device, so that a fault that passes costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 900.0
"""For so long a folder refuses all its pictures before frames are taken without them; a fault of minutes may pass."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    since_s: float
    last_s: float
    why: str

    def counts(self, now_s: float) -> bool:
        """Whether it tells of now: by default whoever waits for a folder tries it again within minutes."""
        return now_s - self.last_s < PATIENCE_S


class BadFolders:
    """Written by the one thread that stores pictures; others may ask `said`."""

    def __init__(self) -> None:
        self._refusals: dict[Path, _Refusal] = {}

    def refused(self, folder: Path, why: str, now_s: float) -> bool:
        """Take note that a folder refused a picture; return whether it has refused all of them for too long.

        What it refused long ago does not count: nobody has tried it meanwhile.
        """
        known = self._refusals.get(folder)
        since_s = known.since_s if known is not None and known.counts(now_s) else now_s
        self._refusals[folder] = _Refusal(since_s, now_s, why)
        return now_s - since_s >= PATIENCE_S

    def took(self, folder: Path) -> None:
        """Take note that a folder took a picture: it is sound."""
        self._refusals.pop(folder, None)

    def said(self, now_s: float) -> list[str]:
        """Return of each folder that refused its last picture what was wrong, if that was not long ago.

        A folder that still refuses is tried again by whoever waits for it, and named again.
        """
        return [refusal.why for refusal in list(self._refusals.values()) if refusal.counts(now_s)]
