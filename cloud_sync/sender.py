"""What is asked of the cloud: pictures, rows and news; a row is blamed only where a request without it gets through."""

from __future__ import annotations

from collections.abc import Sequence

from cloud_sync.batches import Batches
from cloud_sync.debt import Debt
from cloud_sync.news import Minted, MintedNews, burials
from cloud_sync.parcel import Parcel, pack
from cloud_sync.progress import Progress
from cloud_sync.submit import Answer, Cloud, LinkDown, Rejected
from millrace import crashpoints
from millrace.clock import Clock
from millrace.entries import Entry
from millrace.service import Beat

UPLOADED_AT_MOST = 10_000
_BLOB_MISSING = "blob missing"


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
    ) -> None:
        """`origin` is the gateway's own; a parcel that takes longer than `target_s` to pack goes with what it has."""
        self._cloud, self._batches, self._progress, self._debt = cloud, batches, progress, debt
        self._beat, self._clock, self._origin, self._target_s = beat, clock, origin, target_s
        self._news = MintedNews()
        self._uploaded: set[str] = set()

    def forget_uploads(self) -> None:
        """Upload every picture again, even those that the cloud has taken."""
        self._uploaded.clear()

    def pack(self, rows: Sequence[Entry], begun_s: float) -> Parcel:
        """Upload the rows' pictures and return the parcel, begun at `begun_s`. Errors: LinkDown."""
        return pack(rows, self._batches, self._upload, lambda: self._clock.uptime_s() - begun_s > self._target_s)

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

    def _upload(self, sha256: str, picture: bytes) -> None:
        """Upload a picture, once for all tries of its batch: a link that fails often gets on by one at a time."""
        if sha256 in self._uploaded:
            return
        self._cloud.upload(sha256, picture)
        if len(self._uploaded) > UPLOADED_AT_MOST:
            self._uploaded.clear()
        self._uploaded.add(sha256)
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
