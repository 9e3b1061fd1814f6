"""What the cloud holds, in SQLite: each event once by (site, origin, epoch, seq), and the ranges held and declared.

One process and one connection write and read it, behind a lock; what `ingest` returned from is on stable storage.
Ranges are merged as they come, so that an audit reads a few rows where there are a million events.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from heapq import merge
from pathlib import Path
from typing import Any, get_args

from cloud_sync.reference_cloud import clocks
from cloud_sync.reference_cloud.audit import Range, Stream, frontier
from cloud_sync.reference_cloud.batch import Declared, Rejection, Row
from millrace.clock import Instant
from millrace.database import Database, Ruin
from millrace.events import RESULT, Disposition
from millrace.healing import heal
from millrace.mending import Mended, Sighting
from millrace.ranges import RangeSet
from millrace.rebuild import SEARCH_S, Table, carry
from millrace.salvage import Search

APPLICATION_ID = 0x4D494C43  # "MILC"
HELD = "held"
FOREVER = 2**62  # above every seq
KINDS: tuple[str, ...] = (HELD, *get_args(Disposition))

# A stream's id counts up, so it is also the order in which epochs were first heard of.
_STEPS = (
    f"""
CREATE TABLE stream (
    id INTEGER PRIMARY KEY, site TEXT NOT NULL, origin TEXT NOT NULL, epoch TEXT NOT NULL,
    minted INTEGER, highest INTEGER NOT NULL DEFAULT 0, UNIQUE (site, origin, epoch)
);
CREATE TABLE event (
    position INTEGER PRIMARY KEY, site TEXT NOT NULL, stream INTEGER NOT NULL REFERENCES stream, seq INTEGER NOT NULL,
    type TEXT NOT NULL, digest BLOB NOT NULL, base TEXT, body TEXT NOT NULL, arrived_ns INTEGER NOT NULL,
    UNIQUE (stream, seq)
);
CREATE INDEX result ON event (site, position) WHERE type = '{RESULT}';
CREATE TABLE span (
    stream INTEGER NOT NULL REFERENCES stream, kind TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    PRIMARY KEY (stream, kind, first)
) WITHOUT ROWID;
CREATE TABLE refused (site TEXT PRIMARY KEY, duplicates INTEGER NOT NULL, conflicts INTEGER NOT NULL) WITHOUT ROWID;
""",
    clocks.SCHEMA,
)
_SELECT_RESULTS = (
    "SELECT position, seq, base, body, arrived_ns FROM event"  # noqa: S608  (the type is written out, as in the index)
    f" WHERE site = ? AND type = '{RESULT}' AND position > ? ORDER BY position LIMIT ?"
)
_SELECT_ORIGINS = (
    "SELECT origin, count(DISTINCT id), coalesce(sum(last - first + 1), 0) FROM stream"
    " LEFT JOIN span ON span.stream = stream.id AND kind = ? WHERE site = ? GROUP BY origin ORDER BY min(id)"
)
_INSERT = (
    "INSERT INTO event (site, stream, seq, type, digest, base, body, arrived_ns) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (stream, seq) DO NOTHING"
)


_HELD_BY_EVENTS = (
    "INSERT INTO span SELECT stream, ?, min(seq), max(seq) FROM (SELECT stream, seq,"
    " seq - row_number() OVER (PARTITION BY stream ORDER BY seq) AS run FROM event) GROUP BY stream, run"
)
log = logging.getLogger(__name__)


class UnknownEpoch(ValueError):
    """A reader asked to go on in an epoch that this origin does not have."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of a batch."""

    accepted: int
    duplicates: int
    conflicts: list[Rejection]


@dataclass(frozen=True, slots=True)
class Stored:
    """An event as it came, without its `base`, and when."""

    position: int
    seq: int
    base: str | None
    body: str
    arrived_ns: int


@dataclass(frozen=True, slots=True)
class Page:
    """Events in order. Go on after `seq` of `epoch`; `waiting_seq` there has not come and nobody accounted for it."""

    events: list[Stored]
    epoch: str | None
    seq: int
    waiting_seq: int | None


