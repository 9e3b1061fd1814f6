"""The example of `millrace queue list` in docs/operations.md is what the program prints."""

from __future__ import annotations

from pathlib import Path

from cloud_sync.drain_rate import eta_s
from cloud_sync.lanes import WEIGHTS
from cloud_sync.queue_command import lines
from cloud_sync.waiting import LaneState, LinkState
from millrace.entries import Lane

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
NOW_NS = 1_790_000_000_000_000_000
HOUR_NS = 3600 * 10**9


def _lane(rows: int, size_bytes: int, rate: float | None, *, paused: bool = False) -> LaneState:
    oldest_ns = NOW_NS - 9 * HOUR_NS if rows else None
    return LaneState(rows, size_bytes, oldest_ns, rate, eta_s(rows, rate, moves=not paused), paused)


def test_the_example_of_the_queue_is_what_it_prints() -> None:
    known = {
        Lane.RESULT: _lane(48213, 23_200_000, 402.5),
        Lane.FRAME: _lane(3120, 169_100_000, 8.4, paused=True),
        Lane.BULK: _lane(0, 0, 95.0),
    }
    lanes = {lane: known.get(lane, _lane(0, 0, None)) for lane in WEIGHTS}
    link = LinkState("up", NOW_NS - 3 * HOUR_NS, NOW_NS, "")
    shown = "\n".join(lines(lanes, link, NOW_NS, worker="running", buried=1))
    assert f"```\n{shown}\n```" in PAGE
