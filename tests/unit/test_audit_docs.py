"""The rules of `millrace audit`, and its example in docs/operations.md."""

from __future__ import annotations

from pathlib import Path

from cloud_sync.audit_command import lines
from cloud_sync.gaps import Book, CloudWord, reckon
from millrace.ranges import RangeSet

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")


def test_the_example_of_the_audit_is_what_it_prints() -> None:
    camera = Book(
        minted=4720,
        minted_by_spool=4720,
        spool=RangeSet([(4716, 4720)]),
        accepted=RangeSet([(1, 4715)]),
        waiting=RangeSet([(4701, 4712)]),
        cloud=CloudWord(311, {"local": 4387, "buried": 2}, [], []),
        reasons={"buried: not a picture": 2},
    )
    press = Book(minted=900, accepted=RangeSet([(1, 880)]), cloud=CloudWord(880, {}, [], []))
    gateway = Book(minted=4512, accepted=RangeSet([(1, 4512)]), waiting=RangeSet([(4501, 4512)]))
    gateway.cloud = CloudWord(4500, {}, [], [])
    found = [
        reckon("device/cam-1", "k3v9x0pa", camera),
        reckon("device/press-1", "n7kl47p6", press),
        reckon("gateway/gw-1", "q8w2mm1c", gateway),
    ]
    shown = "\n".join(lines(found, ""))
    assert f"```\n{shown}\n```" in PAGE, shown


def test_a_device_that_went_on_after_its_spool_was_read_has_no_gap() -> None:
    book = Book(minted=30, minted_by_spool=10, spool=RangeSet([(5, 10)]), cloud=CloudWord(4, {}, [], []))
    assert reckon("device/a", "k3v9x0pa", book).missing == []


def test_what_the_cloud_misses_but_the_device_still_holds_is_not_missing() -> None:
    cloud = CloudWord(8, {}, [(3, 4)], [])
    book = Book(minted=10, minted_by_spool=10, spool=RangeSet([(4, 4)]), cloud=cloud)
    found = reckon("device/a", "k3v9x0pa", book)
    assert (found.at_device, found.missing) == (1, [(3, 3)])
