"""Named points at which a process can be told to die, so that a test may cut the walk in two at every step.

MILLRACE_CRASH_AT=NAME, or NAME:3 for the third time there, read once; without it a point does nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

_EVERY = ("agent", "gateway", "sync", "cloud")
_KEEPS_PICTURES = ("agent", "gateway", "cloud")

# Each point with the programs that pass it on an ordinary day; tests/unit/test_crashpoints.py finds each in the code.
POINTS: Mapping[str, tuple[str, ...]] = {
    "database.committing": _EVERY,
    "database.committed": _EVERY,
    "picture.half_written": _KEEPS_PICTURES,
    "picture.written": _KEEPS_PICTURES,
    "picture.unlinking": ("agent", "gateway"),
    "agent.handed": ("agent",),
    "agent.admitted": ("agent",),
    "agent.published": ("agent",),
    "agent.receipt_heard": ("agent",),
    "agent.forgot": ("agent",),
    "gateway.received": ("gateway",),
    "gateway.inferred": ("gateway",),
    "gateway.committed": ("gateway",),
    "gateway.results_said": ("gateway",),
    "gateway.receipts_said": ("gateway",),
    "gateway.acknowledged": ("gateway",),
    "gateway.purged": ("gateway",),
    "sync.picked": ("sync",),
    "sync.uploaded": ("sync",),
    "sync.answered": ("sync",),
    "sync.settled": ("sync",),
    "cloud.received": ("cloud",),
    "cloud.picture_stored": ("cloud",),
    "cloud.committed": ("cloud",),
    "cloud.answered": ("cloud",),
}
# Those that are passed only after something out of the ordinary: receipts that are late, a damaged file.
SELDOM: Mapping[str, tuple[str, ...]] = {
    "spill.copying": ("agent",),
    "spill.copied": ("agent",),
    "reservation.written": ("agent", "gateway"),
    "reservation.renamed": ("agent", "gateway"),
    "swap.loaded": ("gateway",),
    "swap.noted": ("gateway",),
    "healing.set_aside": _EVERY,
    "healing.filled": _EVERY,
    "healing.renamed": _EVERY,
}


class UnknownPoint(ValueError):
    """MILLRACE_CRASH_AT names no point; a test that waits for it would wait for ever."""


class Trap:
    """Where this process is to die, and after how many times more."""

    def __init__(self, wish: str) -> None:
        """`wish` as MILLRACE_CRASH_AT has it, empty for nowhere. Errors: UnknownPoint."""
        self.name, _, nth = wish.partition(":")
        if wish and (self.name not in {*POINTS, *SELDOM} or (nth and not nth.isdecimal())):
            raise UnknownPoint(f"MILLRACE_CRASH_AT={wish}: NAME or NAME:NTH, of {', '.join([*POINTS, *SELDOM])}")
        self.left = int(nth or "1")

    def springs(self, name: str) -> bool:
        """Note that a point was reached; say whether it is the one, for the last time wanted."""
        if name != self.name:
            return False
        self.left -= 1
        return self.left == 0


_trap = Trap(os.environ.get("MILLRACE_CRASH_AT", ""))


def reached(name: str) -> None:
    """Die here, if here is where it was wanted: by SIGKILL, so that nothing is flushed, closed or said."""
    if _trap.springs(name):
        os.kill(os.getpid(), signal.SIGKILL)
