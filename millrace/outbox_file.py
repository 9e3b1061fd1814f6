"""The file of an outbox: opened in any state, and changed in transactions that are on stable storage, or were nothing.

Its counters, the pictures that its rows speak of, and what was seen of it last are true to each commit.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

from millrace import clock, doubts, notes, outbox_tables
from millrace.birth import birth
from millrace.blobs import BlobStore, StorageFailed, make_folder
from millrace.counters import Counters, random_epoch
from millrace.database import CommitFailed, Damaged, Database, storage_errors
from millrace.entries import is_sound
from millrace.healing import heal
from millrace.outbox_tables import Extension
from millrace.pictures import Pictures
from millrace.rebuild import Known, Rebuild
from millrace.reservation import LastSeen, Reservation
from millrace.room import Room, RoomLeft

log = logging.getLogger(__name__)

Fill = Callable[[Path, Path, str], None]


class OutboxFile:
    """The one connection that writes an outbox, and what stands beside its file; used by one thread."""

    def __init__(
        self,
        path: Path,
        blobs: BlobStore,
        machine_id: str,
        more: Extension,
        *,
        numbered_by: OutboxFile | None,
        room: Room | None,
    ) -> None:
        """Open or create the file, with the errors that `Outbox` has; a full disk is tried again without the ballast.

        `numbered_by` shares its epoch with a new file, and reserves its seqs: that file has no room, and is not healed.
        """
        self.path, self._blobs, self._own_lanes = path, blobs, more.own_lanes
        self._may_come_back = False
        with ExitStack() as undo, storage_errors(path):
            make_folder(path.parent)
            steps = outbox_tables.steps(more)
            self._last_seen = LastSeen(path.with_name(path.name + ".seen"))
            undo.callback(self._last_seen.close)
            if numbered_by is None:
                self._reservation = Reservation(path.with_name(path.name + ".epoch"))
                self._room_left = RoomLeft(path, room)
                database = self._open_in_any_state(steps, self._rebuild(steps, more, machine_id), machine_id)
            else:
                self._reservation = numbered_by._reservation
                self._room_left = RoomLeft(path, None)
                database = self._open(steps, lambda: self._share_epoch(numbered_by))
            undo.callback(database.close)
            self._room_left.used_bytes = database.used_bytes()
            self.pictures.look_for_orphans()
            undo.pop_all()

    def close(self) -> None:
        """Close the file and give the lock back."""
        self._database.close()
        self._last_seen.close()

    @property
    def is_short(self) -> bool:
        """Whether the file or its disk is nearly full; any thread may ask."""
        return self._room_left.is_short

    @property
    def reserved(self) -> Mapping[str, int]:
        """For each epoch a seq that it has not minted beyond, over all files of this numbering."""
        return self._reservation.reserved

    def spoilt(self, why: str) -> NoReturn:
        """Say that what the file holds cannot be right: raise Damaged; the next start heals it."""
        self._database.spoilt(why)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit all that is done inside, on stable storage, or nothing; StorageFailed if the disk refuses.

        Inside another transaction it is a part of that one. Pictures whose last row went are unlinked after the
        commit. On a full disk the ballast goes, and the next transaction has its room.
        """
        if self.connection.in_transaction:
            yield
            return
        before = self.counters.state()
        committed = False
        try:
            with storage_errors(self.path):
                self.pictures.collect_orphans()
            with self._database.transaction():
                yield
                if before != self.counters.state():
                    self.counters.save()
                used_bytes = self._database.used_bytes()
            committed, self._room_left.used_bytes = True, used_bytes
            self._last_seen.note(self.counters.stand)
        except StorageFailed as error:
            if isinstance(error, CommitFailed):
                self.pictures.keep_new()
                self._may_come_back = True
            self._room_left.release()
            raise
        finally:
            if not committed:
                self.counters.restore(before)
            self.pictures.end(committed=committed)

    def overwrite_failed_commit(self) -> None:
        """See, outside of a transaction, that no commit whose sync failed comes back at the next start.

        The next commit takes its place in the log, if it writes anything: a cell that stays the same is not written.
        """
        if self._may_come_back:
            with self.transaction():
                notes.write(self.connection, "overwritten", secrets.token_hex(8))
            self._may_come_back = False

    # --- opening

    def _open_in_any_state(self, steps: Sequence[str], fill: Fill, machine_id: str) -> Database:
        for _ in range(2):
            try:
                return self._open_healed(steps, fill, machine_id)
            except Damaged:  # met behind the check: the mark is set
                continue
            except StorageFailed:
                if not self._room_left.release():
                    raise
        return self._open_healed(steps, fill, machine_id)

    def _open_healed(self, steps: Sequence[str], fill: Fill, machine_id: str) -> Database:
        heal(self.path, fill, is_used=bool(self._reservation.reserved))
        return self._open(steps, lambda: self._choose_epoch(machine_id))

    def _open(self, steps: Sequence[str], choose_epoch: Callable[[], None]) -> Database:
        self._database = Database(self.path, steps, max_bytes=self._room_left.max_bytes)
        with ExitStack() as undo:
            undo.callback(self._database.close)
            self.connection = self._database.connection
            self.pictures = Pictures(self.connection, self._blobs)
            self.counters = Counters(self._database, self._reservation, self._own_lanes)
            choose_epoch()
            undo.pop_all()
        return self._database

    def _rebuild(self, steps: Sequence[str], more: Extension, machine_id: str) -> Fill:
        def fill(old: Path, new: Path, why: str) -> None:
            tables = (*outbox_tables.CARRIED, *more.tables)
            known = Known(self._reservation.reserved, self._last_seen.read(), clock.boot_id())
            rebuild = Rebuild(self._blobs, known, random_epoch(), machine_id, is_sound, more.own_lanes, tables)
            database = Database(new, steps)
            try:
                rebuild.fill(old, database, why)
            finally:
                database.close()

        return fill

    def _choose_epoch(self, machine_id: str) -> None:
        """Go on in the last epoch; begin another in a new file, a copy, on another machine, or after a loss."""
        is_new, next_seq = self.counters.is_new, self.counters.next_seq
        if next_seq > self._reservation.reserved.get(self.counters.epoch, next_seq) + 1:
            self.spoilt(f"it knows seq {next_seq} of {self.counters.epoch} as the next, which was never reserved")
        now = {"machine_id": machine_id, "birth": birth(self.path)}
        known = {key: value for key, value, _ in self._notes()}
        lost = doubts.find_lost(self.connection, self.counters, self._reservation.reserved, self._last_seen.read())
        if not lost and all(known.get(key) == value for key, value in now.items()):
            return
        with self.transaction():
            if lost:
                why = "the file was lost" if is_new else "set back to an older state"
                log.error("outbox_set_back file=%s why=%r", self.path, why)
                doubts.begin(self.connection, why, lost)
                self.counters.begin_epoch(why)
            elif is_new:
                self.counters.begin_epoch("created")
            elif known.get("machine_id", machine_id) != machine_id:
                self.counters.begin_epoch("another machine")
            elif "birth" in known:
                self.counters.begin_epoch("a copy was put in its place")
            for key, value in now.items():
                notes.write(self.connection, key, value)

    def _notes(self) -> list[notes.Row]:
        rows = self.connection.execute(notes.SELECT_ALL).fetchall()
        if not notes.are_believed(rows):
            self.spoilt(f"its notes are not as they were written: {rows}")
        return rows

    def _share_epoch(self, other: OutboxFile) -> None:
        if self.counters.is_new:
            with self.transaction():
                self.counters.share(other.counters, f"shared with {other.path}")
