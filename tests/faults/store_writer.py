"""The gateway's store and the sync worker's account, to be recorded at work, and what must be true after a power cut.

After each commit it says the receipts and results that the gateway would publish, `settled EPOCH LANE FIRST LAST` when
the account has it, `leaving EPOCH SEQ` before rows may be purged, `damaged` before the account is spoilt on purpose.
Run with folder, seed, turns, and what is broken on purpose: nothing, `normal` or `folders`.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from faults.spool_writer import PNG, break_on_purpose

from cloud_sync.progress import Progress
from edge_gateway.admission import Arrived, Outcome, admit
from edge_gateway.commit import Committer
from edge_gateway.metrics import Metrics
from edge_gateway.prediction import Prediction
from edge_gateway.register import Register
from edge_gateway.settings import GatewaySettings
from edge_gateway.sheds import Sheds
from edge_gateway.store import Store
from edge_gateway.turns import Turns
from millrace import clock, events, topics
from millrace.entries import Entry, Lane

DEVICE, EPOCH = "cam-1", "k3v9x0pa"
MAX_BYTES = 1 << 30
_RECEIPT = re.compile(rb'\{"gateway":[^{}]*"ranges":[^{}]*\}')
_RESULT = re.compile(rb'\{"specversion":[^{}]*"type":"io\.millrace\.result\.v1"[^{}]*\{[^{}]*\}[^{}]*\}')


def committer(settings: GatewaySettings, store: Store, time: clock.Clock) -> Committer:
    """Return the store's owner as the gateway makes it."""
    sheds, metrics = Sheds(), Metrics()
    register = Register(store, settings.limits)
    turns = Turns(settings, register.admits, sheds, metrics, time)
    return Committer(settings, store, metrics, time, register=register, shares=turns.shares, sheds=sheds)


def work(folder: Path, chance: random.Random, turns: int) -> None:
    """Accept frames and readings, settle, purge, close and open again; once spoil the account."""
    loaded = GatewaySettings.model_validate({"gateway": "g1", "state_dir": folder})
    time = clock.SystemClock()
    store, account = Store(folder, "machine-1", MAX_BYTES), Progress(folder / "sync.db")
    seq = 0
    for turn in range(turns):
        batch = [_arrival(seq := seq + 1, chance) for _ in range(chance.randint(1, 5))]
        done = committer(loaded, store, time).commit(batch)
        _say(*(message.payload for message in (*done.receipts.values(), *done.results)))
        if chance.random() < 0.3:
            _settle(store, account, chance)
            _say(*(f"leaving {epoch} {seq}".encode() for row in _rows(store) for epoch, seq in _keys(row)))
            store.purge(uplink=True, retention_s=0, retention_bytes=1, uptime_s=time.uptime_s())
        if turn == turns // 2:
            _say(b"damaged")
            account.close()
            with (folder / "sync.db").open("r+b") as file:
                file.write(bytes(4096))
            account = Progress(folder / "sync.db")
        if turn % 12 == 11:
            store.close()
            store = Store(folder, "machine-1", MAX_BYTES)
    account.close()
    store.close()


def _settle(store: Store, account: Progress, chance: random.Random) -> None:
    for lane in (Lane.RESULT, Lane.FRAME, Lane.BULK):
        if entries := store.outbox.read(0, 1000, lane):
            last = chance.choice(entries).position
            account.settle(store.outbox.epoch, lane, 1, last)
            _say(b"settled %s %d 1 %d" % (store.outbox.epoch.encode(), lane, last))


