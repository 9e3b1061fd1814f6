"""Damage to files, by chance: what a dying card, a torn write or a careless hand makes of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

PAGE_BYTES = 4096
Damage = Callable[[Path, random.Random], None]


def _truncated(file: Path, chance: random.Random) -> None:
    with file.open("r+b") as opened:
        opened.truncate(chance.randrange(max(1, file.stat().st_size)))


def _page_zeroed(file: Path, chance: random.Random) -> None:
    _put(file, chance, bytes, PAGE_BYTES)


def _bit_flipped(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    if content:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        _overwrite(file, bytes(content))


def _garbage(file: Path, chance: random.Random) -> None:
    _put(file, chance, chance.randbytes, chance.choice((16, 512, 4096, 3 * 4096)))


def _header_gone(file: Path, chance: random.Random) -> None:
    with file.open("r+b") as opened:
        opened.write(chance.randbytes(min(100, file.stat().st_size)))


def _emptied(file: Path, _chance: random.Random) -> None:
    _overwrite(file, b"")


def _all_garbage(file: Path, chance: random.Random) -> None:
    _overwrite(file, chance.randbytes(file.stat().st_size))


def _gone(file: Path, _chance: random.Random) -> None:
    file.unlink()


def _put(file: Path, chance: random.Random, made: Callable[[int], bytes], count: int) -> None:
    """Overwrite one stretch that begins at a multiple of its length, and no more than the file has."""
    size = file.stat().st_size
    at = chance.randrange(0, max(1, size), count)
    with file.open("r+b") as opened:
        opened.seek(at)
        opened.write(made(min(count, size - at)))


def _overwrite(file: Path, content: bytes) -> None:
    with file.open("r+b") as opened:
        opened.truncate()
        opened.write(content)


KINDS: dict[str, Damage] = {
    "truncated": _truncated,
    "page zeroed": _page_zeroed,
    "bit flipped": _bit_flipped,
    "garbage": _garbage,
    "header gone": _header_gone,
    "emptied": _emptied,
    "all garbage": _all_garbage,
    "gone": _gone,
}


def victims(home: Path) -> dict[str, list[Path]]:
    """Return the files of a line that can be damaged, by what they are; each kind is as likely as the other."""
    found = {
        "spool.db": [home / "device" / "spool.db"],
        "spool.db-wal": [home / "device" / "spool.db-wal"],
        "gateway.db": [home / "gateway" / "gateway.db"],
        "gateway.db-wal": [home / "gateway" / "gateway.db-wal"],
        "sync.db": [home / "gateway" / "sync.db"],
        "sync.db-wal": [home / "gateway" / "sync.db-wal"],
        "device picture": sorted((home / "device" / "frames").glob("??/*")),
        "gateway picture": sorted((home / "gateway" / "frames").glob("??/*")),
        "sidecar": sorted(home.glob("*/*.db.*")),
    }
    return {what: there for what, files in found.items() if (there := [file for file in files if file.is_file()])}
