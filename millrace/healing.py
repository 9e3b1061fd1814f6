"""Starting in any state: a damaged file is set aside, never deleted, and a new one holds what was readable of it.

A kill at any moment loses nothing: a mark beside the file says what was begun, and the next start ends it.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

from millrace import crashpoints
from millrace.blobs import StorageFailed, make_folder, sync_folder
from millrace.database import PAGE_BYTES, TAILS, find_fault, locked, mark_damaged, mark_of

log = logging.getLogger(__name__)

CHECK_BUDGET_S = 0.4


def heal(path: Path, fill: Callable[[Path, Path, str], None], *, is_used: bool = False) -> str | None:
    """See to it that `path` is sound, or not there; return what was wrong with it, or None.

    `fill(old, new, why)` makes the file that takes the place of a damaged one, and closes it. `is_used` says that there
    was something in the file, so that an empty one is damage too. Errors: Locked, StorageFailed, what `fill` raises.
    """
    try:
        make_folder(path.parent)
        with locked(path):
            why, aside = _look(path, is_used)
            if why is None:
                return None
            if aside is None:
                aside = _free_name(path)
                _write_synced(mark_of(path), f"{aside.name}\n{why}".encode())
            new = path.with_name(path.name + ".healing")
            if not (path.exists() and aside.exists()):  # both: all but the mark was done
                _set_aside(path, aside)
                crashpoints.reached("healing.set_aside")
                _clear(new)
                fill(aside, new, why)
                crashpoints.reached("healing.filled")
                new.rename(path)
                sync_folder(path.parent)
                crashpoints.reached("healing.renamed")
            _clear(new)
            mark_of(path).unlink()
            sync_folder(path.parent)
    except OSError as error:
        raise StorageFailed(f"{path}: {error}") from error
    log.error("file_damaged file=%s error=%r kept=%s: what was readable is carried over", path, why, aside)
    return why


def ask_for_healing(path: Path) -> str | None:
    """Ask the program that writes a damaged file to end, and to heal it at its next start; say why it is not asked.

    Where there is no room for the rows again it would end and not come back; another user's mark it could not read.
    """
    try:
        if mark_of(path).exists():
            return None
        if path.stat().st_uid != os.geteuid():
            return "it belongs to another user, who must start its program again"
        disk = os.statvfs(path.parent)
        if disk.f_bavail * disk.f_frsize < _filled_bytes(path):
            return "the disk has no room to salvage it"
        mark_damaged(path)
    except OSError as error:
        return str(error)
    return None


def is_asked_for(path: Path) -> bool:
    """Whether damage was met in the file, and nobody has healed it since; costs no more than a look."""
    try:
        mark_of(path).stat()
    except OSError:
        return False
    return True


def _filled_bytes(path: Path) -> int:
    """Return the size of a database without its free pages, or with them where its header cannot be right."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        free_bytes = int.from_bytes(file.read(40)[36:], "big") * PAGE_BYTES
    return size_bytes - free_bytes if free_bytes < size_bytes else size_bytes


def damaged_files(folder: Path) -> dict[str, int]:
    """Return how many damaged files a folder keeps, each with its log counted once, and their bytes together.

    Only a person deletes them. One that goes meanwhile, or a disk that does not say, is counted as nothing.
    """
    names, size_bytes = set(), 0
    with suppress(OSError):
        for part in folder.glob("*.damaged-*"):
            size_bytes += part.stat().st_size
            names.add(re.sub("-(wal|shm)$", "", part.name))
    return {"files": len(names), "bytes": size_bytes}


def _look(path: Path, is_used: bool) -> tuple[str | None, Path | None]:
    """Return what is wrong with the file, and the name under which it is being kept if that was begun."""
    try:
        name, _, why = mark_of(path).read_text(errors="replace").partition("\n")
    except FileNotFoundError:
        pass
    else:
        if name.startswith(path.name + ".damaged-") and "/" not in name:
            return why or "damaged", path.with_name(name)
        return "damage was met while it was in use", None
    size_bytes = path.stat().st_size if path.exists() else None
    log_bytes = _with_tail(path, "-wal").stat().st_size if _with_tail(path, "-wal").exists() else 0
    if not size_bytes and log_bytes:
        return "it is gone, but its log is here", None
    if size_bytes == 0 and is_used:
        return "it is empty", None
    return find_fault(path, CHECK_BUDGET_S) if size_bytes else None, None


def _free_name(path: Path) -> Path:
    """Return a name under which nothing is kept yet."""
    names = (path.with_name(f"{path.name}.damaged-{number}") for number in count(1))
    return next(name for name in names if not any(_with_tail(name, tail).exists() for tail in TAILS))


def _set_aside(path: Path, aside: Path) -> None:
    for tail in TAILS:
        part = _with_tail(path, tail)
        if part.exists() and not _with_tail(aside, tail).exists():
            part.rename(_with_tail(aside, tail))
    sync_folder(path.parent)


def _clear(new: Path) -> None:
    """Unlink what a healing that was cut short has begun to fill."""
    for tail in (*TAILS, ".lock", "-journal", *(".lent" + tail for tail in TAILS)):
        _with_tail(new, tail).unlink(missing_ok=True)


def _with_tail(path: Path, tail: str) -> Path:
    return path.with_name(path.name + tail)


def _write_synced(path: Path, content: bytes) -> None:
    half = path.with_name(path.name + ".part")
    with half.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    half.rename(path)
    sync_folder(path.parent)
