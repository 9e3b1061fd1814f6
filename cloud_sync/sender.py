"""What is asked of the cloud: pictures, rows and news; a row is blamed only where a request without it gets through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloud_sync.batches import Batches
from cloud_sync.debt import Debt
from cloud_sync.news import Minted, MintedNews, burials
from cloud_sync.parcel import Parcel, pack, pictures
from cloud_sync.progress import Progress
from cloud_sync.submit import Answer, Cloud, LinkDown, Rejected
from cloud_sync.uploads import Shipment, Uploads
from millrace import crashpoints
from millrace.clock import Clock
from millrace.entries import Entry
from millrace.service import Beat

_BLOB_MISSING = "blob missing"
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Load:
    """Rows whose pictures go up since `begun_s`, before them."""

    rows: Sequence[Entry]
    shipment: Shipment
    begun_s: float


class Sender:
    """Packs rows and has them committed; remembers what the cloud was told, which a new process would tell again."""

    def __init__(
        self,
        cloud: Cloud,
        batches: Batches,
        progress: Progress,
        debt: Debt,
        beat: Beat,
        clock: Clock,
        *,
        origin: str,
        target_s: float,
        uploads: int,
    ) -> None:
        """`origin` is the gateway's own; `uploads` pictures go up at once.

        A load whose pictures take longer than `target_s` goes with those that are there.
        """
        self._cloud, self._batches, self._progress, self._debt = cloud, batches, progress, debt
        self._beat, self._clock, self._origin, self._target_s = beat, clock, origin, target_s
        self._news = MintedNews()
        self.uploads = Uploads([cloud.another() for _ in range(uploads)], batches.blobs.get, self._came_up)

    def load(self, rows: Sequence[Entry]) -> Load:
        """Begin to upload the rows' pictures; nobody waits for it."""
        return Load(rows, self.uploads.begin(pictures(rows)), self._clock.uptime_s())

    def is_loaded(self, load: Load) -> bool:
        """Whether it can be packed without waiting: all is there, something failed, or it has taken long enough."""
        is_late = self._clock.uptime_s() - load.begun_s > self._target_s
        return load.shipment.is_over or (is_late and load.shipment.has_first)

    def wait(self, load: Load) -> None:
        """Wait a moment for a load's pictures, at most until they are there."""
        self.uploads.wait(load.shipment, _POLL_S)

    def unload(self, load: Load) -> None:
        """Let a load be: begin to upload no more of its pictures."""
        self.uploads.abandon(load.shipment)

    def pack(self, load: Load) -> Parcel:
        """Wait for a load's pictures and return the parcel. Errors: LinkDown, StorageFailed."""
        while not self.is_loaded(load):
            self.wait(load)
        self.unload(load)
        if load.shipment.failed is not None:
            raise load.shipment.failed
        return pack(load.rows, self._batches, load.shipment.outcomes)

    def commit(self, parcel: Parcel) -> list[tuple[Entry, str]]:
        """Have the parcel's rows committed; return the refused ones, those whose pictures are refused before them.

        A single row whose request is refused as such is one of them. Errors: Rejected for several rows, LinkDown.
        """
        return parcel.refused + self._commit_rows(parcel)

    def tell_news(self) -> bool:
        """Tell how far everyone has minted and what was buried, if that is news; return whether it was.

        Errors: LinkDown.
        """
        if not self._minted_news() and not self._progress.untold() and not self._cloud.has_news():
            return False
        try:
            self._submit([])
        except Rejected as error:
            raise LinkDown(f"the cloud does not take the account of what was minted: {error}") from None
        return True

    def _came_up(self) -> None:
        """Take note, in the thread that brought it up, that the cloud has a picture."""
        crashpoints.reached("sync.uploaded")
        self._beat.beat()

    def _commit_rows(self, parcel: Parcel) -> list[tuple[Entry, str]]:
        if not parcel.sent:
            if parcel.refused:
                self._make_sure_it_is_the_row()
            return []
        try:
            answer = self._submit(parcel.bodies)
        except Rejected as error:
            if len(parcel.sent) > 1:
                raise
            self._make_sure_it_is_the_row()
            return [(parcel.sent[0], str(error))]
        return [(parcel.sent[index], reason) for index, reason in answer.rejected.items()]

    def _make_sure_it_is_the_row(self) -> None:
        """Raise LinkDown unless the cloud commits the same request without the row: only then is the row to blame."""
        try:
            self._submit([])
        except Rejected as error:
            raise LinkDown(f"every request is refused, whatever is in it: {error}; check gateway and url") from None

    def _submit(self, bodies: list[bytes]) -> Answer:
        """Have rows committed, with what else is to be told. Errors: Rejected, LinkDown."""
        untold = self._progress.untold()
        minted = self._minted_news()
        answer = self._cloud.submit(bodies, minted, burials(untold, self._origin, self._known_minted()))
        self._beat.beat()
        self._news.told(minted)
        self._debt.owe_told(untold)
        return answer

    def _minted_news(self) -> Minted:
        return self._news.among(self._known_minted())

    def _known_minted(self) -> Minted:
        return {**self._batches.minted(), self._origin: self._batches.reader.epochs()}


def picture_missing(refused: Sequence[tuple[Entry, str]]) -> str | None:
    """Return how the cloud asks for a picture again that it took before, if it does."""
    return next((reason for _, reason in refused if reason.startswith(_BLOB_MISSING)), None)
