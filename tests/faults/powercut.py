"""Power cuts, replayed: from what a real program did to a folder, what a disk may hold after a cut at any moment.

What was synced is there. Of what was not, each 512-byte sector and each change of a name is there or not, by chance;
a sync of a file does not sync its name. That is what POSIX allows, and more than most disks do.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from faults.systemcalls import Change, NotUnderstood, Recording

SECTOR_BYTES = 512


@dataclass(slots=True, eq=False)
class _File:
    """A file's bytes as the program sees them, as they are on the disk for sure, and what is between."""

    live: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def write(self, at: int, data: bytes) -> None:
        _put(self.live, at, data)
        self.pending.append((at, data))

    def truncate(self, size: int) -> None:
        _cut(self.live, size)
        self.pending.append((size, None))

    def sync(self) -> None:
        self.synced = bytes(self.live)
        self.pending.clear()

    def after_cut(self, chance: random.Random, kept_ratio: float) -> bytes:
        content = bytearray(self.synced)
        for at, data in self.pending:
            if data is None:
                if chance.random() < kept_ratio:
                    _cut(content, at)
                continue
            begin = at
            while begin < at + len(data):
                end = min((begin // SECTOR_BYTES + 1) * SECTOR_BYTES, at + len(data))
                if chance.random() < kept_ratio:
                    _put(content, begin, data[begin - at : end - at])
                begin = end
        return bytes(content)


def _put(content: bytearray, at: int, data: bytes) -> None:
    if len(content) < at:
        content.extend(bytes(at - len(content)))
    content[at : at + len(data)] = data


def _cut(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))


class Disk:
    """A folder as a disk and its cache have it."""

    def __init__(self) -> None:
        self._live: dict[str, _File | None] = {}  # None is a folder
        self._durable: dict[str, _File | None] = {}
        self._names: list[tuple[Change, _File | None]] = []  # changes of names that no sync has reached yet

    def apply(self, change: Change) -> None:
        """Do the next change."""
        if change.kind == "sync":
            self._sync(change.path)
        elif change.kind in ("rename", "unlink", "mkdir"):
            self._name(change, None if change.kind == "mkdir" else self._live[change.path])
        elif change.kind in ("create", "create anew"):
            if change.path not in self._live:
                self._name(Change("link", change.path), _File())
            elif change.kind == "create anew":
                self._file(change.path).truncate(0)
        elif change.kind == "truncate":
            self._file(change.path).truncate(change.at)
        else:
            self._file(change.path).write(change.at, change.data)

    def cut(self, target: Path, chance: random.Random) -> None:
        """Write into the empty folder `target` what a cut at this moment may leave."""
        kept_ratio = chance.choice((0.1, 0.5, 0.5, 0.9))
        names = dict(self._durable)
        for change, node in self._names:
            if chance.random() < kept_ratio:
                _rename(names, change, node)
        for path in sorted(names):
            node = names[path]
            if not (target / path).parent.is_dir() or path.endswith("-shm"):  # SQLite maps that one, and makes it anew
                continue
            if node is None:
                (target / path).mkdir()
            else:
                (target / path).write_bytes(node.after_cut(chance, kept_ratio))

    def _file(self, path: str) -> _File:
        file = self._live[path]
        if file is None:
            raise NotUnderstood(f"{path} is a folder")
        return file

    def _name(self, change: Change, node: _File | None) -> None:
        _rename(self._live, change, node)
        self._names.append((change, node))

    def _sync(self, path: str) -> None:
        if path != "." and (file := self._live.get(path)) is not None:
            file.sync()
            return
        waiting = []
        for change, node in self._names:
            if path in {str(Path(name).parent) for name in (change.path, change.other) if name}:
                _rename(self._durable, change, node)
            else:
                waiting.append((change, node))
        self._names = waiting


def _rename(names: dict[str, _File | None], change: Change, node: _File | None) -> None:
    if change.kind == "rename":
        names[change.other] = node
    if change.kind in ("link", "mkdir"):
        names[change.path] = node
    elif names.get(change.path) is node:
        names.pop(change.path, None)


def cuts(recording: Recording, seed: int, count: int, scratch: Path) -> Iterator[tuple[int, Path]]:
    """Yield (number of the first change that was not done, folder as it may be found) for `count` cuts by chance."""
    chance = random.Random(seed)
    places = sorted(chance.choices(range(1, len(recording.changes) + 1), k=count))
    disk, done = Disk(), 0
    for number, place in enumerate(places):
        for change in recording.changes[done:place]:
            disk.apply(change)
        done = place
        folder = scratch / f"cut-{number}"
        folder.mkdir()
        disk.cut(folder, chance)
        yield place, folder
