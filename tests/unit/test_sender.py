"""The first hand-off's rules: when something is sent, and when it is sent again."""

from __future__ import annotations

from collections import deque

import pytest

from device_agent.publish import Sender

WINDOW, RESEND_S, RESEND_MAX_S, SIZE = 1000, 5.0, 60.0, 100


class Line:
    """A sender over a spool of the positions 1 to `held`, each of 100 bytes."""

    def __init__(self, held: int = 100) -> None:
        self.held = set(range(1, held + 1))
        self.sender = Sender(WINDOW, RESEND_S, RESEND_MAX_S)

    def meet(self, now_s: float = 0.0, *, window: int = WINDOW) -> Line:
        """Connect, see a gateway and hear its first receipt."""
        self.sender.connected(now_s)
        self.sender.gateway("g1", "session-1", now_s)
        self.sender.receipted([], window, now_s)
        return self

    def send(self, now_s: float) -> list[int]:
        """Send what may be sent; return which positions went."""
        went = []
        while self.sender.budget_bytes() > 0:
            waiting = sorted(position for position in self.held if position > self.sender.cursor)
            if not waiting:
                break
            self.sender.sent(waiting[0], SIZE, now_s)
            went.append(waiting[0])
        return went

    def receipt(self, first: int, last: int, now_s: float, window: int = WINDOW) -> None:
        self.held -= set(range(first, last + 1))
        self.sender.receipted([(first, last)], window, now_s)


def test_nothing_is_sent_before_a_gateway_is_online() -> None:
    line = Line()
    assert line.send(0.0) == []
    line.sender.connected(1.0)
    assert line.send(1.0) == []
    assert not line.sender.resend_due(100.0)
    assert line.sender.gateway("g1", "session-1", 2.0)


def test_the_first_receipt_is_waited_for_and_then_a_window_goes() -> None:
    line = Line()
    line.sender.connected(0.0)
    line.sender.gateway("g1", "session-1", 0.0)
    assert line.send(0.0) == line.send(30.0) == []
    line.sender.receipted([], WINDOW, 31.0)
    assert line.send(31.0) == list(range(1, 11))


def test_a_receipt_of_another_epoch_is_not_the_first_receipt() -> None:
    line = Line()
    line.sender.connected(0.0)
    line.sender.gateway("g1", "session-1", 0.0)
    line.sender.receipted([(1, 2)], WINDOW, 1.0, greets=False)
    assert line.send(1.0) == []


def test_who_waits_for_the_first_receipt_asks_for_it_again_with_growing_pauses() -> None:
    line = Line()
    line.sender.connected(0.0)
    line.sender.gateway("g1", "session-1", 0.0)
    asked = [second for second in range(200) if line.sender.resend_due(float(second))]
    assert asked == [5, 15, 35, 75, 135, 195]
    assert line.send(200.0) == []


def test_never_more_than_a_window_is_under_way_without_a_receipt() -> None:
    line = Line().meet()
    assert len(line.send(0.0)) * SIZE == WINDOW
    assert line.send(1.0) == []
    line.receipt(1, 4, 1.0)
    assert line.send(1.0) == [11, 12, 13, 14]
    assert line.sender.in_flight_bytes == WINDOW


def test_a_gateway_may_ask_for_a_smaller_window_but_not_for_a_larger_one() -> None:
    assert Line().meet(window=250).send(0.0) == [1, 2, 3]
    assert len(Line().meet(window=1 << 30).send(0.0)) * SIZE == WINDOW


def test_an_event_larger_than_the_window_goes_alone() -> None:
    assert Line().meet(window=1).send(0.0) == [1]


def test_a_hole_in_a_receipt_rewinds_once() -> None:
    line = Line().meet()
    line.send(0.0)
    line.held -= {1, 2, 4, 5}
    line.sender.receipted([(1, 2), (4, 5)], WINDOW, 1.0)
    assert line.send(1.0) == [3, *range(6, 15)]
    line.receipt(6, 6, 1.1)  # what was sent before the rewind still comes in
    assert line.sender.cursor == 14
    assert line.send(1.1) == [15]
    line.receipt(7, 7, 1.0 + RESEND_S)
    assert line.sender.cursor == 0


