"""How much processor time and memory another process has taken, as the kernel counts it."""

from __future__ import annotations

import os
import time
from pathlib import Path

_OF_THE_PROCESS = 2  # of clock ids made of a process id: its processor time, all threads, ended ones too


def cpu_s(pid: int) -> float:
    """Return the seconds of processor time that a process and its threads have taken, to the nanosecond."""
    return time.clock_gettime((~pid << 3) | _OF_THE_PROCESS)


def busy_s() -> float:
    """Return the seconds that all cores together were busy since the machine's start, to 10 ms."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
    user, nice, system, _idle, _wait, irq, softirq, steal = (int(field) for field in fields[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Return the memory of a process that is in RAM, in MB (10^6 bytes)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def written_bytes(pid: int) -> int:
    """Return the bytes that a process has had written to block devices; what goes to memory alone is not counted."""
    lines = Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
    return int(dict(line.split(": ") for line in lines)["write_bytes"])