def _arrival(seq: int, chance: random.Random) -> Arrived:
    is_frame = chance.random() < 0.5
    channel, type_ = ("top", events.FRAME) if is_frame else ("belt", events.READING)
    now = clock.SystemClock().now()
    key = events.Key(topics.device_source(topics.DEFAULT_PREFIX, DEVICE, channel), EPOCH, seq)
    event = events.new_event(type_, key, now, data=None if is_frame else {"force_kn": chance.random()}).with_base(1)
    picture = PNG + chance.randbytes(chance.randrange(1, 6000))
    payload = events.encode_frame(event, picture) if is_frame else events.encode_json(event)
    topic = f"{topics.DEFAULT_PREFIX}/device/{DEVICE}/{'frame' if is_frame else 'reading'}/{channel}"
    admitted: Any = admit(topics.DEFAULT_PREFIX, topic, payload, (), now, redelivered=False)
    if is_frame:
        admitted[0].outcome = Future()
        prediction = Prediction("parts@1", "scratch", 0.97, defect=chance.random() < 0.7)
        admitted[0].outcome.set_result(Outcome([(prediction, 0.8, 3.9)]))
    arrived: Arrived = admitted[0]
    return arrived


def complaints(folder: Path, said: Sequence[bytes]) -> tuple[int, list[str]]:
    """Open both as a cut has left them; return how many events were receipted, and what is wrong, one line each."""
    text = b"".join(said)
    receipts = [json.loads(found) for found in _RECEIPT.findall(text)]
    promised = {
        (receipt["epoch"], seq)
        for receipt in receipts
        for low, high in receipt["ranges"]
        for seq in range(low, high + 1)
    }
    words = [line.split() for line in text.decode(errors="replace").splitlines() if line]
    leaving = {(word[1], int(word[2])) for word in words if word[0] == "leaving"}
    published = {events.parse_id(json.loads(found)["id"]) for found in _RESULT.findall(text)}
    store = Store(folder, "machine-1", MAX_BYTES)
    try:
        (integrity,) = store.outbox.connection.execute("PRAGMA integrity_check").fetchone()
        rows, devices = _rows(store), {epoch: device for device, epoch in store._streams}
        forgotten = {key for key in promised if not _is_accounted(store, devices, key)}
        whole = [row for row in rows if row.intact and _has_picture(store, row)]
        held = {key for row in whole for key in _keys(row)}
    finally:
        store.close()
    found = [] if integrity == "ok" else [f"not sound: {integrity}"]
    found += [f"receipt forgotten: {key}" for key in sorted(forgotten)]
    found += [f"lost: {key}" for key in sorted(promised - held - leaving)]
    found += [f"published and lost: {key}" for key in sorted(published - held - leaving)]
    found += [f"damaged, or without its picture: row {row.position}" for row in rows if row not in whole]
    return len(promised), found + _unsettled(folder, words)


def _unsettled(folder: Path, words: list[list[str]]) -> list[str]:
    last = max((place for place, word in enumerate(words) if word[0] == "damaged"), default=-1)
    account = Progress(folder / "sync.db")
    try:
        return [
            f"settled and forgotten: {word[1:]}"
            for word in words[last + 1 :]
            if word[0] == "settled" and int(word[4]) not in account.settled(word[1], Lane(int(word[2])))
        ]
    finally:
        account.close()


def _is_accounted(store: Store, devices: dict[str, str], key: tuple[str, int]) -> bool:
    stream = store.stream(devices.get(key[0], ""), key[0])
    return stream is not None and stream.has(key[1])


def _has_picture(store: Store, row: Entry) -> bool:
    if row.blob is None:
        return True
    picture = store.blobs.get(row.blob)
    return picture is not None and hashlib.sha256(picture).hexdigest() == row.blob


def _keys(row: Entry) -> Iterator[tuple[str, int]]:
    """Yield the keys of which a row speaks: its own, and for a result its frame's."""
    yield row.epoch, row.seq
    if row.intact and (subject := json.loads(row.body).get("subject")):
        yield events.parse_id(subject.rsplit("/", 1)[1])


def _rows(store: Store) -> list[Entry]:
    return store.outbox.read(0, 1 << 20)


def _say(*lines: bytes) -> None:
    os.write(1, b"".join(line + b"\n" for line in lines))


if __name__ == "__main__":
    break_on_purpose("".join(sys.argv[4:]))
    work(Path(sys.argv[1]), random.Random(int(sys.argv[2])), int(sys.argv[3]))
