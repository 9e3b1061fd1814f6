"""The run group: who is silent for too long is named, and nobody closes a file that another still writes."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from unit.fake_clock import FakeClock

from millrace.service import Actor, Beat, run

STUCK = """
import sys, threading
from millrace import service
from millrace.clock import SystemClock
service.JOIN_TIMEOUT_S = 0.3
service.set_up_logging("info")
slow = sys.argv[1]
never, asked = threading.Event(), threading.Event()
def write():
    asked.wait()
    never.wait(None if slow == "keeper" else 0.05)
    print("written", flush=True)
service.run(
    [
        service.Actor("keeper", write, asked.set, writes=True),
        service.Actor("feed", never.wait if slow == "feed" else asked.wait, lambda: None),
        service.Actor("ends", lambda: None, lambda: None),
    ],
    SystemClock(),
)
print("closed", flush=True)
"""


@dataclass
class Looked(Beat):
    """A beat that tells when somebody has looked at it."""

    clock: FakeClock
    looks: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __post_init__(self) -> None:
        super().__init__(self.clock)

    def silent_s(self) -> float:
        found = super().silent_s()
        self.looks.release()
        return found


@pytest.fixture
def handlers() -> Iterator[None]:
    """What a run group sets for its process, and a test must give back."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    hook = threading.excepthook
    yield
    threading.excepthook = hook
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_only_who_is_silent_for_longer_than_it_may_be_is_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    clock = FakeClock()
    beat = Looked(clock)

    def work() -> None:
        clock.seconds += 40
        for _ in range(3):  # the first may have been begun before
            beat.looks.acquire()

    over = threading.Event()
    run(
        [
            Actor("writer", over.wait, over.set, Beat(clock)),
            Actor("drain", work, lambda: None, beat, silence_s=150),
        ],
        clock,
    )
    assert "actor_silent actor=writer" in caplog.text
    assert "actor_silent actor=drain" not in caplog.text


def ended(slow: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", STUCK, slow], capture_output=True, text=True, timeout=30)


def test_nobody_closes_the_file_of_a_writer_that_is_stuck() -> None:
    done = ended("keeper")
    assert done.returncode == 75
    assert done.stdout == ""
    assert done.stderr.count("stopped_at_once actor=keeper") == 1


def test_a_writer_has_its_own_time_to_end_after_another_took_all_of_it() -> None:
    done = ended("feed")
    assert done.returncode == 0
    assert done.stdout.split() == ["written", "closed"]
