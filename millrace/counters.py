"""What an outbox counts: its epochs, seqs and positions, what it holds, and its age.

In memory they run ahead inside a transaction; with its commit they are on disk, and if it fails they are set back.
What rows that were only appended tell by themselves is not written with each commit: it is counted when they are read.
"""

from __future__ import annotations

import random
import string
from collections.abc import Sequence

from millrace.database import Connection, Database, storage_errors
from millrace.entries import Lane, entry_of
from millrace.reservation import Reservation, Seen
from millrace.row_sums import is_believed, summed

AGE_MAX_S = 1e10
"""No file has been in use for 300 years."""
State = tuple[str, int, int, int, int]
EPOCH_WIDTH, COUNTER_WIDTH = 4, 5
"""How many columns a row of `own_epoch` and of `counter` has before its checksum."""
BEHIND_ROWS, BEHIND_S = 1024, 60.0
"""So many rows, and seconds of age, what is written may lag behind the rows."""
_SELECT_BEHIND = (
    "SELECT count(*), total(bytes), coalesce(max(born_s), 0) FROM (SELECT CAST(bytes AS INTEGER) AS bytes,"
    " CAST(born_s AS INTEGER) AS born_s FROM entry WHERE position >= ? LIMIT ?)"
)
_SELECT_EPOCHS = "SELECT * FROM own_epoch ORDER BY number"


