"""What an outbox counts: its epochs, seqs and positions, what it holds, and its age.

In memory they run ahead inside a transaction; with its commit they are on disk, and if it fails they are set back.
"""

from __future__ import annotations

import random
import string

from millrace.database import Database, storage_errors
from millrace.entries import entry_of
from millrace.reservation import Reservation, Seen

AGE_MAX_S = 1e10
"""No file has been in use for 300 years."""
State = tuple[str, int, int, int, int]


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

    def __init__(self, database: Database, reservation: Reservation) -> None:
        """Read them. Errors: Damaged if they cannot be right."""
        self._database, self._connection, self._reservation = database, database.connection, reservation
        self._age_origin_s: float | None = None
        self._load()
        self._load_epoch()

    def _load(self) -> None:
        rows = self._connection.execute("SELECT next_position, held_rows, held_bytes, age_s FROM counter").fetchall()
        last_position = self._connection.execute("SELECT max(position) FROM entry").fetchone()[0] or 0
        try:
            ((self.next_position, self.held_rows, self.held_bytes, age_s),) = rows
            is_sane = self.next_position > last_position and min(self.held_rows, self.held_bytes) >= 0
            is_sane = is_sane and 0 <= age_s < AGE_MAX_S
        except (ValueError, TypeError):
            is_sane = False
        if not is_sane:
            self._database.spoilt(f"its counters make no sense: {rows}, last position {last_position}")
        self._age_s = float(age_s)

    def _load_epoch(self) -> None:
        row = self._connection.execute("SELECT epoch, next_seq FROM own_epoch ORDER BY number DESC LIMIT 1").fetchone()
        last = self._connection.execute("SELECT * FROM entry ORDER BY position DESC LIMIT 1").fetchone()
        self.is_new = row is None
        self.epoch, self.next_seq = ("", 1) if row is None else row
        is_sane = row is not None or last is None
        is_sane = is_sane and isinstance(self.next_seq, int) and self.next_seq >= 1
        if is_sane and last is not None:
            entry = entry_of(*last)
            is_sane = not entry.intact or entry.epoch != self.epoch or entry.seq < self.next_seq
        if not is_sane:
            self._database.spoilt(f"its last epoch makes no sense: {row}")

    # --- with a transaction

    def state(self) -> State:
        """Return what a transaction may change, to `restore` it if that fails."""
        return self.epoch, self.next_seq, self.next_position, self.held_rows, self.held_bytes

    def restore(self, state: State) -> None:
        """Set them back to what they were."""
        self.epoch, self.next_seq, self.next_position, self.held_rows, self.held_bytes = state

    @property
    def stand(self) -> Seen:
        """How far they have come: what a later start must find at least."""
        return self.epoch, self.next_seq, self.next_position

    def save(self) -> None:
        """Write them inside the present transaction, what was minted being reserved before. Errors: OSError."""
        self._reservation.cover(self.epoch, self.next_seq - 1)
        self._connection.execute("UPDATE own_epoch SET next_seq = ? WHERE epoch = ?", (self.next_seq, self.epoch))
        self._connection.execute(
            "UPDATE counter SET next_position = ?, held_rows = ?, held_bytes = ?, age_s = ?",
            (self.next_position, self.held_rows, self.held_bytes, self._age_s),
        )

    # --- epochs and seqs

    def mint(self) -> int:
        """Give out the next seq of the present epoch."""
        seq = self.next_seq
        self.next_seq += 1
        return seq

    def minted(self) -> dict[str, int]:
        """Return, for each of our own epochs, the highest seq given out (0 for none yet). Errors: StorageFailed."""
        with storage_errors(self._database.path):
            return dict(self._connection.execute("SELECT epoch, next_seq - 1 FROM own_epoch ORDER BY number"))

    def begin_epoch(self, reason: str) -> str:
        """Begin a new epoch inside the present transaction; return its name."""
        self.save()
        self.epoch, self.next_seq = random_epoch(), 1
        self._connection.execute(
            "INSERT INTO own_epoch SELECT ?, coalesce(max(number), 0) + 1, 1, ? FROM own_epoch", (self.epoch, reason)
        )
        return self.epoch

    def share(self, other: Counters, reason: str) -> None:
        """Go on, inside the present transaction of a new file, in another's epoch from where that one stands."""
        self.epoch, self.next_seq, self.next_position = other.epoch, other.next_seq, other.next_position
        self._connection.execute("INSERT INTO own_epoch VALUES (?, 1, ?, ?)", (self.epoch, self.next_seq, reason))

    def witness(self, epoch: str, next_seq: int, next_position: int) -> None:
        """Note, inside the present transaction, that another file of this numbering stands so far; never goes back."""
        if epoch == self.epoch:
            self.next_seq = max(self.next_seq, next_seq)
        else:
            self._connection.execute(
                "UPDATE own_epoch SET next_seq = max(next_seq, ?) WHERE epoch = ?", (next_seq, epoch)
            )
        self.next_position = max(self.next_position, next_position)

    # --- age

    def age_s(self, uptime_s: float) -> float:
        """Return for how many seconds this file has been in use, over all runs; no clock can make it jump."""
        if self._age_origin_s is None:
            self._age_origin_s = uptime_s - self._age_s
        self._age_s = uptime_s - self._age_origin_s
        return self._age_s


def random_epoch() -> str:
    """Return 8 random characters of a-z and 0-9."""
    letters = string.ascii_lowercase + string.digits
    return "".join(random.SystemRandom().choices(letters, k=8))
