"""Whose turn it is: the quiet have theirs at once, who floods is turned away, and a device alone may use everything."""

from __future__ import annotations

from edge_gateway.shares import BURST_S, CALM_S, COMPANY_S, HALVINGS_MAX, INDULGED_EVERY_S, LULL_S, Shares

ROOM, WINDOW = 1000, 1 << 20
ANY = 1e12
LATER_S = 1e9


def shares(room: int = ROOM, events_s: float = ANY, bytes_s: float = ANY) -> Shares[str]:
    return Shares(room, WINDOW, events_s, bytes_s)


def taken(found: Shares[str], now_s: float = LATER_S) -> list[str]:
    items = []
    while (item := found.take(now_s)) is not None:
        items.append(item)
    return items


def test_devices_have_turns_and_each_ones_order_is_kept() -> None:
    found = shares()
    for device, item in [("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("c", "c1"), ("b", "b2")]:
        assert found.offer(device, item, 10, 0.0) == []
    assert taken(found) == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert (found.take(LATER_S), found.waiting_bytes) == (None, 0)


def test_the_next_turn_of_a_quiet_device_is_one_behind_whoever_waits() -> None:
    found = shares()
    for number in range(50):
        found.offer("flood", f"f{number}", 10, 0.0)
    found.take(0.0)
    found.offer("quiet", "q", 10, 0.0)
    assert [found.take(0.0), found.take(0.0)] == ["f1", "q"]


def test_a_device_alone_may_use_all_the_room_and_no_more() -> None:
    found = shares()
    assert all(found.offer("a", f"a{n}", 10, 0.0) == [] for n in range(100))
    assert found.offer("a", "one too many", 10, 0.0) == [("a", "one too many")]
    assert taken(found) == [f"a{n}" for n in range(100)]


def test_where_room_is_short_the_newest_of_whoever_has_most_goes() -> None:
    found = shares()
    for number in range(100):
        found.offer("flood", f"f{number}", 10, 0.0)
    assert found.offer("quiet", "q1", 10, 0.0) == [("flood", "f99")]
    assert found.offer("quiet", "q2", 10, 0.0) == [("flood", "f98")]
    assert found.offer("flood", "f100", 10, 0.0) == [("flood", "f100")]
    left = taken(found)
    assert [item for item in left if item[0] == "q"] == ["q1", "q2"]
    assert [item for item in left if item[0] == "f"] == [f"f{n}" for n in range(98)]


def test_a_quiet_device_loses_nothing_against_ten_that_flood() -> None:
    found = shares()
    away: set[str] = set()
    quiet = 0
    for second in range(50):
        for number in range(300):
            device = f"flood-{number % 10}"
            away |= {device for device, _ in found.offer(device, "f", 10, float(second))}
        away |= {device for device, _ in found.offer("quiet", "q", 10, float(second))}
        served = [found.take(second + 0.5) for _ in range(20)]
        quiet += served.count("q")
    assert (quiet, "quiet" in away, len(away)) == (50, False, 10)


def flooded() -> Shares[str]:
    """A device that was turned away beside another, and has 99 items waiting."""
    found = shares()
    found.offer("quiet", "q", 10, 0.0)
    for number in range(100):
        found.offer("flood", f"f{number}", 10, 0.0)
    assert found.take(0.0) == "q"
    return found


def test_who_was_turned_away_and_does_not_pause_is_served_little_while_others_are_heard() -> None:
    found = flooded()
    served = 0
    for millisecond in range(1, 1001):
        now_s = millisecond / 1000
        found.offer("flood", "f", 10, now_s)
        served += found.take(now_s) is not None
        assert found.is_restrained("flood", now_s)
    assert 0.9 / INDULGED_EVERY_S < served <= 1 / INDULGED_EVERY_S
    found.offer("quiet", "q", 10, 1.0)
    assert [found.take(1.0), found.take(1.0)] == ["q", None]


def test_who_was_turned_away_and_pauses_is_served_at_once() -> None:
    found = flooded()
    assert found.take(0.0) is not None  # one now and then in any case
    assert found.take(0.0) is None
    assert len(taken(found, LULL_S)) == 98


def test_a_flood_that_nobody_else_is_heard_beside_is_served_in_full() -> None:
    found = flooded()
    found.offer("flood", "f", 10, COMPANY_S)
    assert not found.is_restrained("flood", COMPANY_S)
    assert len(taken(found, COMPANY_S)) == 100


def test_one_that_is_larger_than_all_the_room_is_taken_when_nothing_else_waits() -> None:
    found = shares()
    assert found.offer("a", "large", 5 * ROOM, 0.0) == []
    assert found.offer("b", "small", 10, 0.0) == [("a", "large")]
    assert taken(found) == ["small"]


def test_above_the_hard_rate_a_device_is_turned_away_also_where_there_is_room() -> None:
    found = shares(10**9, events_s=10)
    went = [found.offer("a", "x", 1, 0.0) == [] for _ in range(100)]
    assert went == [True] * int(10 * BURST_S) + [False] * (100 - int(10 * BURST_S))
    assert [found.offer("a", "x", 1, 1.0) == [] for _ in range(20)].count(True) == 10
    assert found.offer("b", "x", 1, 1.0) == []


def test_bytes_have_a_rate_too_and_one_large_event_is_let_through_on_credit() -> None:
    found = shares(10**9, bytes_s=100)
    assert found.offer("a", "large", 1000, 0.0) == []
    assert found.offer("a", "small", 1, 5.0) == [("a", "small")]
    assert found.offer("a", "small", 1, 9.0) == []


def test_a_clock_that_goes_back_gives_no_credit_and_takes_none() -> None:
    found = shares(10**9, events_s=1)
    assert [found.offer("a", "x", 1, 100.0) == [] for _ in range(3)] == [True, True, False]
    assert found.offer("a", "x", 1, 50.0) != []
    assert found.offer("a", "x", 1, 51.5) == []


def test_the_window_is_halved_while_a_device_is_turned_away_and_grows_back_when_it_is_calm() -> None:
    found = shares(10)
    assert found.window_bytes("a", 0.0) == WINDOW
    for second in range(HALVINGS_MAX + 5):
        for _ in range(3):
            found.offer("a", "x", 10, float(second))
        assert found.window_bytes("a", float(second)) == WINDOW >> min(second + 1, HALVINGS_MAX)
    assert found.turned_away(second) == {"a": 3 * (second + 1) - 1}
    assert found.window_bytes("a", second + CALM_S) == WINDOW >> (HALVINGS_MAX - 1)
    assert found.window_bytes("a", second + HALVINGS_MAX * CALM_S) == WINDOW
    assert found.turned_away(second + HALVINGS_MAX * CALM_S) == {}
    assert found.window_bytes("b", 0.0) == WINDOW


def test_what_is_remembered_of_devices_that_come_and_go_stays_small() -> None:
    found = shares(10)
    most = 0
    for number in range(20_000):
        found.offer(f"device-{number}", "x", 10, number / 10)
        most = max(most, len(found._buckets) + len(found._turned_away) + len(found._queues))
    assert most < 2000


def test_while_others_are_heard_no_device_keeps_more_waiting_than_the_broker_leaves_unacknowledged() -> None:
    found: Shares[str] = Shares(1 << 30, WINDOW, ANY, ANY, 20)
    assert all(found.offer("flood", f"f{n}", 10, 0.0) == [] for n in range(100)), "alone it may use everything"
    away = found.offer("quiet", "q", 500, 1.0)
    assert [device for device, _ in away] == ["flood"] * 81
    assert "q" in taken(found)
    for number in range(30):
        found.offer("flood", f"g{number}", 10, 2.0 + COMPANY_S)
    assert len(taken(found)) == 30, "it has been alone again for a while"
