"""What the sync worker tells of how far everyone has minted: all of it once, a bounded part in each request."""

from __future__ import annotations

import pytest

from cloud_sync.news import MINTED_AT_ONCE, Minted, MintedNews, burials
from cloud_sync.progress import DAMAGED
from millrace import jsontext


def test_thousands_of_epochs_are_told_in_bounded_parts_and_only_what_is_news_after_that() -> None:
    known = {"device/cam-1": {f"{number:08d}": 7 for number in range(2500)}}
    news = MintedNews()
    parts: list[Minted] = []
    while part := news.among(known):
        parts.append(part)
        news.told(part)
    assert [sum(map(len, part.values())) for part in parts] == [MINTED_AT_ONCE, MINTED_AT_ONCE, 500]
    assert {epoch for part in parts for epoch in part["device/cam-1"]} == set(known["device/cam-1"])
    known["device/cam-1"]["00000009"] = 8
    assert news.among(known) == {"device/cam-1": {"00000009": 8}}


def test_what_was_not_committed_stays_news() -> None:
    news = MintedNews()
    known = {"gateway/g1": {"q8w2mm1c": 5}}
    assert news.among(known) == news.among(known) == known


@pytest.mark.parametrize(
    ("source", "event_id", "is_told"),
    [
        ("/millrace/device/cam-1/belt", "00000001-7", True),
        ("/millrace/device/cam-1/belt", "00000001-6", False),  # the columns say 7
        ("/millrace/device/cam-3/belt", "00000001-7", False),  # the epoch is cam-1's
        ("/millrace/device/cam-1/belt", "0000000!-7", True),  # no key, so the columns are all that says one
    ],
)
def test_a_damaged_row_is_named_to_the_cloud_only_where_its_key_is_known_twice(
    source: str, event_id: str, is_told: bool
) -> None:
    body = jsontext.dump({"source": source, "id": event_id})
    told = burials([("gateway1", 40, body, DAMAGED, "00000001", 7)], "gateway/g1", {"device/cam-1": {"00000001": 9}})
    named = {"origin": "device/cam-1", "epoch": "00000001", "seq": 7, "reason": DAMAGED}
    assert told == ([named] if is_told else [])


@pytest.mark.parametrize("body", [b'{"source": "\xff', b"", b"[]", b"{}"])
@pytest.mark.parametrize(
    ("epoch", "seq", "origin"),
    [
        ("00000001", 7, "device/cam-1"),
        ("gateway1", 2, "gateway/g1"),
        ("00000001", 10, None),  # cam-1 has not come so far
        ("00000001", 0, None),
        ("00000002", 3, None),  # two devices have this one
        ("00000003", 3, None),
        ("former00", 1, None),  # the cloud takes no word of another gateway
        ("", "", None),
    ],
)
def test_a_damaged_row_whose_bytes_give_no_key_goes_by_its_columns(
    body: bytes, epoch: str, seq: int, origin: str | None
) -> None:
    known = {
        "device/cam-1": {"00000001": 9, "00000002": 9},
        "device/cam-2": {"00000002": 4},
        "gateway/g1": {"gateway1": 40},
        "gateway/g0": {"former00": 40},
    }
    told = burials([("gateway1", 40, body, DAMAGED, epoch, seq)], "gateway/g1", known)
    assert [(row["origin"], row["epoch"], row["seq"]) for row in told] == ([(origin, epoch, seq)] if origin else [])