class Ledger:
    """The file and its lock; every method may be called from any thread, one at a time gets in."""

    def __init__(self, path: Path) -> None:
        """Open or create the file. Errors: Locked, NewerSchema, StorageFailed."""
        self._mutex = threading.Lock()
        if (why := heal(path, _salvage)) is not None:
            log.error("ledger_damaged error=%s: what could not be read is missing in the audit", why)
        self._database = Database(path, _STEPS, APPLICATION_ID)
        self._connection = self._database.connection

    def close(self) -> None:
        """Close the file and give the lock back."""
        with self._mutex:
            self._database.close()

    # --- writing

    def ingest(
        self,
        site: str,
        rows: Iterable[Row],
        minted: Mapping[str, Mapping[str, int]],
        arrived: Instant,
        buried: Iterable[Declared] = (),
        met: Iterable[Sighting] = (),
    ) -> Tally:
        """Store what is new, with what it declares, in one transaction; StorageFailed if none of it counts."""
        accepted = duplicates = 0
        conflicts: list[Rejection] = []
        spans: dict[tuple[int, str], RangeSet] = {}
        ids: dict[tuple[str, str], int] = {}
        with self._transaction():
            for origin, epochs in minted.items():  # before the rows: an alarm of a new epoch overtakes an older one's
                for epoch, seq in epochs.items():
                    self._note_minted(self._stream(ids, site, origin, epoch), seq)
            for row in rows:
                stream = self._stream(ids, site, row.origin, row.epoch)
                values = (site, stream, row.seq, row.type, row.digest, row.base, row.body, arrived.wall_ns)
                if self._connection.execute(_INSERT, values).rowcount:
                    accepted += 1
                    spans.setdefault((stream, HELD), RangeSet()).add(row.seq)
                    if (said := row.declared) is not None:
                        about = self._stream(ids, site, said.origin, said.epoch)
                        spans.setdefault((about, said.disposition), RangeSet()).add(said.first, said.last)
                elif self._digest(stream, row.seq) == row.digest:
                    duplicates += 1
                else:
                    conflicts.append(_conflict(row))
            for said in buried:
                about = self._stream(ids, site, said.origin, said.epoch)
                spans.setdefault((about, said.disposition), RangeSet()).add(said.first, said.last)
            for (stream, kind), ranges in spans.items():
                self._merge(stream, kind, ranges)
            clocks.note(self._connection, site, met)
            clocks.note_boot(self._connection, arrived)
            self._connection.execute(
                "INSERT INTO refused VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
                " SET duplicates = duplicates + excluded.duplicates, conflicts = conflicts + excluded.conflicts",
                (site, duplicates, len(conflicts)),
            )
        return Tally(accepted, duplicates, conflicts)

    def _stream(self, ids: dict[tuple[str, str], int], site: str, origin: str, epoch: str) -> int:
        known = ids.get((origin, epoch))
        if known is None:
            key = (site, origin, epoch)
            self._connection.execute(
                "INSERT INTO stream (site, origin, epoch) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", key
            )
            found = self._connection.execute("SELECT id FROM stream WHERE site = ? AND origin = ? AND epoch = ?", key)
            known = ids[origin, epoch] = int(found.fetchone()[0])
        return known

    def _digest(self, stream: int, seq: int) -> bytes:
        found = self._connection.execute("SELECT digest FROM event WHERE stream = ? AND seq = ?", (stream, seq))
        return bytes(found.fetchone()[0])

    def _merge(self, stream: int, kind: str, ranges: RangeSet) -> None:
        """Join each range with those in the table that it touches: the one before it and all that it reaches."""
        for low, high in ranges:
            first, last = low, high
            before = self._connection.execute(
                "SELECT first, last FROM span WHERE stream = ? AND kind = ? AND first <= ? ORDER BY first DESC LIMIT 1",
                (stream, kind, first),
            ).fetchone()
            if before is not None and before[1] >= first - 1:
                first, last = before[0], max(last, before[1])
            reached = (stream, kind, first, last + 1)
            where = "WHERE stream = ? AND kind = ? AND first BETWEEN ? AND ?"
            furthest = self._connection.execute(f"SELECT max(last) FROM span {where}", reached).fetchone()[0]  # noqa: S608
            self._connection.execute(f"DELETE FROM span {where}", reached)  # noqa: S608
            last = max(last, furthest or 0)
            self._connection.execute("INSERT INTO span VALUES (?, ?, ?, ?)", (stream, kind, first, last))
        self._connection.execute("UPDATE stream SET highest = max(highest, ?) WHERE id = ?", (ranges.last(), stream))

    def _note_minted(self, stream: int, seq: int) -> None:
        self._connection.execute("UPDATE stream SET minted = max(coalesce(minted, 0), ?) WHERE id = ?", (seq, stream))

    # --- reading

    def page(self, site: str, origin: str, epoch: str | None, after: int, *, max_events: int, max_bytes: int) -> Page:
        """Return the origin's events in order from `after` on, stepping over what is declared, up to the first gap.

        Without `epoch` it begins with the first. UnknownEpoch if the origin does not have that one.
        """
        with self._transaction():
            streams = self._connection.execute(
                "SELECT id, epoch, max(highest, coalesce(minted, 0)) FROM stream WHERE site = ? AND origin = ?"
                " ORDER BY id",
                (site, origin),
            ).fetchall()
            if epoch is not None:
                while streams and streams[0][1] != epoch:
                    del streams[0]
                if not streams:
                    raise UnknownEpoch(f"{origin} has no epoch {epoch!r}")
            events: list[Stored] = []
            for stream, name, top in streams:
                more, after, cut = self._stretch(stream, after, max_events, max_bytes)
                events += more
                max_events -= len(more)
                max_bytes -= sum(len(event.body) for event in more)
                waiting_seq = after + 1 if after < top and not cut else None
                if cut or waiting_seq or max_events <= 0 or max_bytes <= 0:
                    return Page(events, name, after, waiting_seq)
                epoch, reached, after = name, after, 0
            return Page(events, epoch, reached if streams else 0, None)

    def _stretch(self, stream: int, after: int, max_events: int, max_bytes: int) -> tuple[list[Stored], int, bool]:
        """Return events up to the gap, the last number before it, and False; or where a limit cut in, and True."""
        seqs = self._connection.execute(
            "SELECT seq FROM event WHERE stream = ? AND seq > ? ORDER BY seq LIMIT ?", (stream, after, max_events + 1)
        ).fetchall()
        end = seqs[max_events - 1][0] if len(seqs) > max_events else FOREVER
        reached = frontier(merge(*(self._spans(stream, kind, after, end) for kind in KINDS)), after)
        events: list[Stored] = []
        for found in self._connection.execute(
            "SELECT position, seq, base, body, arrived_ns FROM event WHERE stream = ? AND seq > ? AND seq <= ?"
            " ORDER BY seq",
            (stream, after, min(reached, end)),
        ):
            if events and max_bytes <= 0:
                return events, events[-1].seq, True
            events.append(Stored(*found))
            max_bytes -= len(found[3])
        return events, min(reached, end), reached >= end

    def _spans(self, stream: int, kind: str, after: int, end: int) -> list[Range]:
        """Return the ranges of one kind from the one around `after` to the one around `end`, ascending."""
        return self._connection.execute(
            "SELECT first, last FROM span WHERE stream = ?1 AND kind = ?2 AND first <= ?4 AND first >= coalesce("
            "(SELECT max(first) FROM span WHERE stream = ?1 AND kind = ?2 AND first <= ?3 + 1), 0) ORDER BY first",
            (stream, kind, after, end),
        ).fetchall()

    def results(self, site: str, after: int, max_events: int, max_bytes: int) -> list[Stored]:
        """Return results in the order in which they arrived, positions above `after`."""
        events: list[Stored] = []
        with self._transaction():
            for found in self._connection.execute(_SELECT_RESULTS, (site, after, max_events)):
                events.append(Stored(*found))
                max_bytes -= len(found[3])
                if max_bytes <= 0:
                    break
        return events

    def mended(self, site: str, moments: Iterable[tuple[str, str, int] | None], now: Instant) -> list[Mended | None]:
        """Return when each of (origin, boot id, uptime in ns) was by the cloud's clock as it stands now."""
        with self._transaction():
            mender = clocks.SiteMender(self._connection, site, now)
            return [None if moment is None else mender.mend(*moment) for moment in moments]

    def origins(self, site: str) -> list[tuple[str, int, int]]:
        """Return (origin, epochs, events held) in the order in which origins were first heard of."""
        with self._transaction():
            return self._connection.execute(_SELECT_ORIGINS, (HELD, site)).fetchall()

    def streams(self, site: str, origin: str | None = None) -> list[Stream]:
        """Return what is known of each origin's epochs, of one origin or of all, for the audit."""
        with self._transaction():
            rows = self._connection.execute(
                "SELECT id, origin, epoch, minted FROM stream WHERE site = ?1 AND origin = coalesce(?2, origin)"
                " ORDER BY id",
                (site, origin),
            ).fetchall()
            latest = {name: stream for stream, name, _, _ in rows}
            found = []
            for stream, name, epoch, minted in rows:
                spans = {kind: RangeSet(self._spans(stream, kind, 0, FOREVER)) for kind in KINDS}
                declared = {kind: spans[kind] for kind in get_args(Disposition)}
                found.append(Stream(name, epoch, minted, spans[HELD], declared, superseded=stream != latest[name]))
            return found

    def refused(self, site: str) -> tuple[int, int]:
        """Return how many duplicates and how many conflicts were refused since the beginning."""
        with self._transaction():
            row = self._connection.execute(
                "SELECT duplicates, conflicts FROM refused WHERE site = ?", (site,)
            ).fetchone()
        return row or (0, 0)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._mutex, self._database.transaction():
            yield


