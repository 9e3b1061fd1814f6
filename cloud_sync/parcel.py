"""A batch made ready to travel: its pictures are in the cloud, and each row speaks of its picture by digest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cloud_sync.batches import Batches
from cloud_sync.progress import DAMAGED
from cloud_sync.submit import LinkDown, Rejected
from cloud_sync.uploads import Outcome
from millrace import jsontext
from millrace.entries import Entry, Lane


@dataclass(slots=True)
class Parcel:
    """`rows` in order, each of them either in `sent` with its body, or lost here, or with its picture refused."""

    rows: Sequence[Entry]
    sent: list[Entry] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    lost: list[tuple[Entry, str]] = field(default_factory=list)
    refused: list[tuple[Entry, str]] = field(default_factory=list)


def pictures(rows: Sequence[Entry]) -> Iterator[str]:
    """Yield the digests of the pictures that go up before these rows do, in their order."""
    for row in rows:
        if row.intact and row.lane is Lane.FRAME and row.blob is not None:
            yield row.blob


def pack(rows: Sequence[Entry], batches: Batches, outcomes: Mapping[str, Outcome]) -> Parcel:
    """Return the parcel of the rows up to the first of whose picture nothing is known yet. Errors: LinkDown."""
    parcel = Parcel(rows)
    for count, row in enumerate(rows):
        if not row.intact:
            parcel.lost.append((row, DAMAGED))
            continue
        if row.lane is not Lane.FRAME or row.blob is None:
            parcel.sent.append(row)
            parcel.bodies.append(row.body)
            continue
        if row.blob not in outcomes:
            parcel.rows = rows[:count]
            break
        outcome = outcomes[row.blob]
        if outcome is None:
            parcel.lost.append((row, _why_lost(row, batches)))
        elif isinstance(outcome, Rejected):
            parcel.refused.append((row, str(outcome)))
        else:
            parcel.sent.append(row)
            parcel.bodies.append(_with_picture(row, outcome))
    return parcel


def _why_lost(row: Entry, batches: Batches) -> str:
    """Say that a row's picture is gone from this disk for good. Errors: LinkDown if the row went with it."""
    if [entry.position for entry in batches.reader.read(row.lane, row.position - 1, 1)] != [row.position]:
        raise LinkDown(f"row {row.position} was dropped with its picture while it was being sent")
    return f"its picture {row.blob} is lost: the file is gone or cannot be read"


def _with_picture(row: Entry, size_bytes: int) -> bytes:
    event: dict[str, Any] = jsontext.parse(row.body)  # type: ignore[assignment]
    content_type = event.get("datacontenttype", "image/jpeg")
    event["data"] = {"sha256": row.blob, "bytes": size_bytes, "content_type": content_type}
    return jsontext.dump(event)
