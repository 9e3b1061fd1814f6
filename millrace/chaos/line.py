"""The whole line as real processes in one folder: any of them is killed, and comes back as it was."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from millrace import clock
from millrace.chaos.plan import GATEWAY, Papers, Plan
from millrace.database import Viewer
from millrace.demo.account import CloudView
from millrace.demo.proxy import LinkProxy
from millrace.demo.proxy import State as LinkState
from millrace.demo.stage import Program, StageFailed, wait_until
from millrace.entries import Lane
from millrace.outbox_reader import Reader
from millrace.settled import SettledReader
from millrace.tail import SpoolReader

FLOW_TIMEOUT_S = 60.0
DRAIN_TIMEOUT_S = 120.0
POINT_TIMEOUT_S = 60.0
CHANNELS_OF_A_DEVICE = 2
WAITING_COUNTED = 1000
Limit = Literal["descriptors", "memory"]
LIMITS: Mapping[Limit, int] = {"descriptors": resource.RLIMIT_NOFILE, "memory": resource.RLIMIT_AS}


class Line:
    """Devices, broker, gateway, sync worker, the link between it and the cloud, and the cloud."""

    def __init__(self, home: Path, plan: Plan, fleet: Path | None = None) -> None:
        """Write its settings into `home`; `fleet` is a Python file that runs many devices in one process."""
        self.home, self.plan = home, plan
        self.papers = Papers(home, plan)
        self.link = LinkProxy(self.papers.cloud_port)
        self.papers.write(self.link.port)
        file = self.papers.file
        self.programs = {
            "broker": Program("broker", self.papers.broker_arguments(), home),
            **{name: Program(name, [name, "--config", file(name)], home) for name in ("cloud", "gateway", "sync")},
        }
        self.devices_of: dict[str, tuple[str, ...]] = {name: (name,) for name in plan.names}
        if fleet is None:
            agents = {name: Program(name, ["agent", "--config", file(name)], home) for name in plan.names}
        else:
            self.devices_of = {"fleet": plan.names}
            agents = {"fleet": Program("fleet", list(map(file, plan.names)), home, [str(fleet)])}
        self.programs |= agents
        self.kills: list[str] = []
        self.restarts: list[str] = []
        self._starved = ""
        self._life_begins = dict.fromkeys(agents, 0)
        self._readers = {name: SpoolReader(home / name / "spool.db") for name in plan.names}
        self._store = Reader(home / "gateway" / "gateway.db")
        self._streams = Viewer(home / "gateway" / "gateway.db", "SELECT one FROM counter")
        self._settled = SettledReader(home / "gateway" / "sync.db")
        self.cloud = CloudView(self.papers.cloud_port, self.papers.token("reader"))
        self._cursor = 0
        self._lives = 0
        self._captures: int | None = None

    def __enter__(self) -> Self:
        for name in self.programs:
            self.start(name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.let_go()
        for name in (*self.devices_of, "gateway", "sync", "cloud", "broker"):
            self.programs[name].stop()
        self.link.close()
        shutil.rmtree(self.papers.memory)

    def let_go(self) -> None:
        """Close the files that are read here; the next look opens them again.

        To be done before this process copies one: its closing the copy's source would drop SQLite's locks on it.
        """
        for reader in self._readers.values():
            reader.close()
        self._store.close()
        self._streams.close()
        self._settled.close()

    # --- faults

    def kill(self, *names: str) -> None:
        """SIGKILL these programs at once, and start each again at once."""
        self.check()
        for name in names:
            self.programs[name].kill()
            self.kills.append(name)
        for name in names:
            self.start(name)

    def crash(self, name: str, point: str, nth: int = 1, prepare: Callable[[], None] | None = None) -> bool:
        """Have a program die at a crash point, and start it again; False if it never came there in time.

        Before, it is killed too, for it hears of the point at its start; `prepare` is called while it is dead.
        """
        self.check()
        self.programs[name].kill()
        self.kills.append(name)
        if prepare is not None:
            prepare()
        hit = self._dies_at(name, point, nth)
        self.start(name)
        return hit

    def crash_in_a_row(self, name: str, points: Sequence[tuple[str, int]]) -> list[str]:
        """Have a program die at each of these points, with how often it comes there first; return those it missed.

        Between two deaths it has no other life than the one in which it recovers from the first and dies the second.
        """
        self.check()
        self.programs[name].kill()
        self.kills.append(name)
        missed = [point for point, nth in points if not self._dies_at(name, point, nth)]
        self.start(name)
        return missed

    def _dies_at(self, name: str, point: str, nth: int) -> bool:
        """Start a program that is to die there; say whether it did. If not in time, it is killed all the same.

        It could come there later, and be taken for one that failed.
        """
        self.start(name, {"MILLRACE_CRASH_AT": f"{point}:{nth}"})
        hit = self.programs[name].ended(POINT_TIMEOUT_S)
        self.programs[name].kill()
        self.kills.append(name)
        return hit

    def pause(self, seconds: float, *names: str) -> None:
        """Stop programs where they stand, and let them go on after so long: to the others they hang."""
        self.check()
        pids = [self.programs[name].pid for name in names]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def starve(self, name: str, limit: Limit, seconds: float) -> None:
        """Let a program get no further descriptors or memory for so long; if that is its end, start it again at once.

        That is what systemd does. A program may come to its end when it has both again: one such end is no failure.
        """
        self.check()
        program = self.programs[name]
        before = resource.prlimit(program.pid, LIMITS[limit])
        resource.prlimit(program.pid, LIMITS[limit], (_in_use(program.pid, limit), before[1]))
        self._starved = name
        if not program.ended(seconds):
            resource.prlimit(program.pid, LIMITS[limit], before)
        self.check()

    def cut_link(self, state: LinkState, seconds: float) -> None:
        """Cut the link to the cloud for so long."""
        self.link.set_state(state)
        time.sleep(seconds)
        self.link.set_state("pass")

    def fill(self, seconds: float) -> None:
        """Let the gateway's quota be used up for so long: it takes nothing over, and devices keep what they have."""
        self.papers.write_gateway(max_bytes=1)
        self.kill("gateway")
        time.sleep(seconds)
        self.papers.write_gateway()
        self.kill("gateway")

    def check(self) -> None:
        """Raise StageFailed if a program has ended by itself; one that was starved is started again."""
        if self._starved and self.programs[self._starved].ended(0):
            self.restarts.append(self._starved)
            self.start(self._starved)
            self._starved = ""
        for program in self.programs.values():
            program.check()

    def start(self, name: str, environment: Mapping[str, str] | None = None) -> None:
        """Start a program that does not run."""
        program = self.programs[name]
        if name in self.devices_of:
            for device in self.devices_of[name]:
                self._lives += 1
                self.papers.write_device(device, self._captures, seed=self._lives)  # other pictures in each life
            self._life_begins[name] = program.log.stat().st_size if program.log.exists() else 0
        program.start(environment)

    # --- what is true of it

    def minted(self) -> dict[str, dict[str, int]]:
        """Return each origin's own ledger: for each of its epochs, how many events it has promised."""
        devices = {f"device/{name}": reader.epochs() for name, reader in self._readers.items()}
        return {**devices, f"gateway/{GATEWAY}": self._store.epochs()}

    def accepted(self) -> int:
        """Return how many events the gateway has taken over, from its own database."""
        ((taken,),) = self._streams.all("SELECT coalesce(sum(watermark), 0) FROM stream") or [(0,)]
        return int(taken)

    def wait_for_flow(self, events: int) -> None:
        """Wait until the gateway has committed so many more events: the line runs. StageFailed if it does not."""
        wanted = self.accepted() + events
        if not self._wait(lambda: self.accepted() >= wanted, FLOW_TIMEOUT_S):
            raise StageFailed(f"no {events} events within {FLOW_TIMEOUT_S:.0f} s\n{self.last_words()}")

    def wait_for_answer(self, after_wall_ns: int, timeout_s: float = FLOW_TIMEOUT_S) -> bool:
        """Wait until the cloud has an answer to a frame captured after that time; say whether one came."""
        moment = clock.rfc3339(after_wall_ns)

        def answered() -> bool:
            try:
                news, self._cursor = self.cloud.results(self._cursor)
            except OSError:  # it is starting, or stands still
                return False
            return any(result["data"]["frame_time"] > moment for result in news)

        return self._wait(answered, timeout_s)

    def hush(self) -> None:
        """End the feeds: each device starts once more, captures one frame and one reading, and falls silent."""
        self._captures = 1
        for name in self.devices_of:
            self.programs[name].stop()
            self.start(name)
        if not self._wait(lambda: all(map(self._is_silent, self.devices_of)), FLOW_TIMEOUT_S):
            raise StageFailed(f"the devices do not fall silent\n{self.last_words()}")

    def drain(self) -> float | None:
        """Wait until all that the silent devices promised is in the cloud; return the seconds of that.

        None: it is not, after DRAIN_TIMEOUT_S; the account tells what is missing.
        """
        begun_s = time.monotonic()
        return time.monotonic() - begun_s if self._wait(self._drained, DRAIN_TIMEOUT_S) else None

    def last_words(self) -> str:
        """Return the end of each program's log."""
        return "\n".join(f"--- {name}\n{program.last_words()}" for name, program in self.programs.items())

    def _is_silent(self, name: str) -> bool:
        said = self.programs[name].log.read_bytes()[self._life_begins[name] :]
        return said.count(b"source_finished") == CHANNELS_OF_A_DEVICE * len(self.devices_of[name])

    def is_empty(self) -> bool:
        """Whether nothing waits in a spool, and nothing at the gateway but what the cloud has."""
        return not any(self.waiting().values())

    def waiting(self) -> dict[str, int]:
        """Return for each device how many of its events wait, and for the gateway how many rows the cloud lacks."""
        spools = {
            name: sum(len(reader.read(lane, 0, WAITING_COUNTED)) for lane in Lane)
            for name, reader in self._readers.items()
        }
        epochs = list(self._store.epochs())
        return {**spools, GATEWAY: self._backlog(epochs[-1]) if epochs else 1}

    def _drained(self) -> bool:
        if not self.is_empty():
            return False
        try:
            audit = self.cloud.audit()
        except OSError:  # it is starting
            return False
        known = {(finding["origin"], finding["epoch"]): finding for finding in audit["origins"]}
        wanted = [(origin, epoch, seq) for origin, epochs in self.minted().items() for epoch, seq in epochs.items()]
        return all(
            (finding := known.get((origin, epoch))) is not None and finding["minted"] == seq and not finding["missing"]
            for origin, epoch, seq in wanted
            if seq
        )

    def _backlog(self, epoch: str) -> int:
        """Return how many rows are not settled; one may wait though a result in the cloud already speaks for it."""
        done = {lane: ranges.ranges()[0][1] for lane, ranges in self._settled.read(epoch).items()}
        return sum(self._store.backlog(done).values())

    def _wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        def holds() -> bool:
            self.check()
            return condition()

        return wait_until(holds, timeout_s)


def _in_use(pid: int, limit: Limit) -> int:
    """Return what a process has of something that can be limited: so many descriptors, or bytes."""
    process = Path(f"/proc/{pid}")
    if limit == "descriptors":
        return len(list((process / "fd").iterdir()))
    pages = int((process / "statm").read_text().split()[0])
    return pages * resource.getpagesize()
