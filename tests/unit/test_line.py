"""What is between intake and commit keeps its order and its bound: in frames, or in many more small messages."""

from __future__ import annotations

import threading

import pytest
from unit.fake_clock import FakeClock
from unit.test_events import SMALLEST_PNG

from edge_gateway.admission import Malformed, admit
from edge_gateway.pipeline import Item, Line


def small(size_bytes: int = 10) -> Item:
    return Item(Malformed("t", bytes(size_bytes), "for its size only"), lambda: None)


def frame() -> Item:
    found = admit("millrace", "millrace/device/cam-1/frame/top", SMALLEST_PNG, (), FakeClock().now(), redelivered=False)
    assert isinstance(found, list)
    return Item(found[0], lambda: None)


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [
        ([frame() for _ in range(9)], 4),
        ([small() for _ in range(40)], 32),
        ([frame(), frame(), *[small() for _ in range(40)]], 18),
        ([small(100_000) for _ in range(9)], 2),
        ([small(10 << 20), small()], 1),
        ([small(), small(10 << 20), small()], 1),
    ],
    ids=["frames", "readings", "both", "large ones", "one larger than all of it", "one that has to wait"],
)
def test_a_line_of_four_frames_has_room_for(wanted: list[Item], taken: int) -> None:
    line = Line(4)
    accepted = []
    for item in wanted:
        if not line.offer(item, 0.0):
            break
        accepted.append(item)
    assert len(accepted) == taken
    assert [line.get(0) for _ in accepted] == accepted
    assert line.get(0) is None
    assert line.offer(wanted[taken], 0.0)


def test_who_offers_waits_for_room_and_who_takes_for_an_item() -> None:
    line, items, found = Line(2), [frame() for _ in range(50)], []

    def take() -> None:
        while len(found) < len(items) and (item := line.get(60)) is not None:
            found.append(item)

    taker = threading.Thread(target=take)
    taker.start()
    assert all(line.offer(item, 60) for item in items)
    taker.join(60)
    assert found == items
