"""Small programs in C that the bench loads and slows others with, compiled when it needs them."""

from __future__ import annotations

import shutil
import subprocess
from ctypes.util import find_library
from pathlib import Path

from bench.measures import BUILD

HERE = Path(__file__).resolve().parent
SYNC_DELAY_MS = 8


class LeftOut(Exception):
    """A measurement cannot be made here; the message says what is lacking."""


def publisher() -> Path:
    """Return the program that publishes readings by libmosquitto. Errors: LeftOut."""
    library = find_library("mosquitto")
    if library is None:
        raise LeftOut("libmosquitto is not installed (it comes with mosquitto-clients)")
    return _compiled("publisher.c", "publisher", [f"-l:{library}"])


def slow_disk() -> dict[str, str]:
    """Return the environment in which each sync takes SYNC_DELAY_MS longer, as on an SD card. Errors: LeftOut."""
    library = _compiled("slow_sync.c", "slow_sync.so", ["-shared", "-fPIC", "-ldl"])
    return {"LD_PRELOAD": str(library), "BENCH_SYNC_DELAY_US": str(SYNC_DELAY_MS * 1000)}


def _compiled(source: str, name: str, options: list[str]) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise LeftOut("no C compiler (apt install gcc)")
    built = BUILD / "native" / name
    if not built.exists() or built.stat().st_mtime < (HERE / source).stat().st_mtime:
        built.parent.mkdir(parents=True, exist_ok=True)
        command = [compiler, "-O2", "-Wall", "-o", str(built), str(HERE / source), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LeftOut(f"{source} does not compile: {done.stderr.strip().splitlines()[0]}")
    return built
