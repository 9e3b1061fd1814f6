"""The broker's access rules, read as Mosquitto reads them, against the topic table; and the settings behind them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub
from pydantic import ValidationError

from broker_config import acl, mosquitto
from broker_config.acl import Role
from broker_config.settings import AccountSettings, BrokerConfig
from millrace import topics
from millrace.settings import ConfigError, load
from millrace.topics import TABLE, Kind, Party

PREFIX = "acme/line3"
DEVICE_KINDS = [kind for kind, rule in TABLE.items() if rule.pattern.startswith("device/")]
GATEWAY_KINDS = [kind for kind in TABLE if kind not in DEVICE_KINDS]


def may_write(role: Role, name: str, kind: Kind, owner: str) -> bool:
    topic = topics.topic(PREFIX, kind, owner, "top")
    return any(topic_matches_sub(filter_, topic) for filter_ in acl.writable(PREFIX, role, name))


def may_read(role: Role, name: str, kind: Kind, owner: str) -> bool:
    topic = topics.topic(PREFIX, kind, owner, "top")
    return any(topic_matches_sub(filter_, topic) for filter_ in acl.readable(PREFIX, role, name))


@pytest.mark.parametrize("kind", TABLE)
def test_device_writes_what_the_table_gives_it_and_under_its_own_name_only(kind):
    assert may_write(Role.DEVICE, "d2", kind, "d2") == (TABLE[kind].writer is Party.DEVICE)
    assert not may_write(Role.DEVICE, "d2", kind, "d1")


@pytest.mark.parametrize("kind", TABLE)
def test_gateway_answers_every_device_but_never_speaks_as_one(kind):
    by_gateway = TABLE[kind].writer is Party.GATEWAY
    assert may_write(Role.GATEWAY, "g1", kind, "g1" if kind in GATEWAY_KINDS else "d1") == by_gateway


@pytest.mark.parametrize("kind", GATEWAY_KINDS)
def test_gateway_cannot_speak_as_another_gateway(kind):
    assert not may_write(Role.GATEWAY, "g2", kind, "g1")


@pytest.mark.parametrize("kind", TABLE)
def test_viewer_reads_everything_and_writes_nothing(kind):
    assert may_read(Role.VIEWER, "wall", kind, "d1")
    assert not may_write(Role.VIEWER, "wall", kind, "wall")


@pytest.mark.parametrize("kind", TABLE)
def test_device_hears_its_own_answers_and_of_others_only_what_is_retained(kind):
    rule = TABLE[kind]
    assert may_read(Role.DEVICE, "d2", kind, "d1") == rule.retain
    assert may_read(Role.DEVICE, "d2", kind, "d2") == (rule.retain or rule.writer is Party.GATEWAY)


@pytest.mark.parametrize("kind", TABLE)
def test_gateway_reads_what_the_table_gives_it(kind):
    assert may_read(Role.GATEWAY, "g1", kind, "d1") == (TABLE[kind].readers in (Party.GATEWAY, Party.ALL))


def test_channel_names_that_the_gateway_will_refuse_reach_it_so_that_it_can_say_so():
    filters = list(acl.writable(PREFIX, Role.DEVICE, "d1"))
    assert any(topic_matches_sub(filter_, f"{PREFIX}/device/d1/frame/Line 1/Top") for filter_ in filters)


def test_every_right_stands_below_the_user_that_has_it():
    text = acl.render(PREFIX, AccountSettings(devices=["d1"], gateways=["g1"], viewers=["wall"]))
    rules = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert rules[0] == "user d1"
    assert {line.split()[0] for line in rules} == {"user", "topic"}  # a pattern line would hold for all of them
    assert [line for line in rules if line.startswith("user")] == ["user d1", "user g1", "user wall"]
    assert rules[-1] == f"topic read {PREFIX}/#"


@given(st.text(max_size=70))
def test_no_name_can_carry_a_wildcard_a_level_or_a_line_into_the_acl(name):
    try:
        accounts = AccountSettings(devices=[name])
    except ValidationError:
        return
    device = set(acl.writable(PREFIX, Role.DEVICE, accounts.devices[0]))
    assert {filter_.removesuffix("/#").count("/") for filter_ in device} == {4}
    assert all(set("+# \n\r\0").isdisjoint(filter_.removesuffix("/#")) for filter_ in device)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "accounts:\n  devices: [d1]\n  gateways: [d1]\n",
            ":1: accounts: one name is one account, and d1",
        ),
        ("accounts:\n  devices:\n    - d1\n    - Cam_2\n", ":4: accounts.devices[1]: name 'Cam_2' must be"),
        ("host: 192.0.2.7\nanonymous: true\n", "listens on loopback only, not on 192.0.2.7"),
        ("anonymous: true\naccounts: {devices: [d1]}\n", "anonymous: true makes accounts meaningless"),
        ("memory_limit_bytes: 1000000\n", "memory_limit_bytes must be at least"),
        ("max_conections: 3\n", 'did you mean "max_connections"?'),
    ],
)
def test_settings_that_would_surprise_are_refused(tmp_path: Path, text, problem):
    path = tmp_path / "broker.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(path, BrokerConfig)
    assert problem in str(refused.value)


def test_one_payload_limit_sets_both_of_mosquittos():
    lines = mosquitto.render(BrokerConfig(max_payload_bytes=100_000), Path("/etc/mosquitto/millrace")).splitlines()
    assert "message_size_limit 100000" in lines
    assert f"max_packet_size {100_000 + mosquitto.PACKET_HEADROOM_BYTES}" in lines


def test_mosquitto_asks_for_accounts_unless_told_otherwise():
    guarded = mosquitto.render(BrokerConfig(), Path("/home"))
    assert "allow_anonymous false" in guarded
    assert "acl_file /home/acl" in guarded
    assert "password_file /home/passwords" in guarded
    anonymous = mosquitto.render(BrokerConfig(anonymous=True), Path("/home"))
    assert "allow_anonymous true" in anonymous
    assert "use_username_as_clientid" not in anonymous  # Mosquitto would refuse every client without a user name
