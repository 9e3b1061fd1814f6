"""Every topic there and back, and thousands that must never be one."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace import topics
from millrace.topics import TABLE, BadTopic, Kind, Party, Topic

LEVELS = st.from_regex(r"[a-z0-9-]{1,64}", fullmatch=True)
PREFIXES = st.lists(LEVELS, min_size=1, max_size=4).map("/".join)
KINDS = st.sampled_from(Kind)
WITH_CHANNEL = {kind for kind, rule in TABLE.items() if "{channel}" in rule.pattern}


def matches(pattern: str, topic: str) -> bool:
    """Say whether a subscription receives a topic, as MQTT 4.7 has it."""
    wanted, levels = pattern.split("/"), topic.split("/")
    for place, level in enumerate(wanted):
        if level == "#":
            return True
        if place >= len(levels) or level not in ("+", levels[place]):
            return False
    return len(wanted) == len(levels)


@given(PREFIXES, KINDS, LEVELS, LEVELS)
def test_what_is_built_parses_to_the_same(prefix: str, kind: Kind, owner: str, channel: str) -> None:
    built = Topic(kind, owner, channel if kind in WITH_CHANNEL else None)
    text = topics.topic(prefix, built.kind, built.owner, built.channel)
    assert topics.parse(prefix, text) == built
    receiving = {other for other in Kind if matches(topics.subscription(prefix, other), text)}
    assert receiving == {kind}
    assert matches(topics.subscription(prefix, kind, owner), text)


def test_every_kind_has_a_row_and_no_two_rows_share_a_pattern() -> None:
    assert set(TABLE) == set(Kind)
    patterns = {re.sub(r"{\w+}", "+", rule.pattern) for rule in TABLE.values()}
    assert len(patterns) == len(Kind)
    assert all(rule.qos == 1 for rule in TABLE.values())


def test_only_states_are_retained_and_no_device_writes_what_answers_it() -> None:
    assert {kind for kind, rule in TABLE.items() if rule.retain} == {
        Kind.DEVICE_STATUS,
        Kind.GATEWAY_STATUS,
        Kind.GATEWAY_MODEL,
        Kind.GATEWAY_ALARM,
    }
    for kind in (Kind.RESULT, Kind.VERDICT, Kind.RECEIPT, Kind.COMMAND):
        assert TABLE[kind].writer is Party.GATEWAY


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("millrace/device/Cam_01/frame/Top View", "millrace/device/cam-01/frame/top-view"),
        ("millrace/device/cam/frame/a/b", "millrace/device/cam/frame/a-b"),
        ("millrace/device/-cam-/frame/A", "millrace/device/-cam-/frame/a"),
        ("millrace/device/-/reading/\N{GREEK SMALL LETTER PI}", "millrace/device/-/reading/unnamed"),
        ("millrace/device//frame/top", "millrace/device/unnamed/frame/top"),
        ("millrace/device/cam/frame", "millrace/device/cam/frame/unnamed"),
        ("millrace/device/cam/status/extra", "millrace/device/cam/status"),
        ("millrace/gateway/G1/status", "millrace/gateway/g1/status"),
        ("millrace/device/" + "x" * 65 + "/ledger", "millrace/device/" + "x" * 64 + "/ledger"),
    ],
)
def test_a_refused_name_comes_with_the_nearest_good_topic(text: str, nearest: str) -> None:
    with pytest.raises(BadTopic, match="; try ") as refused:
        topics.parse("millrace", text)
    assert refused.value.nearest == nearest
    assert refused.value.topic == text
    topics.parse("millrace", nearest)


@given(st.text(max_size=100))
def test_the_nearest_level_is_good_and_a_good_one_stays(name: str) -> None:
    near = topics.nearest_level(name)
    assert topics.check_level(near) == near == topics.nearest_level(near)
    if topics.LEVEL.match(name) and len(name) <= topics.LEVEL_MAX_CHARS:
        assert near == name


@given(KINDS, st.text(max_size=40), st.text(max_size=40))
def test_whatever_the_names_a_topic_parses_or_names_a_nearest_one(kind: Kind, owner: str, channel: str) -> None:
    text = f"p/{TABLE[kind].pattern.format(device=owner, gateway=owner, channel=channel)}"
    try:
        parsed = topics.parse("p", text)
    except BadTopic as refused:
        if refused.nearest is not None:
            topics.parse("p", refused.nearest)
    else:
        assert topics.topic("p", parsed.kind, parsed.owner, parsed.channel) == text


def test_ten_thousand_hostile_topics_never_parse() -> None:
    chance = random.Random(1)
    hostile = [
        "+",
        "#",
        "",
        " ",
        "..",
        "$SYS",
        "A",
        "_",
        "\0",
        "\n",
        "a\n",
        "ä",
        "％",
        "a b",
        "x" * 65,
        "a+",
        "#a",
        "\ud800",
    ]
    tails = [rule.pattern for rule in TABLE.values()]
    for _ in range(10_000):
        name, tail = chance.choice(hostile), chance.choice(tails)
        bad_owner = tail.format(device=name, gateway=name, channel="top")
        texts = [f"millrace/{bad_owner}", f"{name}/{tail.format(device='d', gateway='d', channel='c')}", name + tail]
        for text in texts:
            with pytest.raises(BadTopic):
                topics.parse("millrace", text)


@pytest.mark.parametrize(
    "text",
    [
        "millrace",
        "millrace/",
        "millrace/device",
        "millrace/device/cam",
        "/millrace/device/cam/status",
        "millrace/device/cam/status/",
        "millrace/device/cam/status\n",
        "millrace/device/cam/FRAME/top",
        "millrace/device/cam/secret",
        "millrace/gateway/g1/frame",
        "millrace/gateway/g1/receipt",
        "millracer/device/cam/status",
        "other/device/cam/status",
        "$share/group/millrace/device/cam/status",
        "millrace/millrace/device/cam/status",
    ],
)
def test_what_is_not_in_the_table_is_not_ours(text: str) -> None:
    with pytest.raises(BadTopic, match="topic "):
        topics.parse("millrace", text)


def test_a_topic_of_64_kb_makes_a_short_message() -> None:
    with pytest.raises(BadTopic) as refused:
        topics.parse("millrace", "x" * 65_535)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("owner", "channel"), [("Cam", "top"), ("cam", "a/b"), ("cam", None), ("+", "top"), ("", "top")]
)
def test_no_topic_is_built_from_a_bad_name(owner: str, channel: str | None) -> None:
    with pytest.raises(ValueError, match="must be 1 to 64"):
        topics.topic("millrace", Kind.FRAME, owner, channel)


@given(PREFIXES, LEVELS, LEVELS)
def test_the_origin_of_a_source_is_who_numbered_it(prefix: str, name: str, channel: str) -> None:
    assert topics.origin_of(topics.device_source(prefix, name, channel)) == f"device/{name}"
    try:
        topics.check_prefix(prefix)
    except ValueError:
        assert prefix.rsplit("/", maxsplit=1)[-1] == "device"
    else:
        assert topics.origin_of(topics.gateway_source(prefix, name)) == f"gateway/{name}"


@pytest.mark.parametrize("prefix", ["device", "acme/device"])
def test_a_prefix_that_makes_a_gateway_look_like_a_device_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="must not end in 'device'"):
        topics.check_prefix(prefix)


@pytest.mark.parametrize("prefix", ["", "/", "a/", "/a", "a//b", "A", "a/+", "a/#", "$sys", "a b"])
def test_a_bad_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="must be 1 to 64"):
        topics.check_prefix(prefix)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "urn:dev:1",
        "/millrace/device/cam",
        "/device/cam/top",
        "/millrace/device//top",
        "/m/gateway/",
        "/m/gateway/A",
    ],
)
def test_a_source_that_names_nobody_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="names no device and no gateway"):
        topics.origin_of(source)
