"""Memory that was freed goes back to the system, whatever stands behind it."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys
import threading
import weakref

import pytest
from unit.fake_clock import FakeClock

from millrace import cli, heap, service

_FREE_ALL_BUT_THE_LAST = """
from pathlib import Path
from millrace import heap

def resident_bytes():
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])

pieces = [bytes(100_000) + b"x" for _ in range(500)]
last = pieces[-1]
del pieces
before = resident_bytes()
heap.give_back()
print(before - resident_bytes())
"""

_FREE_PICTURES_BETWEEN_WHAT_STAYS = """
from millrace import heap

heap.part()
pieces = [(b"x" * 54_000, b"x" * 1000) for _ in range(500)]
stay = [small for _, small in pieces]
before = heap.resident_bytes()
del pieces
print(before - heap.resident_bytes())
"""

_TWENTY_THREADS_AT_ONCE = """
import ctypes, sys, threading
from millrace import heap

heap.share()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
together = threading.Barrier(21)

def take():
    libc.malloc(1000)
    together.wait()

for _ in range(20):
    threading.Thread(target=take).start()
together.wait()
file = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""
GLIBC_ONLY = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library is left to its own ways")


@GLIBC_ONLY
def test_what_lies_free_below_a_piece_in_use_goes_back() -> None:
    done = subprocess.run([sys.executable, "-c", _FREE_ALL_BUT_THE_LAST], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 20_000_000


@GLIBC_ONLY
def test_pictures_leave_no_holes() -> None:
    script = [sys.executable, "-c", _FREE_PICTURES_BETWEEN_WHAT_STAYS]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 20_000_000


@GLIBC_ONLY
def test_many_threads_share_an_arena() -> None:
    done = subprocess.run([sys.executable, "-c", _TWENTY_THREADS_AT_ONCE], capture_output=True, text=True, check=True)
    assert done.stdout.count("<heap nr=") == heap.ARENAS


def test_each_program_shares_it_from_its_first_line_on(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(heap, "share", lambda: called.append("share"))
    monkeypatch.setattr(cli, "cli", lambda standalone_mode: called.append("command"))
    cli.main()
    assert called == ["share", "command"]


def test_what_only_itself_holds_goes_too() -> None:
    ring = _Ring()
    left = weakref.ref(ring)
    del ring
    heap.give_back()
    assert left() is None


def test_what_was_there_at_the_start_is_not_looked_at_again() -> None:
    heap.stay()
    try:
        assert len(gc.get_objects()) < 1000
    finally:
        gc.unfreeze()


def test_a_program_gives_back_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    given_back = threading.Event()
    monkeypatch.setattr(heap, "EVERY_S", 0.0)
    monkeypatch.setattr(heap, "give_back", given_back.set)
    service.run([service.Actor("waits", lambda: assert_set(given_back), lambda: None)], FakeClock())


class _Ring:
    def __init__(self) -> None:
        self.itself = self


def assert_set(event: threading.Event) -> None:
    assert event.wait(30)
