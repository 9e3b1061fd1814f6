"""How a process's memory grows while nobody ends it: the slope of a line through samples of its resident bytes."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, field
from pathlib import Path

from faults.watch import Watch

from millrace.chaos.line import Line

WARM_UP_RATIO = 1 / 3  # of the samples: pools and caches fill at first


@dataclass
class Growth(Watch):
    """Samples every program of a line from `__enter__` on."""

    every_s = 2.0
    line: Line
    samples: dict[str, list[tuple[float, int]]] = field(default_factory=dict)

    def look(self) -> None:
        """Take a sample of each."""
        for name, program in self.line.programs.items():
            pages = int(Path(f"/proc/{program.pid}/statm").read_text().split()[1])
            self.samples.setdefault(name, []).append((time.monotonic(), pages * resource.getpagesize()))

    def mb_per_h(self) -> dict[str, float]:
        """Return each program's growth after its warming up."""
        return {
            name: _slope(found[int(len(found) * WARM_UP_RATIO) :]) * 3600 / 1e6 for name, found in self.samples.items()
        }


def _slope(points: list[tuple[float, int]]) -> float:
    """Return the least-squares slope, 0 for fewer than two points."""
    mean_x = sum(x for x, _ in points) / max(1, len(points))
    mean_y = sum(y for _, y in points) / max(1, len(points))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
