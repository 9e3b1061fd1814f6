"""What befalls whole files and machines: backups restored, cards cloned and re-imaged, gateways replaced, files gone.

`Misfortunes` does it to a line and keeps the account that nobody else can keep: all that was ever promised, and which
keys stood in a file at the moment in which it was destroyed. Those alone may be missing, and never in silence.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from millrace import events, jsontext
from millrace.chaos.line import FLOW_TIMEOUT_S, Line
from millrace.chaos.plan import GATEWAY
from millrace.demo.stage import Program, wait_until
from millrace.entries import Lane
from millrace.outbox_reader import Reader
from millrace.tail import SpoolReader

Key = tuple[str, str, int]
"""Origin, epoch, seq."""
DATABASE_PARTS = ("", "-wal", "-shm")
FLOW = 60


class OtherMachine(Program):
    """The program on a machine with another id: a file of ours lies over /etc/machine-id, for it alone. Needs root."""

    def __init__(self, program: Program, machine_id: Path) -> None:
        super().__init__(program.name, program.arguments, program.log.parent)
        mount = 'mount --bind "$0" /etc/machine-id && exec "$@"'
        self.wrapper = ["unshare", "--mount", "sh", "-c", mount, str(machine_id)]


class Misfortunes:
    """Each of `kinds` is one misfortune: the line ran before it and runs again after it."""

    def __init__(self, line: Line, chance: random.Random) -> None:
        self._line, self._chance = line, chance
        self.promised: dict[str, dict[str, int]] = {}
        self.at_risk: set[Key] = set()
        self.gone_with_all: set[tuple[str, str]] = set()
        """Epochs whose folder went whole, sidecar and all: of one that nobody had heard of, nobody can."""
        self.done: Counter[str] = Counter()
        self._backups: dict[str, Path] = {}
        self.kinds: dict[str, Callable[[], None]] = {
            "spool restored from a backup": lambda: self._restore(self._device()),
            "card cloned": self._clone,
            "card re-imaged": lambda: self._destroy(self._device(), self._wipe, whole=True),
            "gateway restored from a backup": lambda: self._restore("gateway"),
            "gateway replaced": lambda: self._destroy("gateway", self._wipe, whole=True),
            "spool.db lost": lambda: self._destroy(self._device(), self._lose("spool.db"), whole=False),
            "gateway.db lost": lambda: self._destroy("gateway", self._lose("gateway.db"), whole=False),
            "sync.db lost": lambda: self._destroy("gateway", self._lose("sync.db"), whole=False),
        }

    def befall(self, kind: str) -> None:
        """Let the line run, then let it happen, and see the line run again."""
        self._wait_for_files()
        self._line.wait_for_flow(self._chance.randint(1, FLOW))
        self.note_promises()
        self.kinds[kind]()
        self.done[kind] += 1
        self._line.wait_for_flow(self._chance.randint(1, FLOW))
        self.note_promises()

    def back_up(self) -> None:
        """Copy a device's or the gateway's state as it is while the programs run, as an operator's script does."""
        self._wait_for_files()
        for name in (*self._line.plan.names, "gateway"):
            if name in self._backups and self._chance.random() < 0.5:
                continue
            self._kill(name)
            copy = self._line.home / f"{name}.backup"
            shutil.rmtree(copy, ignore_errors=True)
            _copy(self._line.home / name, copy)
            self._backups[name] = copy
            self._start(name)

    def _wait_for_files(self) -> None:
        folders = [self._line.home / name for name in (*self._line.plan.names, "gateway")]
        assert wait_until(lambda: all(folder.is_dir() for folder in folders), FLOW_TIMEOUT_S)

    # --- what happens

    def _restore(self, name: str) -> None:
        def put_back(folder: Path) -> None:
            shutil.rmtree(folder)
            _copy(self._backups[name], folder)

        self._destroy(name, put_back, whole=True)

    def _clone(self) -> None:
        """A copy of the card runs in another machine for a while; then the old one is put back as it was."""
        name = self._device()
        original = self._line.programs[name]
        folder = self._line.home / name
        self._kill(name)
        kept = self._line.home / f"{name}.original"
        _copy(folder, kept)
        machine_id = self._line.home / "other-machine-id"
        machine_id.write_text(f"{self._chance.getrandbits(128):032x}\n", encoding="ascii")
        self._line.programs[name] = OtherMachine(original, machine_id)
        self._start(name)
        self._line.wait_for_flow(FLOW)
        self._kill(name)
        self._note_destroyed(name)
        self._note_gone(name)
        shutil.rmtree(folder)
        kept.rename(folder)
        self._line.programs[name] = original
        self._start(name)

    def _destroy(self, name: str, how: Callable[[Path], None], *, whole: bool) -> None:
        self._kill(name)
        self._note_destroyed(name)
        how(self._line.home / name)
        if whole:
            self._note_gone(name)
        self._start(name)

    def _wipe(self, folder: Path) -> None:
        shutil.rmtree(folder)

    def _lose(self, database: str) -> Callable[[Path], None]:
        def lose(folder: Path) -> None:
            for part in DATABASE_PARTS:
                (folder / (database + part)).unlink(missing_ok=True)

        return lose

    # --- the account

    def note_promises(self) -> None:
        """Remember how far everyone has minted by now, of all epochs that there ever were."""
        for origin, epochs in self._line.minted().items():
            if epochs:  # of a former epoch a file may know no more than what was reserved
                epoch, seq = list(epochs.items())[-1]
                known = self.promised.setdefault(origin, {})
                known[epoch] = max(seq, known.get(epoch, 0))

    def _note_destroyed(self, name: str) -> None:
        """Note every key that stands in a file which is about to go, and what a result in it speaks of."""
        self.note_promises()
        for body in self._bodies(name):
            event = jsontext.parse(body)
            assert isinstance(event, dict)
            self.at_risk |= keys_of(event)

    def _note_gone(self, name: str) -> None:
        origin = f"gateway/{GATEWAY}" if name == "gateway" else f"device/{name}"
        self.gone_with_all |= {(origin, epoch) for epoch in self.promised[origin]}

    def _bodies(self, name: str) -> Iterator[bytes]:
        """Yield every row of a device's spool, the part in memory too, or of the gateway's database."""
        folder = self._line.home / name
        reader = Reader(folder / "gateway.db") if name == "gateway" else SpoolReader(folder / "spool.db")
        for lane in Lane:
            after = 0
            while rows := reader.read(lane, after, 1000):
                after = rows[-1].position
                yield from (row.body for row in rows)
        reader.close()
        self._line.let_go()

    def _device(self) -> str:
        return self._chance.choice(self._line.plan.names)

    def _kill(self, name: str) -> None:
        self._line.let_go()
        for each in ("gateway", "sync") if name == "gateway" else (name,):
            self._line.programs[each].kill()

    def _start(self, name: str) -> None:
        for each in ("gateway", "sync") if name == "gateway" else (name,):
            self._line.start(each)


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.sock"))


