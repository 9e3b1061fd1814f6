"""What waits for the cloud as a file: NDJSON or CSV, row by row, whatever the size of the backlog."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from cloud_sync.lanes import WEIGHTS
from cloud_sync.waiting import Waiting
from millrace import jsontext
from millrace.blobs import BlobStore
from millrace.entries import Entry

COLUMNS = ("lane", "source", "id", "type", "time", "subject", "data", "picture")
_SUFFIX = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp"}


class Album:
    """A folder that pictures are copied into; `gone` counts those that are no longer here."""

    def __init__(self, frames: Path, folder: Path) -> None:
        """Make the folder. Errors: OSError."""
        self._blobs, self._folder = BlobStore(frames), folder
        self.gone = 0
        folder.mkdir(parents=True, exist_ok=True)

    def keep(self, row: Entry, content_type: str) -> str | None:
        """Copy a row's picture; return its file's name, None if it has none or it is gone. Errors: OSError."""
        if row.blob is None:
            return None
        picture = self._blobs.get(row.blob)
        if picture is None:
            self.gone += 1
            return None
        name = row.blob + _SUFFIX.get(content_type, "")
        (self._folder / name).write_bytes(picture)
        return name


Form = Callable[[IO[str], Waiting, Album | None], int]


def form_of(file: Path) -> Form | None:
    """Return how a file of this name is written, None for a name that tells nothing."""
    return write_ndjson if str(file) == "-" else _FORMS.get(file.suffix.lower())


def write_ndjson(out: IO[str], waiting: Waiting, album: Album | None) -> int:
    """Write each event on a line of its own; return how many. `lane` and `picture` (a file's name) are added."""
    count = 0
    for event in _events(waiting, album):
        out.write(json.dumps(event, ensure_ascii=False) + "\n")
        count += 1
    return count


def write_csv(out: IO[str], waiting: Waiting, album: Album | None) -> int:
    """Write a table with COLUMNS, `data` as JSON; return how many rows."""
    table = csv.DictWriter(out, COLUMNS, extrasaction="ignore")
    table.writeheader()
    count = 0
    for event in _events(waiting, album):
        table.writerow(event | {"data": json.dumps(event.get("data"), ensure_ascii=False)})
        count += 1
    return count


def _events(waiting: Waiting, album: Album | None) -> Iterator[dict[str, Any]]:
    """Yield what waits; a damaged row is no event any more and is left out, as it will be on the way up."""
    for lane in WEIGHTS:
        for row in waiting.entries(lane):
            event = jsontext.parse(row.body, len(row.body)) if row.intact else None
            if not isinstance(event, dict):
                continue
            picture = album.keep(row, str(event.get("datacontenttype"))) if album is not None else None
            yield event | {"lane": lane.name.lower(), "picture": picture}


_FORMS: dict[str, Form] = {".ndjson": write_ndjson, ".jsonl": write_ndjson, ".csv": write_csv}
