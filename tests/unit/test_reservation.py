"""What stands beside an outbox tells how far it can have minted, whatever becomes of the database."""

from __future__ import annotations

from pathlib import Path

import pytest

from millrace.blobs import BlobStore
from millrace.entries import Draft, Lane
from millrace.outbox import Outbox
from millrace.reservation import BLOCK_SEQS, EPOCHS_KEPT, Reservation


def test_no_seq_is_used_before_it_is_reserved(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "spool.db", BlobStore(tmp_path / "frames"), "machine-1")
    for _ in range(3):
        with outbox.transaction():
            for _ in range(BLOCK_SEQS // 2 + 1):
                outbox.append([Draft(Lane.BULK, outbox.epoch, outbox.mint(), b"{}")], 0.0)
        told = Reservation(tmp_path / "spool.db.epoch").reserved
        assert told[outbox.epoch] >= outbox.next_seq - 1
    outbox.close()


def test_the_file_is_written_once_for_a_block_of_seqs(tmp_path: Path) -> None:
    path = tmp_path / "x.epoch"
    reservation = Reservation(path)
    reservation.cover("abcdefgh", 1)
    first = path.stat().st_ino
    reservation.cover("abcdefgh", 1 + BLOCK_SEQS)
    assert path.stat().st_ino == first
    reservation.cover("abcdefgh", 2 + BLOCK_SEQS)
    assert path.stat().st_ino != first
    assert Reservation(path).reserved == {"abcdefgh": 2 + 2 * BLOCK_SEQS}


def test_earlier_epochs_stay_named_but_not_without_end(tmp_path: Path) -> None:
    reservation = Reservation(tmp_path / "x.epoch")
    names = [f"epoch{n:03d}" for n in range(EPOCHS_KEPT + 1)]
    for name in names:
        reservation.cover(name, 5)
    assert list(Reservation(tmp_path / "x.epoch").reserved) == names[1:]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"reserved": 3}', b'{"reserved": {"UPPER": 3, "abcdefgh": -1}}']
)
def test_an_unreadable_file_says_nothing_and_is_written_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.epoch").write_bytes(content)
    reservation = Reservation(tmp_path / "x.epoch")
    assert reservation.reserved == {}
    reservation.cover("abcdefgh", 1)
    assert Reservation(tmp_path / "x.epoch").reserved == {"abcdefgh": 1 + BLOCK_SEQS}
