"""What is given up is counted and said once a second, whatever comes meanwhile."""

from __future__ import annotations

from edge_gateway.sheds import Sheds

WHY = ("esp32-7", "over its share")


def test_a_flood_is_said_once_a_second_with_its_count() -> None:
    sheds = Sheds()
    assert not sheds.due(0.0)
    for _ in range(1000):
        sheds.add(*WHY)
    assert sheds.due(0.0)
    sheds.said(sheds.pending(), 0.0)
    sheds.add(*WHY)
    assert not sheds.due(0.9)
    assert sheds.due(1.0)
    assert sheds.pending() == {WHY: 1}


def test_what_comes_while_the_record_is_committed_is_said_with_the_next() -> None:
    sheds = Sheds()
    sheds.add(*WHY, 5)
    counts = sheds.pending()
    sheds.add(*WHY, 2)
    sheds.said(counts, 0.0)
    assert sheds.pending() == {WHY: 2}
    sheds.said(sheds.pending(), 1.0)
    assert not sheds.due(9.0)
