"""The checksum of a row: the same under any Python, and no other row's."""

from __future__ import annotations

import zlib

from millrace.row_sums import UNSUMMED, is_believed, row_sum, sql_row_sum, summed

SHOWN, UNKNOWN = "/srv/Prüfstand/spool.db", "/srv/\U000e0fff/spool.db"
"""Text that this Python's `repr` shows, and text with a character that no Unicode has yet, which it escapes."""


def test_a_checksum_does_not_depend_on_which_characters_this_python_knows() -> None:
    assert repr(SHOWN).isascii() != repr(UNKNOWN).isascii()
    assert row_sum("k", SHOWN) == zlib.crc32(rb"('k', '/srv/Pr\xfcfstand/spool.db')")
    assert row_sum("k", UNKNOWN) == zlib.crc32(rb"('k', '/srv/\U000e0fff/spool.db')")
    assert sql_row_sum(b"k", SHOWN.encode()) == row_sum("k", SHOWN)


def test_a_row_without_a_checksum_is_believed_only_where_its_schema_had_none() -> None:
    row = ("k", 5)
    assert is_believed(row, 2)
    assert is_believed(summed(*row), 2)
    assert is_believed((*row, UNSUMMED), 2, is_lent=True)
    assert not is_believed((*row, UNSUMMED), 2)
    assert not is_believed(("k", 4, row_sum(*row)), 2, is_lent=True)
