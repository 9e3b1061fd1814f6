"""A batch made ready to travel: pictures are uploaded first, then each row speaks of its picture by digest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cloud_sync.batches import Batches
from cloud_sync.progress import DAMAGED
from cloud_sync.submit import LinkDown, Rejected
from millrace import jsontext
from millrace.entries import Entry, Lane

Upload = Callable[[str, bytes], None]


class _PictureLost(Exception):
    """The row's picture is gone from this disk for good."""


@dataclass(slots=True)
class Parcel:
    """`rows` in order, each of them either in `sent` with its body, or lost here, or with its picture refused."""

    rows: Sequence[Entry]
    sent: list[Entry] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    lost: list[tuple[Entry, str]] = field(default_factory=list)
    refused: list[tuple[Entry, str]] = field(default_factory=list)


def pack(rows: Sequence[Entry], batches: Batches, upload: Upload, is_late: Callable[[], bool]) -> Parcel:
    """Upload the rows' pictures and return the parcel, of fewer rows if `is_late` says so after some of them.

    Errors: LinkDown.
    """
    parcel = Parcel(rows)
    for count, row in enumerate(rows):
        if count and is_late():
            parcel.rows = rows[:count]
            break
        if not row.intact:
            parcel.lost.append((row, DAMAGED))
            continue
        try:
            body = _body(row, batches, upload)
        except _PictureLost as error:
            parcel.lost.append((row, str(error)))
        except Rejected as error:
            parcel.refused.append((row, str(error)))
        else:
            parcel.sent.append(row)
            parcel.bodies.append(body)
    return parcel


def _body(row: Entry, batches: Batches, upload: Upload) -> bytes:
    if row.lane is not Lane.FRAME or row.blob is None:
        return row.body
    picture = batches.blobs.get(row.blob)
    if picture is None:
        if [entry.position for entry in batches.reader.read(row.lane, row.position - 1, 1)] == [row.position]:
            raise _PictureLost(f"its picture {row.blob} is lost: the file is gone or cannot be read")
        raise LinkDown(f"row {row.position} was dropped with its picture while it was being sent")
    upload(row.blob, picture)
    event: dict[str, Any] = jsontext.parse(row.body)  # type: ignore[assignment]
    content_type = event.get("datacontenttype", "image/jpeg")
    event["data"] = {"sha256": row.blob, "bytes": len(picture), "content_type": content_type}
    return jsontext.dump(event)
