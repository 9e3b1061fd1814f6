"""A spool's tail in memory: how `spool.db` tells of it, and an exact view of both files for other programs.

The agent keeps what may be lost in a power cut, and in nothing less, in a second outbox on a RAM-backed folder. Both
files share one numbering, so how far a device has minted is the higher of the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from millrace import jsontext
from millrace.database import Damaged
from millrace.entries import Entry, Lane
from millrace.outbox_reader import Reader

TAIL_FILE = "tail.db"
KEY = "tail"
_MAX_BYTES = 8192


@dataclass(frozen=True, slots=True)
class TailNote:
    """What `spool.db` notes of a tail in use, from before its first row until all its rows are on disk.

    Its epoch began at position `offset` + 1, and all seqs of it up to `settled` were done with when this was written.
    `token` is in the tail's own file too, so that no other file is taken for it.
    """

    folder: str
    token: str
    boot_id: str
    epoch: str
    offset: int
    settled: int

    def dump(self) -> str:
        """Return it as `spool.db` keeps it."""
        return jsontext.dump(asdict(self)).decode()

    @property
    def path(self) -> Path:
        """The tail's file."""
        return Path(self.folder) / TAIL_FILE


def parse(text: str | None) -> TailNote | None:
    """Return the note, or None where there is none; Damaged if it does not read as `dump` wrote it."""
    if text is None:
        return None
    try:
        value = jsontext.parse(text, _MAX_BYTES)
        if not isinstance(value, dict):
            raise TypeError("not an object")
        note = TailNote(**value)
    except (jsontext.BadJson, TypeError) as error:
        raise Damaged(f"the note of a spool's tail in memory cannot be read: {error}") from error
    if not (isinstance(note.offset, int) and isinstance(note.settled, int)):
        raise Damaged("the note of a spool's tail in memory holds no numbers")
    return note


class SpoolReader:
    """Another program's view of an agent's queue, on disk and in memory; read-only, nothing is held open."""

    def __init__(self, path: Path) -> None:
        """`path` is that of `spool.db`; it need not be there yet."""
        self._disk = Reader(path)

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        self._disk.close()

    def epochs(self) -> dict[str, int]:
        """Return the device's epochs, oldest first, with the highest seq that it promised in each."""
        with self._tail() as tail:  # before the disk: what moves, moves there
            later = tail.epochs() if tail else {}
        found = self._disk.epochs()
        return {epoch: max(seq, later.get(epoch, 0)) for epoch, seq in found.items()}

    def read(self, lane: Lane, after: int, max_rows: int) -> list[Entry]:
        """Return up to `max_rows` entries of `lane` above position `after`, in order."""
        with self._tail() as tail:
            rows = {entry.position: entry for entry in tail.read(lane, after, max_rows)} if tail else {}
        rows |= {entry.position: entry for entry in self._disk.read(lane, after, max_rows)}
        return [rows[position] for position in sorted(rows)][:max_rows]

    @contextmanager
    def _tail(self) -> Iterator[Reader | None]:
        try:
            note = parse(self._disk.note(KEY))
        except Damaged:  # its owner, too, takes it for lost
            note = None
        if note is None:
            yield None
            return
        tail = Reader(note.path)
        try:
            try:
                is_its = tail.note(KEY) == note.token
            except Damaged:
                is_its = False
            yield tail if is_its else None
        finally:
            tail.close()
