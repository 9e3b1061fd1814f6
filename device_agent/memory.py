"""Where a spool's tail may lie: a private folder in memory, which outlives the program and not the machine's power."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

IN_MEMORY = ("tmpfs", "ramfs")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - `claim` refuses what another user has made there


class NoMemory(Exception):
    """No such folder can be had; the message says why, and what to set. The spool keeps all on disk then."""


def default_folder(device: str, state_dir: Path, environ: Mapping[str, str], uid: int) -> Path:
    """Return the folder for one spool's tail: in the service's runtime folder if it has one, else in /dev/shm."""
    given = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    runtime = Path(given) if given else SHARED_MEMORY / f"millrace-{uid}"
    name = hashlib.sha256(str(state_dir.resolve()).encode()).hexdigest()[:8]
    return runtime / f"{device}-{name}"


def claim(folder: Path) -> None:
    """Make the folder if it is not there, and see that it is ours alone and in memory. Errors: NoMemory."""
    try:
        folder.mkdir(0o700, parents=True, exist_ok=True)
        for place in (folder, folder.parent):
            found = place.lstat()
            owners = {os.geteuid()} if place == folder else {os.geteuid(), 0}
            if not stat.S_ISDIR(found.st_mode) or found.st_uid not in owners:
                raise NoMemory(f"{place} is no folder of this user's own; remove it, or set spool.ram_dir")
        folder.chmod(0o700)
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise NoMemory(f"{error}; set spool.ram_dir to a folder in memory") from error
    kind = kind_of(folder.resolve(), mounts)
    if kind not in IN_MEMORY:
        raise NoMemory(f"{folder} is on {kind}, which is not memory; set spool.ram_dir to a folder on tmpfs")


def kind_of(folder: Path, mounts: str) -> str:
    """Return the kind of file system that a folder is on, given what /proc/self/mounts says."""
    best, kind = -1, "an unknown file system"
    for line in mounts.splitlines():
        words = line.split(" ")
        if len(words) < 3:
            continue
        point = Path(words[1].encode().decode("unicode_escape"))  # a space stands there as \\040
        # The last of several mounts on one point is the one that is seen.
        if folder.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), words[2]
    return kind
