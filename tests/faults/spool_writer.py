"""The device's spool, to be recorded at work, and what must be true of it after a power cut.

It says `kept EPOCH SEQ` after a commit, `leaving EPOCH FIRST LAST` before rows may go, `gone EPOCH FIRST LAST` after.
Run with folder, seed, turns, and what is broken on purpose: nothing, `normal` or `folders`.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from device_agent.packing import Admission
from device_agent.settings import AgentSettings
from device_agent.spool import Spool
from millrace import blobs, clock, database, events

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"
)


def open_spool(folder: Path) -> Spool:
    """Open the spool of a folder as the agent does."""
    settings = AgentSettings.model_validate(
        {
            "device": "cam-1",
            "state_dir": folder,
            "spool": {"min_free_bytes": 0, "durability": {"frame": "power"}},
            "channels": {"belt": {"source": {"kind": "readings", "path": folder / "none.csv"}}},
        }
    )
    return Spool(settings, "machine-1", clock.SystemClock())


def work(folder: Path, chance: random.Random, turns: int) -> None:
    """Admit readings and frames, settle, begin epochs, close and open again."""
    spool = open_spool(folder)
    for turn in range(turns):
        _say("kept", ((e.epoch, e.seq) for e in spool.admit([admission(chance) for _ in range(chance.randint(1, 5))])))
        held = spool.read(0, 10_000)
        if chance.random() < 0.4:
            epoch = chance.choice(held).epoch
            last = chance.choice([entry.seq for entry in held if entry.epoch == epoch])
            _say("leaving", [(epoch, 1, last)])
            spool.settle(epoch, [(1, last)])
            _say("gone", [(epoch, 1, last)])
        if turn % 12 == 5:
            _say("leaving", {(entry.epoch, 1, events.SEQ_MAX) for entry in held})
            spool.begin_epoch("a receipt is ahead of what was sent")
            _say("kept", ((entry.epoch, entry.seq) for entry in spool.read(0, 10_000)))
        if turn % 12 == 11:
            spool.close()
            spool = open_spool(folder)
    spool.close()


def admission(chance: random.Random) -> Admission:
    """Return a reading or a frame."""
    now = clock.SystemClock().now()
    if chance.random() < 0.5:
        return Admission("belt", events.READING, now, {"force_kn": chance.random()})
    picture = PNG + chance.randbytes(chance.randrange(1, 6000))
    return Admission("belt", events.FRAME, now, picture=picture, content_type="image/png")


def complaints(folder: Path, said: Sequence[bytes]) -> tuple[int, list[str]]:
    """Open the spool as a cut has left it; return how many rows were promised, and what is wrong, one line a row."""
    promised, gone = _account(said)
    spool = open_spool(folder)
    try:
        (integrity,) = spool._outbox.connection.execute("PRAGMA integrity_check").fetchone()
        entries = spool.read(0, 1 << 20)
        held = {(entry.epoch, entry.seq) for entry in entries}
        whole = {(entry.epoch, entry.seq) for entry in entries if spool.parcel(entry) is not None}
        minted = spool.minted()
    finally:
        spool.close()
    found = [] if integrity == "ok" else [f"not sound: {integrity}"]
    found += [f"lost: {key}" for key in sorted(promised - whole)]
    found += [f"without its picture: {key}" for key in sorted(held - whole - promised)]
    found += [f"back: {key}" for key in sorted(held & gone)]
    found += [f"a seq that comes again: {key}" for key in sorted(promised | gone) if minted.get(key[0], 0) < key[1]]
    return len(promised), found


def _account(said: Sequence[bytes]) -> tuple[set[tuple[str, int]], set[tuple[str, int]]]:
    """Return the keys that must be held and those that must not."""
    ever: set[tuple[str, int]] = set()
    promised: set[tuple[str, int]] = set()
    gone: set[tuple[str, int]] = set()
    for line in b"".join(said).decode().splitlines():
        word, epoch, first, *rest = line.split()
        if word == "kept":
            ever.add((epoch, int(first)))
            promised.add((epoch, int(first)))
            continue
        reached = {key for key in ever if key[0] == epoch and int(first) <= key[1] <= int(rest[0])}
        promised -= reached
        if word == "gone":
            gone |= reached
    return promised, gone


def _say(word: str, lines: Iterable[tuple[object, ...]]) -> None:
    os.write(1, "".join(f"{word} {' '.join(map(str, line))}\n" for line in lines).encode())


def break_on_purpose(what: str) -> None:
    """Leave out what makes a commit outlast a power cut: `normal`, the log's sync; `folders`, the sync of names."""
    if what == "normal":
        database._PRAGMAS = tuple(p.replace("synchronous = FULL", "synchronous = NORMAL") for p in database._PRAGMAS)
        assert "synchronous = NORMAL" in database._PRAGMAS
    if what == "folders":
        blobs.sync_folder = lambda folder: None


if __name__ == "__main__":
    break_on_purpose("".join(sys.argv[4:]))
    work(Path(sys.argv[1]), random.Random(int(sys.argv[2])), int(sys.argv[3]))
