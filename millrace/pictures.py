"""The pictures that an outbox's rows speak of: each is there as long as a row is, and goes after the last one's commit.

Each is counted in table `blob` inside the transaction that adds or deletes a row; files follow when it has ended.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from millrace.blobs import BlobStore
from millrace.database import Connection

ORPHANS_AT_START_S = 0.2
ORPHANS_BETWEEN_S = 0.002
"""For so long pictures that have no row are looked for at the start, and before each transaction until all are seen."""


class Pictures:
    """The pictures of one outbox, used by its thread."""

    def __init__(self, connection: Connection, blobs: BlobStore) -> None:
        self._connection, self._blobs = connection, blobs
        self._discard: set[str] = set()
        self._new: set[str] = set()
        self._unlooked: Iterator[str] = iter(())

    # --- inside a transaction

    def put(self, pictures: Mapping[str, bytes]) -> None:
        """Store pictures by digest for rows of the present transaction; if it fails, the new ones go again."""
        self._new |= self._blobs.put(pictures)

    def refer(self, sha256: str, size_bytes: int) -> int:
        """Count one row more that speaks of a picture; return how many bytes are held that were not."""
        changed = self._connection.execute("UPDATE blob SET rows = rows + 1 WHERE sha256 = ?", (sha256,))
        if changed.rowcount:
            return 0
        self._connection.execute("INSERT INTO blob VALUES (?, 1, ?)", (sha256, size_bytes))
        self._discard.discard(sha256)
        return size_bytes

    def release(self, sha256: str) -> int:
        """Count one row less that speaks of a picture; return how many bytes are not held any more."""
        left = self._connection.execute(
            "UPDATE blob SET rows = rows - 1 WHERE sha256 = ? RETURNING rows, bytes", (sha256,)
        ).fetchall()
        if not left or left[0][0] > 0:
            return 0
        self._connection.execute("DELETE FROM blob WHERE sha256 = ?", (sha256,))
        self._discard.add(sha256)
        freed_bytes: int = left[0][1]
        return freed_bytes

    # --- after it

    def keep_new(self) -> None:
        """Leave the new ones of a commit that was not synced: their rows may come back.

        If they do not, the next start takes them for orphans; until then none is looked for.
        """
        self._new, self._unlooked = set(), iter(())

    def end(self, *, committed: bool) -> None:
        """Unlink what a commit has left without a row, or the new ones of a transaction that failed."""
        unwanted = self._discard if committed else self._new
        self._discard, self._new = set(), set()
        self._blobs.discard(unwanted)

    # --- outside of one

    def look_for_orphans(self) -> None:
        """Begin to unlink pictures that a crash left without a row; `collect_orphans` goes on with it."""
        self._unlooked = self._blobs.digests()
        self._collect(ORPHANS_AT_START_S)

    def collect_orphans(self) -> None:
        """Go on with it for a moment, until all have been looked at."""
        self._collect(ORPHANS_BETWEEN_S)

    def _collect(self, budget_s: float) -> None:
        end_s = time.monotonic() + budget_s
        for digest in self._unlooked:
            if self._connection.execute("SELECT 1 FROM blob WHERE sha256 = ?", (digest,)).fetchone() is None:
                self._blobs.discard([digest])
            if time.monotonic() > end_s:
                return

    def size_bytes(self, sha256: str) -> int:
        """Return what a picture takes, as it was counted; 0 if none is known."""
        row = self._connection.execute("SELECT bytes FROM blob WHERE sha256 = ?", (sha256,)).fetchone()
        return int(row[0]) if row else 0
