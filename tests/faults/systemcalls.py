"""What a real program did to a folder, and what it said between: read from a system call trace."""

from __future__ import annotations

import codecs
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

LONGEST_WRITE_BYTES = 70_000
SOCKET = ".sock"  # such a name is made by bind, which is not followed: nothing is in it, and a start takes it away
_CHANGES = "openat,write,pwrite64,ftruncate,fallocate,fsync,fdatasync,rename,unlink,mkdir,lseek,sendto"
_UNKNOWN = (  # calls that could change a file and are not understood: better no answer than a wrong one
    "open,creat,writev,pwritev,pwritev2,truncate,sync_file_range,sync,syncfs,renameat,renameat2,unlinkat,"
    "mkdirat,rmdir,link,linkat,symlink,symlinkat,copy_file_range,sendfile,splice"
)
STRACE = ("strace", "-f", "-y", "-xx", "-s", str(LONGEST_WRITE_BYTES), "-e", f"trace={_CHANGES},{_UNKNOWN}")
_LINE = re.compile(r"(?P<thread>\d+) +(?P<rest>.*)")
_CALL = re.compile(r"(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+)(?:<(?P<opened>[^>]*)>)?")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_DESCRIPTOR = re.compile(r"(\d+)<([^>]*)>(\(deleted\))?")


class NotUnderstood(Exception):
    """The trace has a call in the recorded folder that the simulator cannot follow."""


class Said(NamedTuple):
    """What the program told the world, and how many changes it had made by then."""

    after: int
    text: bytes


class Change(NamedTuple):
    """One change of the disk, its paths relative to the recorded folder."""

    kind: str
    path: str
    data: bytes = b""
    at: int = 0
    other: str = ""


@dataclass(slots=True)
class Recording:
    """What a program did to a folder, in order, and what it said between."""

    changes: list[Change] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)

    def said_by(self, cut: int) -> list[bytes]:
        """Return what had been said before the change of that number, the first being 0, was done."""
        return [said.text for said in self.said if said.after <= cut]


def record(folder: Path, trace: Path, module: str, *arguments: str) -> Recording:
    """Run a module under strace until it ends and return what it did to `folder`."""
    with traced(trace, module, *arguments) as program:
        _, words = program.communicate()
    assert program.returncode == 0, words.decode()
    return read_trace(trace, folder)


def traced(trace: Path, module: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a module under strace; what it says to pipes and sockets is in the trace too."""
    paths = [str(Path(__file__).resolve().parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [*STRACE, "-o", trace, sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )


def read_trace(trace: Path, folder: Path) -> Recording:
    """Return the changes below `folder` and all that was written to pipes or sent. Errors: NotUnderstood."""
    recording, follower = Recording(), _Follower(f"{folder}/")
    with trace.open() as lines:
        for call, is_begun, is_ended in _calls(lines):
            name, arguments, result, opened = call
            if is_begun and name in ("write", "sendto") and not follower.is_inside(arguments):
                if text := _TEXT.search(arguments):
                    recording.said.append(Said(len(recording.changes), _unhex(text[1])))
            elif is_ended and result >= 0 and (change := follower.change(name, arguments, result, opened)) is not None:
                recording.changes.append(change)
    return recording


class _Follower:
    """Follows descriptors to offsets and names to what lies below the folder."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._offsets: dict[str, int] = {}

    def is_inside(self, arguments: str) -> bool:
        found = _DESCRIPTOR.match(arguments)
        return found is not None and _unhex(found[2]).decode(errors="replace").startswith(self._root)

    def change(self, name: str, arguments: str, result: int, opened: str | None) -> Change | None:
        if name == "openat":
            return self._opened(arguments, result, _unhex(opened or "").decode())
        if name in ("rename", "unlink", "mkdir"):
            paths = [self._relative(_unhex(found[1]).decode()) for found in _TEXT.finditer(arguments)]
            if all(path is None for path in paths):
                return None
            if None in paths:
                raise NotUnderstood(f"{name} across the folder's border")
            if name == "unlink" and str(paths[0]).endswith(SOCKET):
                return None
            return Change(name, str(paths[0]), other=str(paths[-1]))
        found = _DESCRIPTOR.match(arguments)
        path = self._relative(_unhex(found[2]).decode(errors="replace")) if found is not None else None
        if path is None and not (found is None and self._names_inside(arguments)):
            return None
        if found is None or path is None or name not in _CHANGES.split(","):
            raise NotUnderstood(f"{name}({arguments[:200]}")
        if name == "lseek":
            self._offsets[found[1]] = result
            return None
        if name in ("fsync", "fdatasync"):
            return Change("sync", path)
        if found[3]:  # its name is gone; nothing of it outlasts a cut
            return None
        if name == "ftruncate":
            return Change("truncate", path, at=int(arguments.rsplit(", ", 1)[1]))
        if name == "fallocate":
            if (size := re.search(r", 0, 0, (\d+)$", arguments)) is None:
                raise NotUnderstood(f"fallocate({arguments[:200]}")
            return Change("truncate", path, at=int(size[1]))  # a new file gets so long
        return self._written(name, arguments, result, found[1], path)

    def _written(self, name: str, arguments: str, result: int, descriptor: str, path: str) -> Change:
        text = _TEXT.search(arguments)
        if text is None or text[2]:
            raise NotUnderstood(f"a write to {path} of more than {LONGEST_WRITE_BYTES} bytes")
        data = _unhex(text[1])[:result]
        if name == "pwrite64":
            return Change("write", path, data, int(arguments.rsplit(", ", 1)[1]))
        at = self._offsets.get(descriptor, 0)
        self._offsets[descriptor] = at + result
        return Change("write", path, data, at)

    def _opened(self, arguments: str, descriptor: int, path: str) -> Change | None:
        self._offsets[str(descriptor)] = 0
        relative = self._relative(path)
        if relative is None or "O_DIRECTORY" in arguments or path.endswith("(deleted)"):
            return None
        if "O_APPEND" in arguments:
            raise NotUnderstood(f"{relative} is opened to append")
        if "O_TRUNC" in arguments:
            return Change("create anew", relative)
        return Change("create", relative) if "O_CREAT" in arguments else None

    def _relative(self, path: str) -> str | None:
        if path + "/" == self._root:
            return "."
        return path.removeprefix(self._root) if path.startswith(self._root) else None

    def _names_inside(self, arguments: str) -> bool:
        return any(self._relative(_unhex(text[1]).decode(errors="replace")) for text in _TEXT.finditer(arguments))


def _calls(lines: Iterable[str]) -> Iterator[tuple[tuple[str, str, int, str | None], bool, bool]]:
    """Yield (call, begins here, ends here) in the trace's order; one that others interrupt comes twice."""
    open_: dict[str, str] = {}
    for line in lines:
        match = _LINE.match(line)
        if match is None or match["rest"].startswith(("+++", "---", "<... exit")):
            continue
        thread, rest = match["thread"], match["rest"].rstrip()
        if rest.endswith("<unfinished ...>"):
            open_[thread] = begun = rest.removesuffix("<unfinished ...>").rstrip()
            name, _, arguments = begun.partition("(")
            yield (name, arguments, 0, None), True, False
            continue
        is_begun = not rest.startswith("<...")
        if not is_begun:
            rest = open_.pop(thread) + rest.partition(" resumed>")[2]
        if (call := _CALL.match(rest)) is not None:
            yield (call["name"], call["arguments"], int(call["result"]), call["opened"]), is_begun, True


def _unhex(text: str) -> bytes:
    return codecs.escape_decode(text.encode())[0]  # type: ignore[return-value]
