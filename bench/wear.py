"""What a card is written for an event: a device's frames and readings, and what a gateway makes of a reading.

Counted by the kernel for this process (`write_bytes` in /proc/self/io): what goes to a block device, not to memory.
"""

from __future__ import annotations

import os
from pathlib import Path

from bench import store_writer
from bench.measures import Measure, at_most
from bench.profile import Profile
from cloud_sync.progress import Progress
from cloud_sync.settings import BatchSettings
from device_agent.packing import Admission
from device_agent.settings import AgentSettings
from device_agent.spool import Spool
from edge_gateway.bench.processor import written_bytes
from edge_gateway.store import Store
from millrace import events
from millrace.clock import Instant, SystemClock
from millrace.entries import Lane

FRAME_BYTES = 54_000
FRAMES = {"power": 300, "process": 3000}
READINGS_PER_S = 100
READINGS = 1000
INSTANT = Instant(1_795_249_800_000_000_000, "bench", 1)


def measures(home: Path, profile: Profile) -> list[Measure]:
    """Return bytes written for each event, against its own size where that is what matters."""
    insert_bytes, life_bytes = _gateway_bytes(home / "gateway", profile.groups)
    gateway = f"bytes written by a gateway for a reading of {store_writer.BODY_BYTES} bytes, groups of 32"
    power, process = (_frame_bytes(home / kind, kind) for kind in ("power", "process"))
    found = [
        at_most(f"{gateway}: to insert it", insert_bytes, 1500.0),
        at_most(f"{gateway}: drained and purged too", life_bytes, 3000.0),
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


def _gateway_bytes(home: Path, groups: int) -> tuple[float, float]:
    """Return the bytes of a reading's insertion, and of its whole life: inserted, settled by the drain, purged."""
    insert_bytes = store_writer.ours(home, groups)["row_bytes"]
    store, progress = Store(home, "bench", 1 << 40), Progress(home / "sync.db")
    rows, batch = store.outbox.held_rows, BatchSettings().max_rows
    before = written_bytes(os.getpid())
    for first in range(1, rows + 1, batch):
        progress.settle(store.outbox.epoch, Lane.BULK, 1, min(rows, first + batch - 1))
    while store.purge(uplink=True, retention_s=0, retention_bytes=0, uptime_s=SystemClock().uptime_s()):
        pass
    assert store.outbox.held_rows < 500, f"{store.outbox.held_rows} rows are left"
    rest_bytes = (written_bytes(os.getpid()) - before) / rows
    store.close()
    progress.close()
    return insert_bytes, insert_bytes + rest_bytes


def _frame_bytes(folder: Path, durability: str) -> float:
    spool = _spool(folder, durability)
    spool.settle(spool.epoch, [])
    spool.admit([_frame(0)])  # what a start writes is not a frame's
    before = written_bytes(os.getpid())
    for number in range(1, FRAMES[durability] + 1):
        spool.admit([_frame(number)])
        spool.settle(spool.epoch, [(1, number + 1)])
    written = written_bytes(os.getpid()) - before
    spool.close()
    return written / FRAMES[durability]


def _reading_bytes(folder: Path, batch: int) -> float:
    spool = _spool(folder, "power")
    spool.settle(spool.epoch, [])
    before, seq = written_bytes(os.getpid()), 0
    for _ in range(READINGS // batch):
        spool.admit([Admission("belt", events.READING, INSTANT, {"temperature_c": 20.5}) for _ in range(batch)])
        seq += batch
        spool.settle(spool.epoch, [(1, seq)])
    written = written_bytes(os.getpid()) - before
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
