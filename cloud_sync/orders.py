"""What a person may ask of a running sync worker: hold lanes back, let them go on, send buried rows once more."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from cloud_sync.damage import DamageMet
from cloud_sync.lanes import WEIGHTS
from cloud_sync.progress import DAMAGED, Buried, Progress
from millrace import jsontext, topics
from millrace.blobs import BlobStore, StorageFailed
from millrace.clock import Clock
from millrace.control import SYNC_WORKER, BadOrder
from millrace.database import Damaged
from millrace.entries import Lane
from millrace.outbox_reader import Reader

log = logging.getLogger(__name__)

PICTURE_GONE = "its picture is gone: it was dropped here after the burial"
AT_ONCE = 1000
KEPT_NAMED = 100
LANES = {lane.name.lower(): lane for lane in WEIGHTS}


class NotRead(Exception):
    """The gateway's file is damaged, so the order could not be carried out; it says what is waited for. Ask again."""


class Orders:
    """Carries orders out, each on stable storage before it is answered. One thread uses it."""

    program = SYNC_WORKER
    refusals: tuple[type[Exception], ...] = (NotRead, StorageFailed)

    def __init__(self, progress: Progress, state_dir: Path, clock: Clock) -> None:
        self._progress, self._clock = progress, clock
        self._reader = Reader(state_dir / "gateway.db")
        self._damage = DamageMet(state_dir / "gateway.db")
        self._blobs = BlobStore(state_dir / "frames")
        self._known: dict[str, Callable[[Mapping[str, object]], dict[str, object]]] = {
            "hello": self._state,
            "pause": self._pause,
            "resume": self._resume,
            "requeue": self._requeue,
        }

    def close(self) -> None:
        """Close what is read."""
        self._reader.close()

    def obey(self, order: Mapping[str, object]) -> dict[str, object]:
        """Do what `order["do"]` says; return the answer. Errors: BadOrder, StorageFailed, NotRead."""
        do = self._known.get(str(order.get("do")))
        if do is None:
            raise BadOrder(f"no such order: {str(order.get('do'))[:40]!r}; there are {', '.join(self._known)}")
        try:
            answer = do(order)
        except Damaged as error:
            waited_for = self._damage.ask_for_healing(error)
            self._reader.close()
            raise NotRead(f"{error}; nothing was done: {waited_for}; ask again") from None
        self._damage.none()
        return answer

    def _state(self, _order: Mapping[str, object]) -> dict[str, object]:
        return {"paused": sorted(lane.name.lower() for lane in self._progress.paused)}

    def _pause(self, order: Mapping[str, object]) -> dict[str, object]:
        lanes = _lanes(order)
        self._progress.pause(lanes, self._clock.now().wall_ns)
        log.warning("lanes_paused lanes=%s", ",".join(lane.name.lower() for lane in lanes))
        return self._state(order)

    def _resume(self, order: Mapping[str, object]) -> dict[str, object]:
        lanes = _lanes(order)
        self._progress.resume(lanes)
        log.info("lanes_resumed lanes=%s", ",".join(lane.name.lower() for lane in lanes))
        return self._state(order)

    def _requeue(self, order: Mapping[str, object]) -> dict[str, object]:
        """Mark buried rows; `key` is one's key or how it ends, none for all. Name some that stay buried, and why."""
        key = order.get("key")
        if not isinstance(key, str | None):
            raise BadOrder("key: is no text")
        kept: dict[str, str] = {}
        kept_rows = 0
        going = []
        for row in all_buried(self._progress.buried):
            if key is not None and not is_named(row, key):
                continue
            found = self._with_picture(row)
            if found.reason == DAMAGED or lacks_picture(found, self._blobs):
                kept_rows += 1
                if kept_rows <= KEPT_NAMED:
                    kept[name_of(found)] = DAMAGED if found.reason == DAMAGED else PICTURE_GONE
            else:
                going.append(replace(found, body=b""))
        if key is not None and not going and not kept:
            raise BadOrder(f"no buried row has the key {key[:100]!r}; `millrace queue list --buried` lists them")
        self._progress.send_again(going)
        log.info("buried_requeued rows=%d kept=%d", len(going), kept_rows)
        return {"requeued": len(going), "kept_rows": kept_rows, "kept": kept}

    def _with_picture(self, row: Buried) -> Buried:
        """Return the row with its picture's digest, which an older program did not write down."""
        if row.lane is not Lane.FRAME or row.blob is not None or row.epoch not in list(self._reader.epochs())[-1:]:
            return row
        found = self._reader.read(row.lane, row.position - 1, 1)
        same = found and (found[0].position, found[0].epoch, found[0].seq) == (row.position, row.seq_epoch, row.seq)
        return replace(row, blob=found[0].blob) if same else row


def all_buried(read: Callable[[str, int, int], list[Buried]]) -> Iterator[Buried]:
    """Yield every buried row, read a bounded part at a time."""
    epoch, position = "", 0
    while rows := read(epoch, position, AT_ONCE):
        yield from rows
        epoch, position = rows[-1].epoch, rows[-1].position


def lacks_picture(row: Buried, blobs: BlobStore) -> bool:
    """Whether it speaks of a picture that is no longer here. Errors: StorageFailed."""
    return row.lane is Lane.FRAME and (row.blob is None or blobs.is_gone(row.blob))


def name_of(row: Buried) -> str:
    """Return a buried row's key as people write it: `device/cam-1/top/k3v9x0pa-12`, as far as its body can be read."""
    identity = f"{row.seq_epoch}-{row.seq}"
    try:
        value = jsontext.parse(row.body, len(row.body))
        source = str(value["source"]) if isinstance(value, dict) else ""
        origin = topics.origin_of(source)
    except (ValueError, KeyError):
        return identity
    return f"{source[source.index(origin) :]}/{identity}"


def is_named(row: Buried, key: str) -> bool:
    """Whether `key` is the row's key, or whole levels at the end of it."""
    return ("/" + name_of(row)).endswith("/" + key)


def _lanes(order: Mapping[str, object]) -> list[Lane]:
    names = order.get("lanes")
    if not isinstance(names, list):
        raise BadOrder("lanes: is no list")
    return [_lane(str(name)) for name in names] or list(WEIGHTS)


def _lane(name: str) -> Lane:
    if name not in LANES:
        raise BadOrder(f"no lane {name[:40]!r}; there are {', '.join(LANES)}")
    return LANES[name]


def lane_names(lanes: Iterable[Lane]) -> str:
    """Return lanes as people write them, in their order."""
    return ", ".join(lane.name.lower() for lane in sorted(lanes))
