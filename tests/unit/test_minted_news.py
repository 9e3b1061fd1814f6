"""What the sync worker tells of how far everyone has minted: all of it once, a bounded part in each request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cloud_sync.drain import MINTED_AT_ONCE, Drain
from cloud_sync.link import Link
from cloud_sync.progress import Progress
from cloud_sync.settings import SyncSettings
from cloud_sync.submit import Answer
from millrace.blobs import BlobStore
from millrace.clock import SystemClock
from millrace.outbox import Outbox


class Cloud:
    """A cloud that commits everything and remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[dict[str, dict[str, int]]] = []

    def submit(
        self,
        bodies: Sequence[bytes],
        minted: Mapping[str, Mapping[str, int]],
        buried: Sequence[Mapping[str, Any]] = (),
    ) -> Answer:
        self.told.append({origin: dict(epochs) for origin, epochs in minted.items()})
        return Answer(len(bodies), 0, {})


def test_thousands_of_epochs_are_told_in_bounded_parts_and_only_what_is_news_after_that(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "gateway.db", BlobStore(tmp_path / "frames"), "m")
    with outbox.transaction():
        for number in range(2500):
            outbox.note_minted("device/cam-1", f"{number:08d}", 7)
    (tmp_path / "token").touch(mode=0o600)
    settings = SyncSettings.model_validate(
        {
            "gateway": "g1",
            "state_dir": tmp_path,
            "cloud": {"url": "http://127.0.0.1:1", "token_file": tmp_path / "token"},
        }
    )
    clock = SystemClock()
    progress, cloud = Progress(tmp_path / "sync.db"), Cloud()
    drain = Drain(settings, progress, cloud, Link(1, 1, lambda low, _high: low), clock)  # type: ignore[arg-type]
    for _ in range(6):
        drain.step(clock.uptime_s())
    parts = [sum(map(len, part.values())) for part in cloud.told]
    assert parts == [MINTED_AT_ONCE, MINTED_AT_ONCE, 501]
    assert {epoch for part in cloud.told for epoch in part.get("device/cam-1", {})} == {f"{n:08d}" for n in range(2500)}
    with outbox.transaction():
        outbox.note_minted("device/cam-1", "00000009", 8)
    drain.step(clock.uptime_s())
    assert cloud.told[3:] == [{"device/cam-1": {"00000009": 8}}]
    progress.close()
    outbox.close()
