"""Many devices in one process, each with its own spool, keeper, feeds and connection: `python fleet.py A.yaml …`.

Fifty agents of their own would want more memory and switching than a small machine has; what is durable is the same.
"""

from __future__ import annotations

import sys
from pathlib import Path

from device_agent.app import assemble
from device_agent.settings import AgentSettings
from millrace import heap
from millrace.clock import SystemClock
from millrace.service import run, set_up_logging
from millrace.settings import load


def main(files: list[str]) -> None:
    """Run a device for each settings file until a signal, or until the first of their actors ends."""
    heap.share()
    heap.part()
    set_up_logging("info")
    time = SystemClock()
    devices = [assemble(load(Path(file), AgentSettings), time) for file in files]
    try:
        run([actor for _, actors in devices for actor in actors], time)
    finally:
        for spool, _ in devices:
            spool.close()


if __name__ == "__main__":
    main(sys.argv[1:])