def test_no_progress_sends_everything_again_with_growing_pauses() -> None:
    line = Line(held=5).meet()
    assert line.send(0.0) == [1, 2, 3, 4, 5]
    again = []
    for second in range(1, 200):
        if line.sender.resend_due(float(second)):
            assert line.send(float(second)) == [1, 2, 3, 4, 5]
            again.append(second)
    assert again == [5, 15, 35, 75, 135, 195]
    line.receipt(1, 2, 200.0)  # of which of the six? The pause stays
    assert not line.sender.resend_due(200.0 + RESEND_MAX_S - 1)
    assert line.sender.resend_due(200.0 + RESEND_MAX_S)
    assert line.send(260.0) == [3, 4, 5]


def test_a_receipt_for_what_was_sent_once_makes_the_pause_short_again() -> None:
    line = Line(held=6)
    line.held = {1, 2, 3}
    line.meet().send(0.0)
    assert line.sender.resend_due(20.0)
    line.send(20.0)
    line.receipt(1, 3, 21.0)
    line.held = {4, 5, 6}
    line.send(22.0)
    line.receipt(4, 4, 22.1)
    assert not line.sender.resend_due(22.1 + RESEND_S - 0.1)
    assert line.sender.resend_due(22.1 + RESEND_S)


@pytest.mark.parametrize(("window", "each_s"), [(1000, 0.2), (1000, 3.0), (400, 8.0), (300, 6.0), (200, 15.0)])
def test_a_line_slower_than_the_pause_is_not_filled_with_repeats(window: int, each_s: float) -> None:
    """Events take `each_s` to cross, one behind the other."""
    line = Line(held=500).meet(window=window)
    crossing: deque[int] = deque()
    arrived: list[int] = []
    now_s, free_s, crossed = 0.0, 0.0, 0
    while crossed < 300:
        now_s += 0.1
        line.sender.resend_due(now_s)
        crossing += line.send(now_s)
        if crossing and now_s >= free_s + each_s:
            free_s, crossed = now_s, crossed + 1
            arrived.append(crossing.popleft())
            line.held.discard(arrived[-1])
            line.sender.receipted([(1, max(arrived))], window, now_s)
    assert len(set(arrived)) > 0.8 * crossed
    assert len(crossing) <= 40


def test_who_has_nothing_under_way_resends_nothing() -> None:
    line = Line(held=3).meet()
    line.send(0.0)
    line.receipt(1, 3, 1.0)
    assert not line.sender.resend_due(1000.0)


def test_a_full_gateway_is_tried_with_one_event_for_each_resend() -> None:
    tried = []
    line = Line().meet(window=0)
    for second in range(200):
        line.sender.resend_due(float(second))
        if went := line.send(float(second)):
            tried.append(second)
            assert went == [1]
            line.sender.receipted([], 0, float(second))
    assert tried == [5, 15, 35, 75, 135, 195]
    line.receipt(1, 1, 200.0)
    assert line.send(200.0) == list(range(2, 12))


def test_a_new_session_of_the_gateway_gets_everything_again_after_its_first_receipt() -> None:
    line = Line(held=3).meet()
    line.send(0.0)
    assert not line.sender.gateway("g1", "session-1", 1.0)
    assert line.sender.in_flight
    assert line.sender.gateway("g1", "session-2", 2.0)
    assert line.send(2.0) == []
    line.sender.receipted([], WINDOW, 2.5)
    assert line.send(2.5) == [1, 2, 3]


def test_a_new_session_starts_with_the_short_pause_again() -> None:
    line = Line(held=3).meet()
    line.send(0.0)
    for second in (5.0, 15.0, 35.0):
        assert line.sender.resend_due(second)
        line.send(second)
    line.sender.gateway("g1", "session-2", 40.0)
    assert line.sender.resend_due(40.0 + RESEND_S)


@pytest.mark.parametrize("loss", ["gateway", "connection"])
def test_nothing_is_sent_to_who_has_gone(loss: str) -> None:
    line = Line().meet()
    if loss == "gateway":
        line.sender.gateway("g1", None, 1.0)
    else:
        line.sender.disconnected()
    assert line.send(1.0) == []
    assert not line.sender.resend_due(1000.0)


def test_one_of_two_gateways_is_enough() -> None:
    line = Line().meet()
    line.sender.gateway("g2", "session-9", 1.0)
    line.sender.gateway("g1", None, 1.0)
    line.sender.receipted([], WINDOW, 1.0)
    assert line.send(1.0) == list(range(1, 11))
