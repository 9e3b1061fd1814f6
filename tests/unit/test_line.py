"""What is between intake and commit keeps each device's order and its bound, and holds nobody up for another's sake."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from itertools import cycle, islice

import pytest
from unit.fake_clock import FakeClock
from unit.test_events import SMALLEST_PNG

from edge_gateway.admission import Arrived, GatewayStatus, Malformed, Outcome, admit
from edge_gateway.line import Item, Line


def small(size_bytes: int = 10, device: str = "press-1") -> Item:
    return Item(Malformed("t", bytes(size_bytes), "for its size only", device), lambda: None)


def frame(device: str = "cam-1", *, inferred: bool = True) -> Item:
    topic = f"millrace/device/{device}/frame/top"
    found = admit("millrace", topic, SMALLEST_PNG, (), FakeClock().now(), redelivered=False)
    assert isinstance(found, list)
    found[0].outcome = Future()
    item = Item(found[0], lambda: None)
    if inferred:
        finish(item)
    return item


def pack(count: int, size_bytes: int) -> list[Item]:
    """Return readings that came in one message."""
    moments = b",".join(b'{"n": "a", "v": 1, "t": %d}' % number for number in range(count))
    topic = "millrace/device/esp32-7/reading/belt"
    found = admit(
        "millrace", topic, b"[" + b" " * size_bytes + moments + b"]", (), FakeClock().now(), redelivered=False
    )
    assert isinstance(found, list)
    return [Item(reading, lambda: None) for reading in found]


def finish(item: Item) -> None:
    assert item.outcome is not None
    item.outcome.set_result(Outcome())


def filled(line: Line, *items: Item) -> None:
    assert all(line.offer([item], 0.0) for item in items)


def taken(line: Line) -> list[Item]:
    """Return what is ready."""
    found = []
    while (item := line.get(0)) is not None:
        found.append(item)
    return found


@pytest.mark.parametrize(
    ("wanted", "room"),
    [
        ([frame() for _ in range(9)], 4),
        ([small() for _ in range(40)], 32),
        ([frame(), frame(), *[small() for _ in range(40)]], 18),
        ([small(100_000) for _ in range(9)], 3),
        ([small(10 << 20), small()], 1),
        ([small(), small(10 << 20), small()], 2),
    ],
    ids=["frames", "readings", "both", "large ones", "one larger than all of it", "one larger than what is left"],
)
def test_a_line_of_four_frames_has_room_for(wanted: list[Item], room: int) -> None:
    line = Line(4)
    accepted = []
    for item in wanted:
        if not line.offer([item], 0.0):
            break
        accepted.append(item)
    assert len(accepted) == room
    assert taken(line) == accepted
    assert line.offer([wanted[room]], 0.0)


def test_what_came_in_one_message_enters_together_and_its_bytes_count_once() -> None:
    line, readings = Line(4), pack(20, 40_000)
    assert line.offer(readings, 0.0)
    filled(line, *(small() for _ in range(12)))
    assert not line.offer([small()], 0.0)
    assert line.get(0) is readings[0]


def test_who_offers_waits_for_room_and_who_takes_for_an_item() -> None:
    line, items, found = Line(2), [frame() for _ in range(50)], []

    def take() -> None:
        while len(found) < len(items) and (item := line.get(60)) is not None:
            found.append(item)

    taker = threading.Thread(target=take)
    taker.start()
    assert all(line.offer([item], 60) for item in items)
    taker.join(60)
    assert found == items


def test_what_is_ready_passes_another_devices_slow_frame_and_nothing_of_its_own_device_does() -> None:
    line = Line(32)
    slow, behind, alarm, light = frame("cam-1", inferred=False), small(device="cam-1"), small(), frame("cam-2")
    filled(line, slow, behind, alarm, light)
    assert taken(line) == [alarm, light]
    finish(slow)
    assert taken(line) == [slow, behind]


def test_a_device_whose_frames_are_inferred_out_of_order_is_taken_in_order() -> None:
    line, frames = Line(32), [frame(inferred=False) for _ in range(3)]
    filled(line, *frames)
    finish(frames[2])
    finish(frames[1])
    assert taken(line) == []
    finish(frames[0])
    assert taken(line) == frames


def test_of_what_is_ready_the_oldest_goes_first_whoever_sends_most() -> None:
    line = Line(32)
    devices = ["flood", "flood", "flood", "flood", "quiet"]
    items = [small(device=device) for device in islice(cycle(devices), 100)]
    filled(line, *items)
    assert taken(line) == items


def test_what_is_of_no_device_keeps_its_order_and_waits_for_no_device() -> None:
    line, said = Line(32), [Item(GatewayStatus("g1", session, 0), lambda: None) for session in "ab"]
    filled(line, frame("g1", inferred=False), *said)
    assert taken(line) == said


def test_who_waits_is_woken_by_the_inference_that_it_waits_for() -> None:
    line, slow, found = Line(32), frame(inferred=False), []
    filled(line, slow)
    taker = threading.Thread(target=lambda: found.append(line.get(60)))
    taker.start()
    finish(slow)
    taker.join(60)
    assert found == [slow]


def test_more_is_waited_for_once_and_not_at_all_where_nothing_is_to_come() -> None:
    line, slow = Line(32), frame(inferred=False)
    filled(line, small())
    assert line.get(0) is not None
    assert line.get_more(60) is None, "nothing else is in the line"
    filled(line, slow)
    assert line.get_more(0.01) is None
    late = threading.Timer(20, finish, [slow])
    late.start()
    assert line.get_more(60) is None, "it was waited for in vain"
    late.cancel()
    filled(line, following := frame("cam-2", inferred=False))
    threading.Timer(0.01, finish, [following]).start()
    assert line.get_more(60) is following
    finish(slow)
    assert line.get_more(0) is slow


def test_a_device_whose_frames_are_slow_leaves_room_and_is_told_when_it_may_go_on() -> None:
    line, told = Line(32), []
    line.freed = lambda: told.append(line.has_room("heavy"))
    slow = []
    while line.has_room("heavy"):
        slow.append(frame("heavy", inferred=False))
        filled(line, slow[-1])
    assert len(slow) == 24
    while line.has_room("heavy-2"):
        filled(line, frame("heavy-2", inferred=False))
    quiet = small()
    assert line.has_room("press-1")
    filled(line, quiet)
    assert taken(line) == [quiet]
    told.clear()
    for item in slow:
        finish(item)
    assert taken(line) == slow
    assert told[-1]


def test_a_device_that_waits_for_no_inference_may_fill_the_line() -> None:
    line, count = Line(4), 0
    while line.has_room("press-1") and line.offer([small()], 0.0):
        count += 1
    assert count == 32


def test_the_oldest_that_holds_up_its_device_is_known() -> None:
    line = Line(32)
    first, second, third = (frame(device, inferred=False) for device in ("cam-1", "cam-2", "cam-2"))
    filled(line, first, second, third)
    before = line.awaited
    finish(first)
    assert (before, line.awaited) == (0, 1)
    finish(second)
    assert line.awaited is None, "the third is not first of its device yet"
    assert taken(line) == [first, second]
    assert line.awaited == 2
    finish(third)
    assert line.awaited is None


def test_an_inference_that_breaks_or_is_called_off_holds_nobody() -> None:
    line, broken, off = Line(32), frame("cam-1", inferred=False), frame("cam-2", inferred=False)
    filled(line, broken, off)
    assert broken.outcome is not None
    broken.outcome.set_exception(RuntimeError("as a program's error is"))
    assert off.outcome is not None
    assert off.outcome.cancel()
    assert taken(line) == [broken, off]
    assert all(isinstance(item.finished, Arrived) for item in (broken, off))
