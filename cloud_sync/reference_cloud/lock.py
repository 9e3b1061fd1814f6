"""One process uses a state folder at a time; the kernel holds the lock and drops it with the process."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from millrace.outbox import Locked


def take_lock(path: Path) -> int:
    """Return the descriptor that holds the lock until it is closed; Locked, naming the holder, if another has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        raise Locked(
            f"{path.parent} is used by process {holder}; stop that one first, or use another state_dir"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
