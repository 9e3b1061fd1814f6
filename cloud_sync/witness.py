"""What the sync worker tells the cloud of clocks: its own uptime with each batch, and which boots met on the floor."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from cloud_sync.progress import Progress
from millrace import mending
from millrace.blobs import StorageFailed
from millrace.clock import Clock
from millrace.ties import TieReader

log = logging.getLogger(__name__)

TOLD_AT_ONCE = 200


class Witness:
    """Speaks of clocks once the cloud has: one that knows nothing of them is told nothing. Used by one thread."""

    def __init__(self, ties: TieReader, progress: Progress, clock: Clock) -> None:
        self._ties, self._progress, self._clock = ties, progress, clock
        self._heard = mending.Heard()
        self._said = False
        self._telling: tuple[str, int] | None = None

    def words(self) -> dict[str, Any]:
        """Return what goes with the next batch; to be asked right before it is sent."""
        self._telling = None
        heard = self._heard.said()
        if not heard:
            return {}
        epoch, news = self._news()
        if news:
            self._telling = epoch, news[-1][0]
        now = self._clock.now()
        own = {"bootid": now.boot_id, "uptimens": str(now.uptime_ns), "heard": heard}
        return {"clock": own, "ties": [_wire(sighting) for _, sighting in news]}

    def heard(self, answer: Mapping[str, Any]) -> None:
        """Take what the cloud said with its answer to that batch."""
        if self._telling is not None:
            try:
                self._progress.note_ties_told(*self._telling)
            except StorageFailed as error:
                log.warning("ties_not_noted error=%s: they are told again", error)
        self._said = bool(self._heard.said())
        said = answer.get("clock")
        if isinstance(said, dict):
            boot_id, theirs_ns = said.get("bootid"), mending.uptime(said.get("uptimens"))
            if isinstance(boot_id, str) and theirs_ns is not None:
                self._heard.note(boot_id, theirs_ns, self._clock.now().uptime_ns)

    def has_news(self) -> bool:
        """Say whether the cloud should hear of clocks although nothing else waits."""
        return bool(self._heard.said()) and (not self._said or bool(self._news()[1]))

    def _news(self) -> tuple[str, list[tuple[int, mending.Sighting]]]:
        epoch = self._ties.epoch()
        return epoch, self._ties.after(self._progress.ties_told(epoch), TOLD_AT_ONCE)


def _wire(sighting: mending.Sighting) -> dict[str, Any]:
    return {
        "origin": sighting.mine[0],
        "bootid": sighting.mine[1],
        "with": sighting.theirs[1],
        "low": [str(uptime_ns) for uptime_ns in sighting.tie.low],
        "high": [str(uptime_ns) for uptime_ns in sighting.tie.high],
    }