def keys_of(event: dict[str, Any]) -> set[Key]:
    """Return an event's own key, and that of the event that it speaks of."""
    epoch, seq = events.parse_id(event["id"])
    source = event["source"].split("/")
    keys = {(f"{source[2]}/{source[3]}", epoch, seq)}
    if event.get("subject"):
        device, _, event_id = event["subject"].split("/")
        keys.add((f"device/{device}", *events.parse_id(event_id)))
    return keys


def in_the_cloud(cloud: Path) -> tuple[set[Key], list[dict[str, Any]]]:
    """Return all keys that the cloud's table holds or has answers for, and the events themselves."""
    connection = sqlite3.connect(f"file:{cloud / 'cloud.db'}?mode=ro", uri=True)
    try:
        held = [jsontext.parse(body) for (body,) in connection.execute("SELECT body FROM event")]
    finally:
        connection.close()
    found = [event for event in held if isinstance(event, dict)]
    keys: set[Key] = set()
    for event in found:
        keys |= keys_of(event)
    return keys, found


def judge(misfortunes: Misfortunes, cloud: Path, audit: dict[str, Any]) -> list[str]:
    """Return what is wrong: keys lost that no destroyed file held, keys lost in silence, captures that stand twice."""
    keys, held = in_the_cloud(cloud)
    complaints = []
    judged = {(finding["origin"], finding["epoch"]): finding for finding in audit["origins"]}
    for origin, epochs in misfortunes.promised.items():
        for epoch, last in epochs.items():
            absent = [seq for seq in range(1, last + 1) if (origin, epoch, seq) not in keys]
            needless = [seq for seq in absent if (origin, epoch, seq) not in misfortunes.at_risk]
            if needless:
                complaints.append(f"{origin} {epoch}: lost though no destroyed file held them: {needless[:20]}")
            finding = judged.get((origin, epoch))
            if finding is None and (origin, epoch) in misfortunes.gone_with_all:
                continue
            named = _named(finding) if finding else 0
            if absent and named < last and not (finding and finding.get("tail") == "unproven"):
                complaints.append(f"{origin} {epoch}: promised {last}, the audit accounts for {named}: {absent[-3:]}")
    captures = Counter(
        (event["source"], event.get("bootid"), event.get("uptimens")) for event in held if _captured(event)
    )
    if twice := [capture for capture, times in captures.items() if times > 1]:
        complaints.append(f"{len(twice)} captures stand twice: {twice[:5]}")
    if audit["totals"]["conflicts"]:
        complaints.append(f"{audit['totals']['conflicts']} keys came with two contents")
    return complaints


def _named(finding: dict[str, Any]) -> int:
    ranges = [*finding["missing"], *finding["unproven"]]
    return int(finding["held"] + sum(finding["declared"].values()) + sum(last - first + 1 for first, last in ranges))


def _captured(event: dict[str, Any]) -> bool:
    return f"/gateway/{GATEWAY}" not in event["source"] and event["type"] != events.LEDGER
