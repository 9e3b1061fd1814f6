"""What to change so that a machine does more: rules over what was found, without I/O."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

GOOD_RATIO = 0.85
SLOW_SYNC_MS = 4.0
OTHERS_CORES = 0.15


@dataclass(frozen=True, slots=True)
class Found:
    """What one run of `millrace bench` has found; medians, frames/s over all cores."""

    model: str
    picture_px: tuple[int, int]
    input_px: tuple[int, int]
    is_float: bool
    broker: str
    cores: int
    workers: int
    commit_rows: int
    limit_per_s: float
    """Decode and invoke alone."""
    share_per_s: float
    """The same on the processor time that publisher and broker leave."""
    ours_per_s: float
    limit_cpu_ms: float
    gateway_cpu_ms: float
    decode_ms: float
    invoke_ms: float
    lone_p50_ms: float
    sync_ms: float
    resident_mb: float
    others_cores: float
    """How many cores other programs of this machine kept busy meanwhile."""

    @property
    def ratio(self) -> float:
        """Ours by the limit on the share that is left."""
        return self.ours_per_s / self.share_per_s

    def as_json(self) -> dict[str, Any]:
        """Return all of it, with the ratio and the advice."""
        return {**asdict(self), "ratio": round(self.ratio, 3), "advice": advise(self)}


def advise(found: Found) -> list[str]:
    """Return what to change, what gains most first; one line that says so where nothing does."""
    advice = []
    if found.others_cores > OTHERS_CORES:
        advice.append(
            f"Other programs kept {found.others_cores:.1f} of {found.cores} cores busy: stop them and measure again."
        )
    if found.broker == "embedded":
        advice.append(
            "The embedded broker takes more time than most models: install Mosquitto (apt install mosquitto)."
        )
    if found.is_float:
        advice.append("The model computes in floating point: an 8-bit one (full_integer) takes about half the time.")
    if (wider := _spare(found)) > 1 and found.decode_ms > 0.3 * found.invoke_ms:
        advice.append(
            f"Pictures are {wider:.1f} times as wide as the model's input, and decoding takes"
            f" {found.decode_ms:.1f} ms of {found.decode_ms + found.invoke_ms:.1f}: send them smaller."
        )
    if found.sync_ms > SLOW_SYNC_MS:
        advice.append(_for_the_disk(found))
    if found.workers < found.cores:
        advice.append(f"{found.workers} of {found.cores} cores infer: set workers: 0 for one on each.")
    if advice:
        return advice
    if found.ratio >= GOOD_RATIO:
        return ["Nothing in the settings gains much: a smaller model, an accelerator or more cores would."]
    return [f"{found.ratio:.2f} of what is possible, and no setting explains it: look at CPU and disk while it runs."]


def _spare(found: Found) -> float:
    """Return how many times as wide as needed pictures are; 1 for those that are not."""
    sides = zip(found.picture_px, found.input_px, strict=True)
    return max(1.0, min(have / need for have, need in sides))


def _for_the_disk(found: Found) -> str:
    """Say what a disk that is slow to sync asks for: enough results in each commit."""
    syncs_per_s = 1000 / found.sync_ms
    rows = math.ceil(found.limit_per_s / syncs_per_s)
    text = f"The disk takes {found.sync_ms:.0f} ms for a sync"
    if rows > found.commit_rows:
        return f"{text}: set store.commit_rows: {rows}, or put state_dir on an SSD."
    return f"{text}, which each result waits for: put state_dir on an SSD for quicker answers."
