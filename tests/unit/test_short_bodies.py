"""Readings are kept in short and come back to the last byte; what a file holds is read for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from millrace import events
from millrace.blobs import BlobStore
from millrace.clock import Instant
from millrace.entries import Draft, Lane, entry_of, is_sound
from millrace.outbox import Outbox
from millrace.short_bodies import in_full, shortened

EPOCH = "k3v9x0pa"
BODY = (
    b'{"specversion":"1.0","type":"io.millrace.reading.v1","source":"/millrace/device/press-1/c0","id":"k3v9x0pa-47",'
    b'"time":"2026-11-22T04:23:31.874094Z","bootid":"19b61aaf-1721-4f12-a2fa-a6dbc410af88","uptimens":"71501952835531",'
    b'"base":"1","datacontenttype":"application/json","data":{"temperature_c":21.5}}'
)
KEPT = (
    b"\x01millrace\x07press-1/c0\x022026-11-22T04:23:31.874094Z\x0319b61aaf-1721-4f12-a2fa-a6dbc410af88"
    b'\x0471501952835531\x051\x06temperature_c":21.5}}'
)


def test_a_reading_is_kept_in_less_than_half_its_bytes_and_what_files_hold_is_read_for_ever() -> None:
    assert shortened(BODY, EPOCH, 47) == KEPT
    assert in_full(KEPT, EPOCH, 47) == BODY
    assert len(KEPT) < len(BODY) / 2


@pytest.mark.parametrize(
    "body",
    [
        BODY.replace(b"k3v9x0pa-47", b"k3v9x0pa-470"),
        BODY.replace(b"c0", b"device/device"),
        BODY.replace(b"21.5", b'"\\u0001 \\" /device/ \\",\\"base\\":\\""'),
        BODY.replace(b"21.5", b'"\x01\x02\x06"'),
        BODY.replace(b"21.5", b'""},"more":{"","id":"k3v9x0pa-47","time":"'),
        BODY.replace(b'"base":"1",', b""),
        BODY.replace(b"reading", b"waveform"),
        BODY[:70],
        BODY[:64],
        b'{"data":{}}',
        b"",
    ],
)
def test_every_body_comes_back_to_the_last_byte(body: bytes) -> None:
    assert in_full(shortened(body, EPOCH, 47), EPOCH, 47) == body


def test_a_row_that_keeps_a_reading_in_short_is_found_out_when_a_bit_flips() -> None:
    for at in range(len(KEPT)):
        for spoilt in (KEPT, KEPT[:at] + bytes([KEPT[at] ^ 4]) + KEPT[at + 1 :]):
            row = (1, int(Lane.BULK), EPOCH, 47, spoilt, None, len(BODY), 0, 2455634552)
            assert entry_of(*row).intact == is_sound(row) == (spoilt == KEPT)


def test_a_queue_gives_readings_back_as_they_were_and_counts_them_at_their_full_size(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "spool.db", BlobStore(tmp_path / "frames"), "machine-1")
    key = events.Key("/millrace/device/cam-1/c0", outbox.epoch, 1)
    event = events.new_event(events.READING, key, Instant(0, "boot", 1), data={"temperature_c": 21.5})
    body = events.encode_json(event)
    with outbox.transaction():
        (entry,) = outbox.append([Draft(Lane.BULK, outbox.epoch, outbox.mint(), body)], 0.0)
    assert outbox.read(0, 10) == [entry]
    assert (entry.body, entry.bytes, outbox.held_bytes) == (body, len(body), len(body))
    ((kept,),) = outbox.connection.execute("SELECT length(body) FROM entry").fetchall()
    assert kept < len(body) * 0.6
    outbox.close()
