"""Memory grows little with the hours: one arena, no rings of garbage, and what is free goes back to the system."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path

EVERY_S = 60.0
ARENAS = 1
LARGE_BYTES = 32 << 10
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h


def share() -> None:
    """Have all threads share one of glibc's arenas, called before any starts: an arena once made stays.

    With one for nearly each thread, what they hand to each other lies scattered, and more and more lies free between.
    """
    _set(_M_ARENA_MAX, ARENAS)


def part() -> None:
    """Have each block from `LARGE_BYTES` on, such as a picture, mapped by itself: it goes back whole, leaves no hole.

    That costs some microseconds a block, so it is not for who decodes pictures.
    """
    _set(_M_MMAP_THRESHOLD, LARGE_BYTES)


def stay() -> None:
    """Take what a program has at its start for lasting, so that looking for rings of garbage later costs little."""
    gc.collect()
    gc.freeze()


def resident_bytes() -> int:
    """Return how much of this process is in memory now."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE")


def give_back() -> None:
    """Free what only rings of objects hold, and give back what is free; another C library is left to its own ways."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _set(option: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(option, value)
