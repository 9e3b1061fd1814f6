"""Freed memory goes back to the system: between pieces in use glibc would keep more of it from hour to hour."""

from __future__ import annotations

import ctypes
import gc

EVERY_S = 60.0


def stay() -> None:
    """Take what a program has at its start for lasting, so that looking for circles of objects later costs little."""
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Free what only circles hold, and give back what is free, in some milliseconds; no other C library is asked.

    paho's client is such a circle: with each connection that ended it would keep all it had not heard acknowledged,
    until Python has a quarter more objects than at its last look.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
