"""When and as what a file was made: a copy that was put in its place differs in it, whatever it contains."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

_AT_FDCWD = -100
_STATX_BTIME = 0x800
_STATX_BYTES = 256
_MASK_AT, _BTIME_AT = 0, 80
_statx = getattr(ctypes.CDLL(None), "statx", None)


def birth(path: Path) -> str:
    """Return the file's number and time of birth, as far as the filesystem keeps them. Errors: OSError."""
    return f"{path.stat().st_ino} {_birth_time(path)}"


def _birth_time(path: Path) -> str:
    """Return `seconds.nanoseconds` from statx(2), which Python does not offer, or nothing where nobody knows it."""
    found = ctypes.create_string_buffer(_STATX_BYTES)
    if _statx is None or _statx(_AT_FDCWD, os.fsencode(path), 0, _STATX_BTIME, found) != 0:
        return ""
    (mask,) = struct.unpack_from("=I", found, _MASK_AT)
    if not mask & _STATX_BTIME:
        return ""
    seconds, nanoseconds = struct.unpack_from("=qI", found, _BTIME_AT)
    return f"{seconds}.{nanoseconds:09}"
