"""The spool's two files under one numbering: on disk, and a tail in memory for what may be lost in a power cut.

What is appended to the tail survives any end of the program. It goes to the disk when its receipt is late, when there
is too much of it, and at a stop in good order. A tail that is gone while the disk tells of one is a power cut.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from device_agent import memory
from millrace import crashpoints
from millrace.blobs import BlobStore, StorageFailed
from millrace.database import Damaged, mark_of
from millrace.doubts import Doubt
from millrace.entries import Draft, Entry
from millrace.outbox import Outbox
from millrace.reservation import BLOCK_SEQS
from millrace.room import Room
from millrace.tail import KEY, TAIL_FILE, TailNote, parse

log = logging.getLogger(__name__)

SPILL_ROWS = 64
SPILL_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class LostTail:
    """What a power cut took: seqs of an epoch that may have been promised and are not held any more."""

    epoch: str
    ranges: tuple[tuple[int, int], ...]


class Shelves:
    """Both files. One thread uses them."""

    def __init__(self, folder: Path, machine_id: str, boot_id: str, tail_folder: Path | None, room: Room) -> None:
        """Open or create them; without a `tail_folder` all is kept on disk.

        Follow it by `bury_tail` and `open_tail`. Errors: Locked, NewerSchema, StorageFailed, Damaged.
        """
        self.disk = Outbox(folder / "spool.db", BlobStore(folder / "frames"), machine_id, room=room)
        self.tail: Outbox | None = None
        self._tail_folder, self._boot_id = tail_folder, boot_id
        self._note = self._noted()
        self._token, self._noted_seq = "", 0
        if self._note is not None:
            self.tail = self._left_behind(self._note)

    def close(self) -> None:
        """Close both; what is in the tail stays there, unless `put_tail_away` came before."""
        if self.tail is not None:
            self.tail.close()
        self.disk.close()

    # --- beginning and end of a tail

    def _noted(self) -> TailNote | None:
        try:
            return parse(self.disk.note(KEY))
        except Damaged as error:  # of whatever it told of, nothing can be proven
            log.error("tail_note_damaged error=%s", error)
            return TailNote("", "", "", self.disk.epoch, self.disk.next_position - self.disk.next_seq, 0)

    def _left_behind(self, note: TailNote) -> Outbox | None:
        """Return the tail that the disk tells of, or None if it is gone, spoilt or from before a power cut."""
        is_of_now = note.boot_id == self._boot_id and note.epoch in self.disk.minted()
        if not is_of_now or not note.path.exists() or mark_of(note.path).exists():
            return None
        try:
            tail = Outbox(note.path, BlobStore(note.path.parent / "frames"), "", numbered_by=self.disk)
        except Damaged as error:
            log.error("tail_damaged error=%s", error)
            return None
        try:
            is_ours = tail.note(KEY) == note.token
        except Damaged as error:
            log.error("tail_damaged error=%s", error)
            is_ours = False
        if not is_ours:
            tail.close()
            return None
        self._token = note.token
        return tail

    def doubt(self) -> Doubt | None:
        """Return what is not proven since the disk's file was damaged or lost.

        A file that tells of no tail speaks for all: what was in one has been moved to the disk.
        """
        doubt = self.disk.doubt()
        return doubt.alone() if doubt is not None and self._note is None else doubt

    @contextmanager
    def lost_tail(self) -> Iterator[LostTail | None]:
        """Yield what a power cut took, inside a transaction on disk that is to declare it; mostly None.

        Its epoch is dead: how far it has minted is known from its reservation alone.
        """
        note = self._note
        if note is None or self.tail is not None:
            yield None
            return
        with self.disk.transaction():
            reserved = self.disk.reserved(note.epoch)
            if reserved is None:
                reserved = self.disk.minted().get(note.epoch, 0) + 2 * BLOCK_SEQS  # the note is renewed for each block
            first, last = note.offset + note.settled + 1, note.offset + reserved
            gaps = self.disk.gaps(first, last)
            self.disk.witness(note.epoch, reserved + 1, last + 1)
            if self.disk.epoch == note.epoch:
                self.disk.new_epoch("power cut: the tail in memory is gone")
            self.disk.set_note(KEY, None)
            yield LostTail(note.epoch, tuple((low - note.offset, high - note.offset) for low, high in gaps))
        self._note = None

    def open_tail(self) -> None:
        """Begin a tail where one is wanted and can be had; else say why there is none, and keep all on disk."""
        if self._tail_folder is None or self.tail is not None:
            return
        try:
            memory.claim(self._tail_folder)
            self._empty(self._tail_folder)
            self._token = secrets.token_hex(8)
            tail = Outbox(
                self._tail_folder / TAIL_FILE, BlobStore(self._tail_folder / "frames"), "", numbered_by=self.disk
            )
            try:
                with tail.transaction():
                    tail.set_note(KEY, self._token)
            except StorageFailed:
                tail.close()
                raise
        except (memory.NoMemory, StorageFailed) as error:
            log.warning("no_tail_in_memory error=%s; all is kept on disk", error)
            return
        self.tail = tail

    def fits(self) -> bool:
        """Whether the tail that was left behind may be used on: of this epoch, in the folder that is wanted."""
        tail = self.tail
        return tail is None or (tail.epoch == self.disk.epoch and tail.path.parent == self._tail_folder)

    def put_tail_away(self) -> None:
        """End the tail, all of whose rows have been moved: the disk alone holds everything. Errors: StorageFailed."""
        tail = self.tail
        if tail is None:
            return
        with self.disk.transaction():
            self.disk.witness(tail.epoch, tail.next_seq, tail.next_position)
            self.disk.set_note(KEY, None)
        self._note, self.tail = None, None
        tail.close()
        self._empty(tail.path.parent)
        with suppress(OSError):  # what others have put there stays
            tail.path.parent.rmdir()

    def _empty(self, folder: Path) -> None:
        shutil.rmtree(folder / "frames", ignore_errors=True)
        for part in folder.glob(f"{TAIL_FILE}*"):
            part.unlink(missing_ok=True)

    # --- what both hold

    @property
    def both(self) -> tuple[Outbox, ...]:
        """The files in use, the disk first."""
        return (self.disk,) if self.tail is None else (self.disk, self.tail)

    @property
    def next_seq(self) -> int:
        """The next seq of the present epoch."""
        return max(outbox.next_seq for outbox in self.both)

    @property
    def held_rows(self) -> int:
        """How many rows they hold."""
        return sum(outbox.held_rows for outbox in self.both)

    @property
    def held_bytes(self) -> int:
        """How many bytes these take, pictures included."""
        return sum(outbox.held_bytes for outbox in self.both)

    def minted(self) -> dict[str, int]:
        """Return, for each of our own epochs, the highest seq given out (0 for none yet)."""
        found = self.disk.minted()
        if self.tail is not None:
            found[self.tail.epoch] = max(found.get(self.tail.epoch, 0), self.tail.next_seq - 1)
        return found

    def read(self, after: int, max_rows: int) -> list[Entry]:
        """Return up to `max_rows` entries in order, positions above `after`."""
        rows = [outbox.read(after, max_rows) for outbox in self.both if outbox.held_rows]
        if len(rows) == 1:
            return rows[0]
        # A row stands in both when the program was killed while it was moved.
        by_position = {entry.position: entry for some in reversed(rows) for entry in some}
        return [by_position[position] for position in sorted(by_position)][:max_rows]

    def first_position(self, after: int) -> int | None:
        """Return the lowest position held above `after`, or None."""
        found = [place for outbox in self.both if (place := outbox.first_position(after)) is not None]
        return min(found, default=None)

    def picture(self, sha256: str) -> bytes | None:
        """Return a picture from wherever it lies whole, or None."""
        for outbox in self.both:
            content = outbox.blobs.get(sha256)
            if content is not None and hashlib.sha256(content).hexdigest() == sha256:
                return content
        return None

    # --- changing them

    @contextmanager
    def appending(self, outbox: Outbox) -> Iterator[None]:
        """Commit what is minted and appended to one of the files inside, numbered on from where either stands.

        The tail takes no seqs that a commit on disk has used which may come back: it refuses until the disk takes one.
        """
        if outbox is self.tail:
            self.disk.overwrite_failed_commit()
            self._note_use(outbox)
        with outbox.transaction():
            for other in self.both:
                if other is not outbox:
                    outbox.witness(other.epoch, other.next_seq, other.next_position)
            yield

    def _note_use(self, tail: Outbox) -> None:
        """See that the disk knows of the tail, and of what is settled once for each block of seqs."""
        if self._note is not None and self.next_seq < self._noted_seq + BLOCK_SEQS:
            return
        offset = tail.next_position - tail.next_seq
        lowest = self.first_position(offset)
        settled = (self.next_seq if lowest is None else lowest - offset) - 1
        folder = str(tail.path.parent)
        note = TailNote(folder, self._token, self._boot_id, tail.epoch, offset, settled)
        with self.disk.transaction():
            self.disk.witness(tail.epoch, tail.next_seq, tail.next_position)
            self.disk.set_note(KEY, note.dump())
        self._note, self._noted_seq = note, self.next_seq

    def forget(self, positions: Sequence[int]) -> None:
        """Delete these rows wherever they stand, on disk first. StorageFailed: some may stand yet; ask again."""
        for outbox in self.both:
            with outbox.transaction():
                outbox.forget(positions)

    def forget_range(self, first: int, last: int) -> None:
        """Delete the rows from position `first` to `last` wherever they stand, as `forget` does."""
        for outbox in self.both:
            if outbox.held_rows:
                with outbox.transaction():
                    outbox.forget_range(first, last)

    def oldest_s(self, now_s: float) -> float:
        """Return for how many seconds the tail's oldest row has stood there; 0 for none."""
        if self.tail is None or not (found := self.tail.read(0, 1)):
            return 0.0
        return self.tail.age_s(now_s) - found[0].born_s

    def spill(self, now_s: float) -> list[Entry]:
        """Move the tail's oldest rows to the disk, a bounded part; return those that are damaged and stay.

        A row is on disk before it leaves the tail. Errors: StorageFailed, and what was not moved stays.
        """
        tail = self.tail
        if tail is None:
            return []
        taken: list[Entry] = []
        size_bytes = 0
        for entry in tail.read(0, SPILL_ROWS):
            size_bytes += entry.bytes + self._picture_bytes(tail, entry)
            if taken and size_bytes > SPILL_BYTES:
                break
            taken.append(entry)
        sound = [entry for entry in taken if entry.intact]
        missing = [entry for entry in sound if self.disk.gaps(entry.position, entry.position)]
        if missing:
            crashpoints.reached("spill.copying")
            self._copy(missing, now_s)
            crashpoints.reached("spill.copied")
        with tail.transaction():
            tail.forget([entry.position for entry in sound])
        return [entry for entry in taken if not entry.intact]

    def _copy(self, entries: Sequence[Entry], now_s: float) -> None:
        digests = {entry.blob for entry in entries if entry.blob is not None}
        pictures = {digest: content for digest in digests if (content := self.picture(digest)) is not None}
        drafts = [
            Draft(entry.lane, entry.epoch, entry.seq, entry.body, entry.blob, len(pictures.get(entry.blob or "", b"")))
            for entry in entries
        ]
        with self.appending(self.disk):
            self.disk.put_pictures(pictures)
            self.disk.append(drafts, now_s, [entry.position for entry in entries])

    @staticmethod
    def _picture_bytes(tail: Outbox, entry: Entry) -> int:
        try:
            return tail.blobs.path(entry.blob).stat().st_size if entry.blob else 0
        except OSError:
            return 0