def _conflict(row: Row) -> Rejection:
    return Rejection(
        row.index, f"conflict: {row.origin} {row.epoch}-{row.seq} is held with other content; the first one stays"
    )


def _salvage(old: Path, new: Path, _why: str) -> None:
    """Fill a new file with what reads of a damaged one; an event is believed on its digest."""
    database, ruin, search = Database(new, _STEPS, APPLICATION_ID), Ruin(old), Search(SEARCH_S)
    try:
        for table in (
            Table("stream", lambda row: all(isinstance(name, str) for name in row[1:4]), number="id"),
            Table("event", _is_whole, number="position"),
            Table("span", lambda row: row[1] in KINDS and row[1] != HELD, key=("stream", "kind", "first")),
            Table("refused", lambda row: isinstance(row[0], str), key=("site",)),
        ):
            carry(ruin, database, table, search)
        with database.transaction():
            for orphans in ("event", "span"):
                database.connection.execute(f"DELETE FROM {orphans} WHERE stream NOT IN (SELECT id FROM stream)")  # noqa: S608
            database.connection.execute(_HELD_BY_EVENTS, (HELD,))
    finally:
        ruin.close()
        database.close()


def _is_whole(row: tuple[Any, ...]) -> bool:
    return isinstance(row[7], str) and hashlib.sha256(row[7].encode()).digest() == row[5]
