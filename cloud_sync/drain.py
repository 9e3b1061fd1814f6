"""The drain: rows go up in batches until none is left, whatever the link does; no state needs a human."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from cloud_sync.lanes import WEIGHTS, Schedule, oldest_unsettled
from cloud_sync.link import Link
from cloud_sync.progress import Progress
from cloud_sync.settings import SyncSettings
from cloud_sync.submit import Answer, Cloud, LinkDown, Rejected, Unauthorized
from millrace import crashpoints, events, jsontext, topics
from millrace.blobs import BlobStore
from millrace.clock import Clock
from millrace.outbox import Entry, Lane, Reader
from millrace.ranges import RangeSet
from millrace.service import Beat

log = logging.getLogger(__name__)

_Minted = dict[str, dict[str, int]]
_Untold = Sequence[tuple[str, int, bytes, str]]
SAY_DOWN_EVERY_S = 60.0
MINTED_AT_ONCE = 1000
BLOB_MISSING = "blob missing"


class Drain:
    """The loop that settles; an actor. `step` does one round, so that it can be driven by a test."""

    def __init__(self, settings: SyncSettings, progress: Progress, cloud: Cloud, link: Link, clock: Clock) -> None:
        self._settings, self._progress, self._cloud = settings, progress, cloud
        self._link, self._clock = link, clock
        self._reader = Reader(settings.state_dir / "gateway.db")
        self._blobs = BlobStore(settings.state_dir / "frames")
        self._schedule = Schedule(settings.batch.live_share)
        self._stop = threading.Event()
        self._origin = topics.origin_of(topics.gateway_source("x", settings.gateway))
        self._told_minted: dict[tuple[str, str], int] = {}
        self._seen = -2
        self._said_down_s = float("-inf")
        self._said_waiting = False
        self._rows_per_s = 0.0
        self.beat = Beat(clock)

    def run(self) -> None:
        """Drain until interrupted."""
        while not self._stop.is_set():
            self.beat.beat()
            pause_s = self.step(self._clock.uptime_s())
            if pause_s > 0:
                self._stop.wait(min(pause_s, 1.0))
        self._reader.close()

    def interrupt(self) -> None:
        """End `run`."""
        self._stop.set()

    def step(self, now_s: float) -> float:
        """Send one batch if there is one and the link may be tried; return for how long to pause."""
        wait_s = self._link.wait_s(now_s)
        if wait_s > 0:
            return wait_s
        epochs = list(self._reader.epochs())
        if not epochs:
            if not self._said_waiting:
                self._said_waiting = True
                log.info(
                    "waiting_for file=%s: the gateway has not made it yet", self._settings.state_dir / "gateway.db"
                )
            return self._settings.poll_s
        try:
            if self._send_one(epochs[-1]):
                return 0.0
        except LinkDown as error:
            self._fail(error)
            return max(0.0, self._link.wait_s(self._clock.uptime_s()))
        return self._settings.poll_s

    def _send_one(self, epoch: str) -> bool:
        """Send the next batch; return False if nothing waited."""
        seen = self._reader.changed()
        waiting = {}
        if seen != self._seen:
            waiting = {lane: batch for lane in WEIGHTS if (batch := self._backlog(epoch, lane)).rows}
        lane = self._schedule.next_lane(waiting)
        if lane is None:
            self._seen = seen
            self._tell_minted()
            return False
        batch = waiting[lane]
        if batch.more and self._schedule.live_turn():
            live = self._newest(epoch, lane)
            batch = live if live.rows else batch
        self._submit(epoch, batch)
        return True

    def _backlog(self, epoch: str, lane: Lane) -> _Batch:
        """Return the oldest unsettled rows of a lane; they settle everything from the last settled row on."""
        while True:
            settled = self._progress.settled(epoch, lane)
            after = oldest_unsettled(settled)
            rows = self._reader.read(lane, after, self._settings.batch.max_rows)
            fresh = _until_settled(rows, settled)
            if fresh or not rows:
                fits = self._within_bytes(fresh)
                more = len(fits) < len(fresh) or len(rows) == self._settings.batch.max_rows
                return _Batch(lane, after + 1, fits, more)
            # What was sent ahead while it was live joins the settled rows before it.
            reached = next(last for first, last in settled if first <= rows[0].position <= last)
            self._progress.settle(epoch, lane, 1, reached)

    def _newest(self, epoch: str, lane: Lane) -> _Batch:
        """Return the newest rows of a lane that are not settled; they settle only themselves."""
        settled = self._progress.settled(epoch, lane)
        rows = self._reader.newest(lane, self._settings.batch.max_rows)
        ahead = [row for row in rows if row.position > (settled.last() or 0)]
        fits = self._within_bytes(ahead[::-1])[::-1]
        return _Batch(lane, fits[0].position if fits else 0, fits)

    def _within_bytes(self, rows: list[Entry]) -> list[Entry]:
        total = 0
        for count, row in enumerate(rows):
            total += row.bytes + self._picture_bytes(row)
            if total > self._settings.batch.max_bytes and count:
                return rows[:count]
        return rows

    def _picture_bytes(self, row: Entry) -> int:
        """Return what goes up before the row does: a batch must fit through a link that stands for a short time."""
        if row.lane is not Lane.FRAME or row.blob is None or not row.intact:
            return 0
        try:
            return self._blobs.path(row.blob).stat().st_size
        except FileNotFoundError:
            return 0

    def _submit(self, epoch: str, batch: _Batch) -> None:
        begun_s = self._clock.uptime_s()
        buried = [(row, "checksum does not fit: the row is damaged") for row in batch.rows if not row.intact]
        sound = [row for row in batch.rows if row.intact]
        crashpoints.reached("sync.picked")
        answer = self._have_committed(sound)
        crashpoints.reached("sync.answered")
        for index, reason in answer.rejected.items():
            if reason.startswith(BLOB_MISSING):
                raise LinkDown(f"the cloud asks again for a picture: {reason}")
            buried.append((sound[index], reason))
        for row, reason in buried:
            log.error("row_buried position=%d seq=%s-%d reason=%r", row.position, row.epoch, row.seq, reason)
        self._progress.settle(epoch, batch.lane, batch.first, batch.rows[-1].position, buried)
        crashpoints.reached("sync.settled")
        spent_s = max(1e-3, self._clock.uptime_s() - begun_s)
        self._rows_per_s += 0.3 * (len(batch.rows) / spent_s - self._rows_per_s)
        self._came_through()
        log.debug("batch_settled lane=%s rows=%d", batch.lane.name, len(batch.rows))

    def _have_committed(self, rows: Sequence[Entry]) -> Answer:
        """Have rows committed; a request that is refused as such is split until the one row is found."""
        if not rows:
            return Answer(0, 0, {})
        untold = self._progress.untold()
        minted = self._minted_news()
        try:
            answer = self._cloud.submit([self._body(row) for row in rows], minted, _burials(untold, self._origin))
        except Rejected as error:
            if len(rows) == 1:
                self._make_sure_it_is_the_row(minted, untold)
                return Answer(0, 0, {0: str(error)})
            half = len(rows) // 2
            left, right = self._have_committed(rows[:half]), self._have_committed(rows[half:])
            rejected = left.rejected | {index + half: reason for index, reason in right.rejected.items()}
            return Answer(left.accepted + right.accepted, left.duplicates + right.duplicates, rejected)
        self._note_told(minted)
        self._progress.told(untold)
        return answer

    def _make_sure_it_is_the_row(self, minted: _Minted, untold: _Untold) -> None:
        """Raise LinkDown unless the cloud commits the same request without the row: only then is the row to blame."""
        try:
            self._cloud.submit([], minted, _burials(untold, self._origin))
        except Rejected as error:
            raise LinkDown(f"every request is refused, whatever is in it: {error}; check gateway and url") from None

    def _body(self, row: Entry) -> bytes:
        """Return the row as it travels; a frame's picture is uploaded first, and the row speaks of its digest."""
        if row.lane is not Lane.FRAME or row.blob is None:
            return row.body
        picture = self._blobs.get(row.blob)
        if picture is None:
            if [entry.position for entry in self._reader.read(row.lane, row.position - 1, 1)] == [row.position]:
                raise Rejected(f"its picture {row.blob} is lost: the file is gone or cannot be read")
            raise LinkDown(f"row {row.position} was dropped with its picture while it was being sent")
        self._cloud.upload(row.blob, picture)
        crashpoints.reached("sync.uploaded")
        event: dict[str, Any] = jsontext.parse(row.body)  # type: ignore[assignment]
        content_type = event.get("datacontenttype", "image/jpeg")
        event["data"] = {"sha256": row.blob, "bytes": len(picture), "content_type": content_type}
        return jsontext.dump(event)

    def _minted_news(self) -> _Minted:
        """Return how far origins have minted where the cloud was not told yet, a bounded number of epochs at a time."""
        known = {**self._reader.minted(), self._origin: self._reader.epochs()}
        changed = (
            (origin, epoch, seq)
            for origin, epochs in known.items()
            for epoch, seq in epochs.items()
            if self._told_minted.get((origin, epoch)) != seq
        )
        news: _Minted = {}
        for origin, epoch, seq in islice(changed, MINTED_AT_ONCE):
            news.setdefault(origin, {})[epoch] = seq
        return news

    def _note_told(self, minted: _Minted) -> None:
        for origin, epochs in minted.items():
            self._told_minted |= {(origin, epoch): seq for epoch, seq in epochs.items()}

    def _tell_minted(self) -> None:
        """With nothing else to send, tell how far everyone has minted and what was buried, if that is news."""
        minted, untold = self._minted_news(), self._progress.untold()
        if not minted and not untold:
            return
        try:
            self._cloud.submit([], minted, _burials(untold, self._origin))
        except Rejected as error:
            raise LinkDown(f"the cloud does not take the account of what was minted: {error}") from None
        self._note_told(minted)
        self._progress.told(untold)
        self._came_through()

    # --- the link

    def _came_through(self) -> None:
        if self._link.committed(self._clock.uptime_s()):
            log.info("link_up url=%s", self._settings.cloud.url)
        self._progress.note_link("up", self._clock.now().wall_ns, self._rows_per_s)

    def _fail(self, error: LinkDown) -> None:
        now_s = self._clock.uptime_s()
        went_down = self._link.failed(now_s, error.retry_after_s)
        if went_down or now_s - self._said_down_s > SAY_DOWN_EVERY_S:
            self._said_down_s = now_s
            level = logging.ERROR if isinstance(error, Unauthorized) else logging.WARNING
            log.log(level, "link_down url=%s tries=%d error=%s", self._settings.cloud.url, self._link.failures, error)
        self._seen = -2
        self._progress.note_link("down", self._clock.now().wall_ns, self._rows_per_s)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Rows of one lane in order, none settled; with them everything from `first` to the last is settled.

    `more` says that rows of this lane are left for another batch.
    """

    lane: Lane
    first: int
    rows: list[Entry]
    more: bool = False


def _until_settled(rows: Sequence[Entry], settled: RangeSet) -> list[Entry]:
    fresh = []
    for row in rows:
        if row.position in settled:
            break
        fresh.append(row)
    return fresh


def _burials(untold: _Untold, own_origin: str) -> list[dict[str, Any]]:
    """Return what the cloud is told of buried rows: whose each was, and why it does not come.

    It takes no word of another gateway from us, such as one that this gateway was named before.
    """
    told = []
    for _, position, body, reason in untold:
        try:
            value = jsontext.parse(body)
            source, event_id = (str(value["source"]), str(value["id"])) if isinstance(value, dict) else ("", "")
            epoch, seq = events.parse_id(event_id)
            origin = topics.origin_of(source)
            if origin.startswith("gateway/") and origin != own_origin:
                raise ValueError(f"{origin} is not {own_origin}")
            told.append({"origin": origin, "epoch": epoch, "seq": seq, "reason": reason})
        except (ValueError, KeyError) as error:
            log.warning("burial_untold position=%d error=%s", position, error)
    return told
