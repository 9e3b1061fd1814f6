"""System calls of this very process that the kernel refuses for one file, as a disk that fails has it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def calls_fail(calls: str, error: str, path: Path) -> Iterator[None]:
    """Have the kernel answer `error` to the named calls, separated by commas, that are about `path`."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed here")
    inject = ["-e", f"trace={calls}", "-e", f"inject={calls}:error={error}"]
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(os.getpid()), *inject, "-P", path],
        stderr=subprocess.DEVNULL,
    )
    try:
        while "TracerPid:\t0\n" in Path("/proc/thread-self/status").read_text():
            if tracer.poll() is not None:
                pytest.skip("strace may not trace here")
            time.sleep(0.01)
        yield
    finally:
        tracer.terminate()
        tracer.wait()
