"""What the sync worker tells of how far everyone has minted: all of it once, a bounded part in each request."""

from __future__ import annotations

from cloud_sync.news import MINTED_AT_ONCE, Minted, MintedNews


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
