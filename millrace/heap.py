"""Freed memory goes back to the system: between pieces in use glibc would keep more of it from hour to hour."""

from __future__ import annotations

import ctypes

EVERY_S = 60.0


def give_back() -> None:
    """Give back what is free, in some milliseconds; another C library is left to its own ways."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
