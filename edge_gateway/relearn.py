"""After damage: what the rows that are left account for is not taken twice; the rest is declared, and not forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edge_gateway.own_events import OwnEvents
from edge_gateway.store import Store
from millrace import clock, events, jsontext, topics
from millrace.blobs import StorageFailed
from millrace.doubts import Doubt
from millrace.entries import Entry
from millrace.ranges import RangeSet

ROWS_AT_ONCE = 256
Accounted = dict[tuple[str, str], RangeSet]
"""For each device and epoch, the seqs that some row stands or speaks for."""


def declare_doubt(store: Store, own: OwnEvents, gateway: str, now: clock.Instant) -> None:
    """After damage or loss, write ledger records for all that was accepted or minted and is not proven.

    Errors: StorageFailed; the next start does it then.
    """
    outbox = store.outbox
    doubt = outbox.doubt()
    if doubt is None:
        return
    reason = doubt.why[:400]
    try:
        with outbox.transaction():
            accounted = relearn(store)
            lost = [("device", *found) for found in unproven(store, doubt, accounted)]
            lost += [("gateway", gateway, *found) for found in outbox.unproven(doubt)]
            for kind, name, epoch, first, last in lost:
                own.record(kind, name, epoch, first, last, "unproven", reason, now)
            outbox.resolve()
    except StorageFailed:
        store.reload_streams()
        raise


def relearn(store: Store) -> Accounted:
    """Account in the streams for every event that a row stands or speaks for, inside the present transaction.

    A stream that was lost is begun anew with what is left of it: the rest is sent again, or lies below a device's base.
    """
    for table in ("answer", "taken", "declared"):
        store.outbox.connection.execute(f"DELETE FROM {table} WHERE stream NOT IN (SELECT no FROM stream)")  # noqa: S608
    accounted: Accounted = {}
    after = 0
    while entries := store.outbox.read(after, ROWS_AT_ONCE):
        after = entries[-1].position
        for entry in entries:
            for device, epoch, first, last in _spoken_of(entry):
                accounted.setdefault((device, epoch), RangeSet()).add(first, last)
    for (device, epoch), seqs in accounted.items():
        stream = store.open_stream(device, epoch)
        missing = [gap for first, last in seqs for gap in stream.ahead.gaps(max(first, stream.watermark + 1), last)]
        if missing:
            stream.ahead.update(missing[1:])
            stream.account(*missing[0])
            store.save_stream(stream)
    return accounted


def unproven(store: Store, doubt: Doubt, accounted: Accounted) -> Iterator[tuple[str, str, int, int]]:
    """Yield what was accepted and no row accounts for any more: (device, epoch, first, last).

    What is held in the cloud beats it: the rows may be gone because they were settled.
    """
    for stream in store.streams() if doubt.is_salvaged else ():
        held = accounted.get((stream.device, stream.epoch), RangeSet())
        for first, last in ((1, stream.watermark), *stream.ahead):
            if last >= first:
                yield from ((stream.device, stream.epoch, *gap) for gap in held.gaps(first, last))


def _spoken_of(entry: Entry) -> Iterator[tuple[str, str, int, int]]:
    if not entry.intact:
        return
    try:
        value: Any = jsontext.parse(entry.body, len(entry.body))
        kind, _, name = topics.origin_of(value["source"]).partition("/")
        if kind == "device":
            yield name, entry.epoch, entry.seq, entry.seq
        if value["type"] == events.RESULT and not events.is_of_window(value["data"]):
            device, _, event_id = value["subject"].split("/")
            epoch, seq = events.parse_id(event_id)
            yield device, epoch, seq, seq
        elif value["type"] == events.LEDGER and (record := events.LedgerData.model_validate(value["data"])).device:
            yield record.device, record.epoch, record.first, record.last
    except (ValueError, KeyError, TypeError, AttributeError):
        return