class Counters:
    """The counters of one outbox, used by its thread."""

    is_new: bool
    """Whether the file had no epoch when it was opened."""
    epoch: str
    next_seq: int
    next_position: int
    held_rows: int
    held_bytes: int
    """Pictures included."""
    _written_counter: tuple[int, int, float] | None
    """Next position, rows held and age as they are on the disk; None where they are to be written in any case."""

    def __init__(self, database: Database, reservation: Reservation, own_lanes: Sequence[Lane] | None = None) -> None:
        """Read them. Errors: Damaged if they cannot be right.

        In an own epoch others' rows may be numbered too, in lanes that are not `own_lanes`; None: all are own.
        """
        self._own_lanes = own_lanes
        self._database, self._connection, self._reservation = database, database.connection, reservation
        self._age_origin_s: float | None = None
        self._load()
        self._load_epoch()

    def _load(self) -> None:
        rows = self._connection.execute("SELECT * FROM counter").fetchall()
        last_position = self._connection.execute("SELECT max(position) FROM entry").fetchone()[0] or 0
        try:
            ((_, self.next_position, self.held_rows, self.held_bytes, age_s, _),) = rows
            is_sane = is_believed(rows[0], COUNTER_WIDTH) and min(self.held_rows, self.held_bytes) >= 0
            is_sane = is_sane and 0 <= age_s < AGE_MAX_S
            self._written_counter = self.next_position, self.held_rows, float(age_s)
            age_s = max(age_s, self._count_behind())
            is_sane = is_sane and self.next_position > last_position
        except (ValueError, TypeError):
            is_sane = False
        if not is_sane:
            self._database.spoilt(f"its counters make no sense: {rows}, last position {last_position}")
        self._age_s = float(age_s)

    def _count_behind(self) -> int:
        """Count the rows that were appended since the counters were written; return the age at the last of them."""
        behind = self._connection.execute(_SELECT_BEHIND, (self.next_position, BEHIND_ROWS)).fetchone()
        rows, size_bytes, born_s = (int(number) for number in behind)
        self.next_position += rows
        self.held_rows += rows
        self.held_bytes += size_bytes
        return born_s

    def _load_epoch(self) -> None:
        epochs = self._epochs()
        row = epochs[-1] if epochs else None
        last = self._connection.execute("SELECT * FROM entry ORDER BY position DESC LIMIT 1").fetchone()
        self.is_new = row is None
        self.epoch, _, self.next_seq, _ = ("", 0, 1, "") if row is None else row
        self._noted = {epoch: (number, reason) for epoch, number, _, reason in epochs}
        self._written: tuple[str, int] | None = (self.epoch, self.next_seq)
        is_sane = row is not None or last is None
        is_sane = is_sane and isinstance(self.next_seq, int) and self.next_seq >= 1
        if is_sane and last is not None:
            entry = entry_of(*last)
            is_own = entry.epoch == self.epoch and (self._own_lanes is None or entry.lane in self._own_lanes)
            is_sane = not entry.intact or not is_own or entry.seq < self.next_seq
        if not is_sane:
            self._database.spoilt(f"its last epoch makes no sense: {row}")

    def _epochs(self) -> list[tuple[str, int, int, str]]:
        rows = self._connection.execute(_SELECT_EPOCHS).fetchall()
        for row in rows:
            if not is_believed(row, EPOCH_WIDTH):
                self._database.spoilt(f"its epochs make no sense: {row}")
        return [row[:EPOCH_WIDTH] for row in rows]

    # --- with a transaction

    def state(self) -> State:
        """Return what a transaction may change, to `restore` it if that fails."""
        return self.epoch, self.next_seq, self.next_position, self.held_rows, self.held_bytes

    def restore(self, state: State) -> None:
        """Set them back to what they were."""
        self.epoch, self.next_seq, self.next_position, self.held_rows, self.held_bytes = state
        self._written = self._written_counter = None  # what the transaction wrote of them went with it

    @property
    def stand(self) -> Seen:
        """How far they have come: what a later start must find at least."""
        return Seen(self.epoch, self.next_seq, self.next_position)

    def save(self) -> None:
        """Write them inside the present transaction, what was minted being reserved before. Errors: OSError."""
        self._reservation.cover(self.epoch, self.next_seq - 1)
        if self.epoch and (self.epoch, self.next_seq) != self._written:  # others' rows move no seq of ours
            self._write_epoch(self.epoch, self.next_seq)
        if not self._is_told_by_rows():
            write_counter(self._connection, self.next_position, self.held_rows, self.held_bytes, self._age_s)
            self._written_counter = self.next_position, self.held_rows, self._age_s

    def changed_otherwise(self) -> None:
        """Take note that what is held has changed by more than rows appended at the end, without pictures."""
        self._written_counter = None

    def _is_told_by_rows(self) -> bool:
        """Whether who reads what is written, and counts the rows behind it, knows all."""
        if self._written_counter is None:
            return False
        position, rows, age_s = self._written_counter
        appended = self.next_position - position
        return appended == self.held_rows - rows and appended <= BEHIND_ROWS and self._age_s - age_s <= BEHIND_S

    def _write_epoch(self, epoch: str, next_seq: int) -> None:
        number, reason = self._noted[epoch]
        write_epoch(self._connection, epoch, number, next_seq, reason)
        self._written = epoch, next_seq

    # --- epochs and seqs

    def mint(self) -> int:
        """Give out the next seq of the present epoch."""
        seq = self.next_seq
        self.next_seq += 1
        return seq

    def minted(self) -> dict[str, int]:
        """Return, for each of our own epochs, the highest seq given out (0 for none yet).

        Errors: StorageFailed, Damaged.
        """
        with storage_errors(self._database.path):
            return {epoch: next_seq - 1 for epoch, _, next_seq, _ in self._epochs()}

    def begin_epoch(self, reason: str) -> str:
        """Begin a new epoch inside the present transaction; return its name."""
        self.save()
        self.epoch, self.next_seq = random_epoch(), 1
        self._noted[self.epoch] = max((number for number, _ in self._noted.values()), default=0) + 1, reason
        self._write_epoch(self.epoch, self.next_seq)
        return self.epoch

    def share(self, other: Counters, reason: str) -> None:
        """Go on, inside the present transaction of a new file, in another's epoch from where that one stands."""
        self.epoch, self.next_seq, self.next_position = other.epoch, other.next_seq, other.next_position
        self._noted[self.epoch] = 1, reason
        self._write_epoch(self.epoch, self.next_seq)

    def witness(self, epoch: str, next_seq: int, next_position: int) -> None:
        """Note, inside the present transaction, that another file of this numbering stands so far; never goes back."""
        if epoch == self.epoch:
            self.next_seq = max(self.next_seq, next_seq)
        elif next_seq - 1 > self.minted().get(epoch, next_seq):
            self._write_epoch(epoch, next_seq)
        self.next_position = max(self.next_position, next_position)

    # --- age

    def age_s(self, uptime_s: float) -> float:
        """Return for how many seconds this file has been in use, over all runs; no clock can make it jump."""
        if self._age_origin_s is None:
            self._age_origin_s = uptime_s - self._age_s
        self._age_s = uptime_s - self._age_origin_s
        return self._age_s


def write_epoch(connection: Connection, epoch: str, number: int, next_seq: int, reason: str) -> None:
    """Write how far an epoch has come, inside the present transaction."""
    row = summed(epoch, number, next_seq, reason)
    connection.execute("INSERT OR REPLACE INTO own_epoch VALUES (?, ?, ?, ?, ?)", row)


def write_counter(connection: Connection, next_position: int, held_rows: int, held_bytes: int, age_s: float) -> None:
    """Write the counters, inside the present transaction."""
    row = summed(1, next_position, held_rows, held_bytes, float(age_s))
    connection.execute("INSERT OR REPLACE INTO counter VALUES (?, ?, ?, ?, ?, ?)", row)


def random_epoch() -> str:
    """Return 8 random characters of a-z and 0-9."""
    letters = string.ascii_lowercase + string.digits
    return "".join(random.SystemRandom().choices(letters, k=8))
