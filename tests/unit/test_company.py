"""Two agents under one name and other gateways: told from a restart, a repeat and a predecessor's last word."""

from __future__ import annotations

from edge_gateway.company import ALIVE_S, TWINS_FOR_S, Gateways, Twins


def test_two_sessions_that_alternate_are_two_agents() -> None:
    twins = Twins()
    twins.heard("cam-1", "a", "epocha00", 10, 0.0)
    twins.heard("cam-1", "b", "epochb00", 500, 1.0)
    assert twins.seen(1.0) == {}
    twins.heard("cam-1", "a", "epocha00", 40, 2.0)
    assert twins.seen(2.0) == {"cam-1": {"a": "epocha00", "b": "epochb00"}}
    assert twins.of("cam-1", 2.0 + TWINS_FOR_S + 1) is None


def test_an_agent_that_is_started_again_and_again_is_one() -> None:
    twins = Twins()
    for number in range(50):
        twins.heard("cam-1", f"run{number}", "epocha00", number, float(number))
        twins.heard("cam-1", f"run{number}", "epocha00", number + 1, float(number))
    assert twins.seen(50.0) == {}


def test_a_status_that_a_broker_sends_again_is_no_second_agent() -> None:
    twins = Twins()
    for session, said_ns in (("a", 10), ("a", 40), ("b", 5), ("a", 10), ("a", 40), ("b", 5)):
        twins.heard("cam-1", session, "epocha00", said_ns, 0.0)
    assert twins.seen(0.0) == {}


def test_anothers_epoch_may_live_until_it_is_quiet_or_an_agent_has_ended() -> None:
    twins = Twins()
    twins.heard("cam-1", "a", "epocha00", 10, 0.0)
    assert twins.may_live("cam-1", "epocha00", "b", 1.0)
    assert not twins.may_live("cam-1", "epocha00", "a", 1.0)
    assert not twins.may_live("cam-1", "epochb00", "b", 1.0)
    assert not twins.may_live("cam-1", "epocha00", "b", ALIVE_S)
    twins.ended("cam-1")
    assert not twins.may_live("cam-1", "epocha00", "b", 1.0)


def test_another_gateway_under_our_name_is_told_from_a_predecessor() -> None:
    ours = Gateways("g1", "us")
    ours.heard("g1", "before", 10, 0.0)
    ours.heard("g1", "before", 20, 0.0)
    ours.heard("g1", "us", 1, 0.0)
    ours.heard("g1", "before", 20, 0.0)
    assert ours.namesake(0.0) is None
    ours.heard("g1", "other", 30, 1.0)
    assert ours.namesake(1.0) is None
    ours.heard("g1", "other", 60, 2.0)
    assert ours.namesake(2.0) == "other"
    assert ours.namesake(TWINS_FOR_S + 3) is None


def test_other_gateways_are_known_while_they_are_online() -> None:
    ours = Gateways("g1", "us")
    assert ours.heard("g2", "x", 1, 0.0)
    assert not ours.heard("g2", "x", 2, 0.0)
    assert ours.others() == ["g2"]
    ours.heard("g2", None, 0, 0.0)
    assert ours.others() == []
    assert ours.heard("g2", "y", 1, 0.0)
