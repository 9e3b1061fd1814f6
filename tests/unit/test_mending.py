"""Times are mended from uptimes alone: whatever wall clocks say and however late messages come, the truth is within."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.mending import (
    HEARD_KEPT,
    SPAN_NS,
    Heard,
    Mended,
    Mender,
    Node,
    Tie,
    better,
    carried,
    in_order,
    met,
    span_of,
    uptime,
)

S = 10**9
MS = 10**6
QUARTZ_PPM = 100


@dataclass
class Machine:
    """One boot of a machine: its uptime runs from `booted_ns` on, a little fast or slow."""

    name: str
    booted_ns: int
    drift_ppm: int = 0
    heard: Heard = field(default_factory=Heard)

    @property
    def node(self) -> Node:
        return self.name, f"boot of {self.name}"

    def uptime_ns(self, true_ns: int) -> int:
        since_ns = true_ns - self.booted_ns
        return since_ns + since_ns * self.drift_ppm // 10**6

    def words(self, true_ns: int) -> dict[str, object]:
        return {"bootid": self.node[1], "uptimens": str(self.uptime_ns(true_ns)), "heard": self.heard.said()}


@dataclass
class Map:
    """What the cloud knows: all ties that were seen, as it keeps them."""

    ties: dict[tuple[Node, Node, int], Tie] = field(default_factory=dict)

    def speak(self, below: Machine, above: Machine, true_ns: int, down_ns: int, up_ns: int) -> None:
        """Let `above` say its uptime, and `below` answer with its own at once when it hears it."""
        heard_ns = true_ns + down_ns
        below.heard.note(above.node[1], above.uptime_ns(true_ns), below.uptime_ns(heard_ns))
        self.arrive(below, above, heard_ns, heard_ns + up_ns)

    def arrive(self, below: Machine, above: Machine, sent_ns: int, arrived_ns: int) -> None:
        found = met(below.words(sent_ns), above.node[1], above.uptime_ns(arrived_ns))
        if found is not None:
            key = below.node, above.node, span_of(found[1])
            self.ties[key] = better(self.ties.get(key), found[1]) or self.ties[key]

    def up(self, node: Node) -> Mapping[Node, Sequence[Tie]]:
        found: dict[Node, list[Tie]] = {}
        for (mine, theirs, _), tie in self.ties.items():
            if mine == node:
                found.setdefault(theirs, []).append(tie)
        return {peer: in_order(ties) for peer, ties in found.items()}

    def around(self, node: Node) -> Mapping[Node, Sequence[Tie]]:
        found: dict[Node, list[Tie]] = {}
        for (mine, theirs, _), tie in self.ties.items():
            if theirs == node:
                found.setdefault(mine, []).append(tie.turned())
        return {peer: in_order(ties) for peer, ties in found.items()} | dict(self.up(node))

    def mend(self, cloud: Machine, node: Node, uptime_ns: int, past: Mapping[Node, int] | None = None) -> Mended | None:
        return Mender(self.up, self.around, ({cloud.node: cloud.booted_ns}, past or {})).mend(node, uptime_ns)


drifts = st.integers(-QUARTZ_PPM, QUARTZ_PPM)
delays = st.integers(0, 900 * S)
moments = st.lists(st.tuples(st.integers(0, 30 * 86400 * S), delays, delays), min_size=1, max_size=8)


@settings(deadline=None, max_examples=200)
@given(drifts, drifts, moments, moments, st.integers(0, 31 * 86400 * S), st.integers(0, 10**18), st.integers(0, 10**17))
def test_the_truth_lies_within_what_is_stated(
    device_ppm: int, gateway_ppm: int, floor: Moments, link: Moments, event_ns: int, device_age: int, gateway_age: int
) -> None:
    """Delays up to 15 minutes each way, drifts as quartz has them, a month without a boot; wall clocks have no part."""
    begun_ns = 1_700_000_000 * S
    cloud = Machine("cloud", begun_ns - 77 * S)
    gateway = Machine("gateway/g1", begun_ns - gateway_age % (86400 * S), gateway_ppm)
    device = Machine("device/cam-1", begun_ns - device_age % (86400 * S), device_ppm)
    known = Map()
    for at_ns, down_ns, up_ns in sorted(floor):
        known.speak(device, gateway, begun_ns + at_ns, down_ns, up_ns)
    for at_ns, down_ns, up_ns in sorted(link):
        known.speak(gateway, cloud, begun_ns + at_ns, down_ns, up_ns)
    mended = known.mend(cloud, device.node, device.uptime_ns(begun_ns + event_ns))
    assert mended is not None
    assert abs(mended.time_ns - (begun_ns + event_ns)) <= mended.within_ns + 2
    slowest_ns = min(down + up for _, down, up in floor) + min(down + up for _, down, up in link)
    assert mended.within_ns <= slowest_ns / 2 + 4 * 31 * 86400 * S * 250 / 10**6


Moments = list[tuple[int, int, int]]


def line() -> tuple[Machine, Machine, Machine, Map]:
    """A device, its gateway and the cloud that have met, each message 10 ms on the way."""
    cloud, gateway, device = Machine("cloud", 0), Machine("gateway/g1", 500 * S), Machine("device/cam-1", 800 * S)
    known = Map()
    known.speak(device, gateway, 1000 * S, 10 * MS, 10 * MS)
    known.speak(gateway, cloud, 1001 * S, 10 * MS, 10 * MS)
    return cloud, gateway, device, known


def test_two_round_trips_of_20_ms_mend_to_within_21_ms() -> None:
    cloud, _, device, known = line()
    mended = known.mend(cloud, device.node, device.uptime_ns(1002 * S))
    assert mended is not None
    assert abs(mended.time_ns - 1002 * S) <= mended.within_ns <= 21 * MS


def test_a_word_heard_late_widens_nothing_that_was_known() -> None:
    cloud, gateway, device, known = line()
    before = known.mend(cloud, device.node, device.uptime_ns(1002 * S))
    known.speak(device, gateway, 1003 * S, 40 * S, 60 * S)  # a status that the broker kept for a minute
    assert known.mend(cloud, device.node, device.uptime_ns(1002 * S)) == before


def test_a_gateway_that_died_before_it_met_the_cloud_is_mended_through_a_device_that_saw_its_next_boot() -> None:
    cloud, old, device = Machine("cloud", 0), Machine("gateway/g1", 500 * S), Machine("device/cam-1", 800 * S)
    new = Machine("gateway/g1", 2000 * S)
    known = Map()
    known.speak(device, old, 1000 * S, 10 * MS, 10 * MS)
    assert known.mend(cloud, old.node, old.uptime_ns(1500 * S)) is None
    new_node = ("gateway/g1", "the boot after")
    device.heard.note(new_node[1], new.uptime_ns(2100 * S), device.uptime_ns(2100 * S + 10 * MS))
    found = met(device.words(2101 * S), new_node[1], new.uptime_ns(2101 * S + 10 * MS))
    assert found is not None
    known.ties[device.node, new_node, 0] = found[1]
    new.heard.note(cloud.node[1], cloud.uptime_ns(2200 * S), new.uptime_ns(2200 * S))
    up = met(new.words(2200 * S), cloud.node[1], cloud.uptime_ns(2200 * S))
    assert up is not None
    known.ties[new_node, cloud.node, 0] = up[1]
    mended = known.mend(cloud, old.node, old.uptime_ns(1500 * S))
    assert mended is not None
    assert abs(mended.time_ns - 1500 * S) <= mended.within_ns <= 2 * S


def test_nothing_is_said_of_a_boot_that_nobody_met() -> None:
    cloud, _, _, known = line()
    assert known.mend(cloud, ("device/cam-1", "another boot"), 5 * S) is None


def test_nothing_is_said_where_what_is_known_disagrees() -> None:
    """A machine that was set back to a snapshot goes on under the same boot id with an older uptime."""
    cloud, gateway, device, known = line()
    device.booted_ns += 3600 * S
    device.heard = Heard()
    known.speak(device, gateway, 5000 * S, 0, 0)
    assert known.mend(cloud, device.node, device.uptime_ns(5001 * S)) is None


def test_the_clouds_present_boot_is_believed_before_a_past_one() -> None:
    cloud, gateway, device, known = line()
    wrong = ("cloud", "a boot with a wrong clock")
    known.ties[gateway.node, wrong, 0] = Tie((0, 0), (0, 0))
    mended = known.mend(cloud, device.node, device.uptime_ns(1002 * S), {wrong: 10**18})
    assert mended is not None
    assert abs(mended.time_ns - 1002 * S) <= mended.within_ns


def test_a_past_boot_of_the_cloud_is_better_than_none() -> None:
    cloud, _, device, known = line()
    reborn = Machine("cloud, born again", 9000 * S)
    mended = known.mend(reborn, device.node, device.uptime_ns(1002 * S), {cloud.node: 0})
    assert mended is not None
    assert abs(mended.time_ns - 1002 * S) <= mended.within_ns <= 21 * MS


def test_drift_widens_what_is_far_from_any_meeting() -> None:
    near = carried([Tie((0, 0), (0, 0))], S, S)
    far = carried([Tie((0, 0), (0, 0))], 86400 * S, 86400 * S)
    assert near[1] - near[0] < MS
    assert 43 * S < far[1] - far[0] < 44 * S


def test_only_what_tightens_a_tie_is_news() -> None:
    known = Tie((0, 0), (0, 10 * MS))
    assert better(None, known) == known
    assert better(known, Tie((S, S - 20 * MS), (S, S + 9_500_000))) is None
    assert better(known, Tie((S, S - 20 * MS), (S, S + 5 * MS))) == Tie((0, 0), (S, S + 5 * MS))


def test_each_span_of_an_uptime_keeps_a_tie_of_its_own() -> None:
    assert [span_of(Tie((0, 0), (at_ns, 0))) for at_ns in (0, SPAN_NS - 1, SPAN_NS)] == [0, 0, 1]


def test_an_older_word_is_kept_until_its_drift_outweighs_its_promptness() -> None:
    heard = Heard()
    heard.note("g", 100 * S, 100 * S)
    heard.note("g", 200 * S - 1 * S, 200 * S)
    assert heard.said() == [{"bootid": "g", "uptimens": str(100 * S), "at": str(100 * S)}]
    heard.note("g", 86400 * S - 1 * S, 86400 * S)
    assert heard.said()[0]["at"] == str(86400 * S)


def test_a_few_boots_are_remembered_the_latest_ones() -> None:
    heard = Heard()
    for number in range(10):
        heard.note(f"g{number}", number, number)
    assert [word["bootid"] for word in heard.said()] == [f"g{number}" for number in range(10 - HEARD_KEPT, 10)]


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"bootid": "b", "uptimens": 5, "heard": []},
        {"bootid": "", "uptimens": "5", "heard": [{"bootid": "g", "uptimens": "1", "at": "1"}]},
        {"bootid": "b" * 65, "uptimens": "5", "heard": [{"bootid": "g", "uptimens": "1", "at": "1"}]},
        {"bootid": "b", "uptimens": "5", "heard": {"bootid": "g"}},
        {"bootid": "b", "uptimens": "5", "heard": ["g"]},
        {"bootid": "b", "uptimens": "5", "heard": [{"bootid": "g", "uptimens": "-1", "at": "1"}]},
        {"bootid": "b", "uptimens": "5", "heard": [{"bootid": "another", "uptimens": "1", "at": "1"}]},
        {"bootid": "b", "uptimens": "9" * 19, "heard": [{"bootid": "g", "uptimens": "1", "at": "1"}]},
    ],
)
def test_words_that_tell_nothing_are_no_meeting(words: dict[str, object]) -> None:
    assert met(words, "g", 10) is None


def test_words_that_tell_are_a_meeting() -> None:
    words = {"bootid": "b", "uptimens": "5", "heard": [{"bootid": "g", "uptimens": "7", "at": "4"}]}
    assert met(words, "g", 10) == ("b", Tie(low=(4, 7), high=(5, 10)))


@given(st.text(max_size=20))
def test_an_uptime_is_digits_or_nothing(text: str) -> None:
    assert uptime(text) in (None, *([int(text)] if text.isdecimal() and text.isascii() else []))


def test_a_tie_says_the_same_from_the_other_side() -> None:
    tie = Tie(low=(1, 10), high=(2, 30))
    assert tie.turned() == Tie(low=(30, 2), high=(10, 1))
    assert tie.turned().turned() == tie
