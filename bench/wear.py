"""What a device's card is written for an event: frames on a healthy line by durability, readings by commit delay.

Counted by the kernel for this process (`write_bytes` in /proc/self/io): what goes to a block device, not to memory.
"""

from __future__ import annotations

import os
from pathlib import Path

from bench.measures import Measure, at_most
from device_agent.packing import Admission
from device_agent.settings import AgentSettings
from device_agent.spool import Spool
from millrace import events
from millrace.clock import Instant, SystemClock

FRAME_BYTES = 54_000
FRAMES = {"power": 300, "process": 3000}
READINGS_PER_S = 100
READINGS = 1000
INSTANT = Instant(1_795_249_800_000_000_000, "bench", 1)


def measures(home: Path) -> list[Measure]:
    """Return bytes written for each event, against its own size where that is what matters."""
    power, process = (_frame_bytes(home / kind, kind) for kind in ("power", "process"))
    found = [
        at_most(
            "bytes written for a frame of 54 KB, receipted at once, by its size, durability power",
            power / FRAME_BYTES,
            2.5,
        ),
        at_most("the same, durability process", process / FRAME_BYTES, 0.02),
    ]
    for delay_ms, limit in ((0, 40_000.0), (50, 12_000.0), (1000, 3_000.0)):
        batch = max(1, READINGS_PER_S * delay_ms // 1000)
        label = f"bytes written for a reading, 100/s, commit_delay_ms {delay_ms}"
        found.append(at_most(label, _reading_bytes(home / f"delay-{delay_ms}", batch), limit))
    return found


def _frame_bytes(folder: Path, durability: str) -> float:
    spool = _spool(folder, durability)
    spool.settle(spool.epoch, [])
    spool.admit([_frame(0)])  # what a start writes is not a frame's
    before = _written_bytes()
    for number in range(1, FRAMES[durability] + 1):
        spool.admit([_frame(number)])
        spool.settle(spool.epoch, [(1, number + 1)])
    written = _written_bytes() - before
    spool.close()
    return written / FRAMES[durability]


def _reading_bytes(folder: Path, batch: int) -> float:
    spool = _spool(folder, "power")
    spool.settle(spool.epoch, [])
    before, seq = _written_bytes(), 0
    for _ in range(READINGS // batch):
        spool.admit([Admission("belt", events.READING, INSTANT, {"temperature_c": 20.5}) for _ in range(batch)])
        seq += batch
        spool.settle(spool.epoch, [(1, seq)])
    written = _written_bytes() - before
    spool.close()
    return written / READINGS


def _frame(number: int) -> Admission:
    return Admission(
        "top", events.FRAME, INSTANT, picture=b"%8d" % number + os.urandom(FRAME_BYTES - 8), content_type="image/jpeg"
    )


def _spool(folder: Path, durability: str) -> Spool:
    settings = AgentSettings.model_validate(
        {
            "device": "bench",
            "state_dir": folder,
            "spool": {"durability": {"frame": durability}},
            "channels": {"top": {"source": {"kind": "conveyor"}}},
        }
    )
    return Spool(settings, "bench", SystemClock())


def _written_bytes() -> int:
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return int(dict(line.split(": ") for line in lines)["write_bytes"])
