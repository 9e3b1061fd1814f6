"""What of the gateway's rows waits to go up, lane by lane, cut to a size; settled rows are never in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cloud_sync.lanes import oldest_unsettled
from cloud_sync.progress import Progress
from millrace.blobs import BlobStore
from millrace.database import Viewer
from millrace.entries import Entry, Lane
from millrace.outbox_reader import Reader
from millrace.ranges import RangeSet
from millrace.row_sums import is_believed

STREAM_WIDTH = 5
"""How many columns a row of the gateway's `stream` has before its checksum."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one lane in order, none settled; with them everything from `first` to the last is settled.

    `more` says that rows of this lane are left for another batch; `size_bytes` counts rows and pictures.
    """

    lane: Lane
    first: int
    rows: list[Entry]
    size_bytes: int
    more: bool = False


class Batches:
    """Reads the gateway's database and frames, and joins what was settled ahead of its turn."""

    def __init__(self, state_dir: Path, progress: Progress) -> None:
        self.reader = Reader(state_dir / "gateway.db")
        self._streams = Viewer(state_dir / "gateway.db", "SELECT no FROM stream LIMIT 1")
        self.blobs = BlobStore(state_dir / "frames")
        self._progress = progress

    def close(self) -> None:
        """Close the gateway's database; the next read opens it again."""
        self.reader.close()
        self._streams.close()

    def minted(self) -> dict[str, dict[str, int]]:
        """Return for each origin how far it has minted in each of its epochs, in the order in which those were met.

        In that order the cloud meets them too. Errors: StorageFailed.
        """
        minted = self.reader.minted()  # before the streams: of what is in it each has its place there
        streams = self._streams.all("SELECT * FROM stream ORDER BY no")
        place = {(f"device/{device}", epoch): number for number, (_, device, epoch, *_) in enumerate(streams)}
        for row in streams:
            if is_believed(row, STREAM_WIDTH):  # of another the gateway's next start finds out
                _, device, epoch, watermark, *_ = row
                epochs = minted.setdefault(f"device/{device}", {})
                epochs[epoch] = max(epochs.get(epoch, 0), watermark)
        return {
            origin: {epoch: epochs[epoch] for epoch in sorted(epochs, key=lambda epoch: place.get((origin, epoch), -1))}
            for origin, epochs in minted.items()
        }

    def oldest(self, epoch: str, lane: Lane, max_rows: int, max_bytes: int) -> Batch:
        """Return the oldest unsettled rows of a lane; they settle everything from the last settled row on.

        Errors: StorageFailed.
        """
        while True:
            settled = self._progress.settled(epoch, lane)
            after = oldest_unsettled(settled)
            rows = self.reader.read(lane, after, max_rows)
            fresh = _until_settled(rows, settled)
            if fresh or not rows:
                fits, size_bytes = self._within(fresh, max_bytes)
                return Batch(lane, after + 1, fits, size_bytes, more=len(fits) < len(fresh) or len(rows) == max_rows)
            # What was sent ahead while it was live joins the settled rows before it.
            reached = next(last for first, last in settled if first <= rows[0].position <= last)
            self._progress.settle(epoch, lane, 1, reached)

    def newest(self, epoch: str, lane: Lane, max_rows: int, max_bytes: int) -> Batch:
        """Return the newest rows of a lane that are not settled; they settle only themselves."""
        settled = self._progress.settled(epoch, lane)
        rows = self.reader.newest(lane, max_rows)
        ahead = [row for row in rows if row.position > (settled.last() or 0)]
        fits, size_bytes = self._within(ahead[::-1], max_bytes)
        return Batch(lane, fits[-1].position if fits else 0, fits[::-1], size_bytes)

    def _within(self, rows: list[Entry], max_bytes: int) -> tuple[list[Entry], int]:
        """Return the first rows that fit, one at least, and their size."""
        total = 0
        for count, row in enumerate(rows):
            size = row.bytes + self._picture_bytes(row)
            if total + size > max_bytes and count:
                return rows[:count], total
            total += size
        return rows, total

    def _picture_bytes(self, row: Entry) -> int:
        """Return what goes up before the row does: a batch must fit through a link that stands for a short time."""
        if row.lane is not Lane.FRAME or row.blob is None or not row.intact:
            return 0
        try:
            return self.blobs.path(row.blob).stat().st_size
        except OSError:  # what is wrong with it is said when it is read
            return 0


def _until_settled(rows: Sequence[Entry], settled: RangeSet) -> list[Entry]:
    fresh = []
    for row in rows:
        if row.position in settled:
            break
        fresh.append(row)
    return fresh
