"""What devices' spools, the gateway's database and the cloud say of each origin, read in the order of the rows' travel.

So a row that moves meanwhile is seen twice and never missed. Everything is read-only, a bounded part at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloud_sync.gaps import Book, CloudWord
from cloud_sync.orders import all_buried
from cloud_sync.waiting import Waiting
from millrace import events, jsontext, topics
from millrace.database import Viewer
from millrace.entries import Entry, Lane
from millrace.outbox_reader import Reader
from millrace.ranges import RangeSet
from millrace.row_sums import is_believed

AT_ONCE_ROWS = 1000
SCAN_POSITIONS = 20_000
Books = dict[tuple[str, str], Book]
_Span = tuple[str, str, int, int]
_LEDGERS = (
    "SELECT body FROM entry WHERE lane = ? AND position > ? AND position <= ? AND instr(body, CAST(? AS BLOB)) > 0"
)


class NoSpool(Exception):
    """No agent's spool can be read there."""


@dataclass(slots=True)
class Spool:
    """A device's own ledger: how far each epoch was minted, and what is still held; `origin` is None if nothing is."""

    folder: str
    minted: dict[str, int]
    origin: str | None = None
    held: dict[str, RangeSet] = field(default_factory=dict)


def read_spool(path: Path) -> Spool:
    """Return what a device has minted and still holds. Errors: NoSpool."""
    file = path / "spool.db" if path.is_dir() else path
    reader = Reader(file)
    try:
        found = Spool(file.resolve().parent.name, reader.epochs())
        if not found.minted:
            raise NoSpool(f"{file} is not there, or is no agent's spool")
        for lane in Lane:
            for row in _rows(reader, lane):
                for origin, epoch, first, last in spoken_for(row):
                    found.origin = found.origin or origin
                    found.held.setdefault(epoch, RangeSet()).add(first, last)
    finally:
        reader.close()
    return found


def note_spool(spool: Spool, books: Books) -> None:
    """Enter a device's own ledger. Whose an empty one is, the gateway knows by the epoch; else its folder's name."""
    known = (origin for origin, epoch in books if epoch in spool.minted and origin.startswith("device/"))
    origin = spool.origin or next(known, f"device/{spool.folder}")
    for epoch, minted in spool.minted.items():
        book = books.setdefault((origin, epoch), Book())
        book.minted, book.minted_by_spool = max(book.minted, minted), minted
        book.spool = spool.held.get(epoch, RangeSet())


def read_gateway(state_dir: Path, gateway: str, books: Books) -> None:
    """Note what the gateway has minted, taken and not brought to the cloud yet."""
    waiting = Waiting(state_dir)
    database = Viewer(state_dir / "gateway.db", "SELECT one FROM counter")
    origin = topics.origin_of(topics.gateway_source("x", gateway))
    try:
        for name, epochs in {**waiting.reader.minted(), origin: waiting.reader.epochs()}.items():
            for epoch, seq in epochs.items():
                book = books.setdefault((name, epoch), Book())
                book.minted = max(book.minted, seq)
                if name == origin and seq:
                    book.accepted.add(1, seq)
        for row in database.all("SELECT * FROM stream"):
            if not is_believed(row, 5):  # the gateway's next start begins it anew
                continue
            _, device, epoch, watermark, ahead, *_ = row
            book = books.setdefault((f"device/{device}", epoch), Book())
            book.minted, taken = max(book.minted, watermark), book.accepted
            taken.update([(1, watermark)] if watermark else [])
            taken.update((first, last) for first, last in json.loads(ahead))
        for lane in Lane:
            if lane is not Lane.LOCAL:
                for entry in waiting.entries(lane):
                    for about, epoch, first, last in spoken_for(entry):
                        books.setdefault((about, epoch), Book()).waiting.add(first, last)
        _note_reasons(database, waiting, books)
    finally:
        waiting.close()
        database.close()


def read_cloud(answer: dict[str, Any], books: Books) -> None:
    """Note the answer of `GET /v1/audit`."""
    for book in books.values():
        book.cloud = CloudWord(0, {}, [], [])
    for said in answer["origins"]:
        book = books.setdefault((said["origin"], said["epoch"]), Book())
        missing, unproven = ([(int(a), int(b)) for a, b in said[what]] for what in ("missing", "unproven"))
        book.cloud = CloudWord(said["held"], said["declared"], missing, unproven)
        book.minted = max(book.minted, said["minted"] or 0, book.cloud.explained().last() or 0)


def spoken_for(row: Entry) -> Iterator[_Span]:
    """Yield what a row accounts for: itself, the frame that a result answers, the range of a ledger record."""
    if not row.intact:
        return
    try:
        event = events.decode_json(row.body, len(row.body))
        yield topics.origin_of(event.key.source), event.key.epoch, event.key.seq, event.key.seq
        if event.type == events.RESULT and not events.is_of_window(event.data or {}):
            device, _, event_id = (event.subject or "").split("/")
            epoch, seq = events.parse_id(event_id)
            yield f"device/{device}", epoch, seq, seq
        elif event.type == events.LEDGER:
            record = events.LedgerData.model_validate(event.data)
            yield _about(record), record.epoch, record.first, record.last
    except (events.MalformedEvent, ValueError):
        return


def _about(record: events.LedgerData) -> str:
    return f"device/{record.device}" if record.device is not None else f"gateway/{record.gateway}"


def _rows(reader: Reader, lane: Lane) -> Iterator[Entry]:
    after = 0
    while rows := reader.read(lane, after, AT_ONCE_ROWS):
        yield from rows
        after = rows[-1].position


def _note_reasons(database: Viewer, waiting: Waiting, books: Books) -> None:
    """Count what is declared and why: the ledger records that are still here, and the burials."""
    last = database.all("SELECT coalesce(max(position), 0) FROM entry")
    for after in range(0, int(last[0][0]) if last else 0, SCAN_POSITIONS):
        mark = events.LEDGER
        for (body,) in database.all(_LEDGERS, (int(Lane.RESULT), after, after + SCAN_POSITIONS, mark)):
            try:
                value = jsontext.parse(body, len(body))
                record = events.LedgerData.model_validate(value["data"] if isinstance(value, dict) else None)
            except (ValueError, KeyError):
                continue
            _count(
                books, _about(record), record.epoch, record.disposition, record.reason, record.last - record.first + 1
            )
    for row in all_buried(waiting.buried):
        for origin, epoch, first, end in spoken_for(row.entry()):
            if (epoch, first) == (row.seq_epoch, row.seq):
                _count(books, origin, epoch, "buried", row.reason, end - first + 1)


def _count(books: Books, origin: str, epoch: str, disposition: str, reason: str, seqs: int) -> None:
    reasons = books.setdefault((origin, epoch), Book()).reasons
    reasons[f"{disposition}: {reason}"] = reasons.get(f"{disposition}: {reason}", 0) + seqs
