"""A process is a list of actors: the first that returns or raises ends all, and its error is the exit status.

Signals, systemd's notify and watchdog, and logging belong here. The watchdog is fed by progress, not by a timer: an
actor that stops beating stops the feeding.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from millrace import heap
from millrace.cli import EXIT_TRY_LATER
from millrace.clock import Clock

log = logging.getLogger(__name__)

JOIN_TIMEOUT_S = 10.0
SILENT_AFTER_S = 30.0
_LOG_FORMAT = "%(levelname)s %(name)s %(message)s"


class Beat:
    """An actor's sign of life: it calls `beat` at each pass of its loop, also when there is nothing to do."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last_s = clock.uptime_s()

    def beat(self) -> None:
        """Say that the loop goes on."""
        self._last_s = self._clock.uptime_s()

    def silent_s(self) -> float:
        """Return for how long nothing was said."""
        return self._clock.uptime_s() - self._last_s


@dataclass
class Actor:
    """One part of a process: `run` blocks until it is done or `interrupt` was called from another thread.

    `silence_s` is for how long it may work on without a beat. `writes` says that it has a file in its hands, which
    nobody else may touch while it lives.
    """

    name: str
    run: Callable[[], None]
    interrupt: Callable[[], None]
    beat: Beat | None = None
    silence_s: float = SILENT_AFTER_S
    writes: bool = False
    _thread: threading.Thread | None = field(default=None, repr=False)


def run(actors: Sequence[Actor], clock: Clock, *, ready: threading.Event | None = None) -> None:
    """Run all actors until the first ends, then end the others, last started first; raise that first one's error.

    SIGTERM and SIGINT end the group as a success. systemd is told READY once `ready` is set (or at once).
    One that `writes` has the time to end for itself, whoever was slow before it. If it does not, such as within a
    commit that a disk never answers, the process ends here and now with status 75: nobody may close its file beside
    it, and what was promised stands already.
    """
    ended = threading.Event()
    first_error: list[BaseException] = []

    def end(error: BaseException | None) -> None:
        if error is not None and not ended.is_set():
            first_error.append(error)
        ended.set()

    def body(actor: Actor) -> None:
        try:
            actor.run()
        except BaseException as error:  # noqa: BLE001  (the run group's: the one broad except of the project)
            log.error("actor_failed actor=%s error=%s: %s", actor.name, type(error).__name__, error)
            end(error)
        else:
            end(None)

    threading.excepthook = lambda unraisable: end(unraisable.exc_value or RuntimeError("a thread died"))
    told: list[str] = []

    def obey(number: int, _frame: object) -> None:
        told.append(signal.Signals(number).name)
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, obey)
    for actor in actors:
        actor._thread = threading.Thread(target=body, args=(actor,), name=actor.name, daemon=True)
        actor._thread.start()
    _supervise(actors, ended, ready, clock)
    notify("STOPPING=1")
    log.info("stopping reason=%s", told[0] if told else "an actor ended")
    deadline_s = clock.uptime_s() + JOIN_TIMEOUT_S
    for actor in reversed(actors):
        actor.interrupt()
        assert actor._thread is not None
        actor._thread.join(JOIN_TIMEOUT_S if actor.writes else max(0.0, deadline_s - clock.uptime_s()))
        if actor._thread.is_alive():
            log.error("actor_stuck actor=%s timeout_s=%.0f", actor.name, JOIN_TIMEOUT_S)
    for actor in actors:
        if actor.writes and actor._thread is not None and actor._thread.is_alive():
            log.error("stopped_at_once actor=%s: its file is left as it stands", actor.name)
            os._exit(EXIT_TRY_LATER)
    log.info("stopped")
    if first_error:
        raise first_error[0]


def _supervise(actors: Sequence[Actor], ended: threading.Event, ready: threading.Event | None, clock: Clock) -> None:
    watchdog_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
    pause_s = min(0.5, watchdog_s / 4) if watchdog_s else 0.5
    told, gave_back_s = False, clock.uptime_s()
    silent: set[str] = set()
    while not ended.wait(pause_s if told else 0.02):
        if not told and (ready is None or ready.is_set()):
            heap.stay()
            notify("READY=1")
            told = True
        late = {
            actor.name
            for actor in actors
            if actor.beat and actor.beat.silent_s() > (watchdog_s / 2 if watchdog_s else actor.silence_s)
        }
        for name in late - silent:
            log.error("actor_silent actor=%s", name)
        silent = late
        if watchdog_s and not late:
            notify("WATCHDOG=1")
        if clock.uptime_s() - gave_back_s >= heap.EVERY_S:
            gave_back_s = clock.uptime_s()
            heap.give_back()


def notify(state: str) -> None:
    """Tell systemd, where it listens (sd_notify's datagram)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)


def set_up_logging(level: str) -> None:
    """Log to standard error, one event a line; under systemd with its priority and without the level's name."""
    handler = logging.StreamHandler(sys.stderr)
    formatter: logging.Formatter = logging.Formatter("%(asctime)s " + _LOG_FORMAT)
    if os.environ.get("JOURNAL_STREAM"):
        formatter = _JournalFormatter("%(name)s %(message)s")
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


_JOURNAL_PRIORITY = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}


class _JournalFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"<{_JOURNAL_PRIORITY.get(record.levelname, 6)}>{super().format(record)}".replace("\n", " | ")
