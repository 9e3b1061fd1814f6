"""A connection that does not last says why, and tries less and less often; against a real Mosquitto with accounts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from integration.brokers import WAIT_S, GuardedBroker, denying_mosquitto, wait_until

from millrace.inbox import Connected, Inbox
from millrace.mqtt import Connection
from millrace.settings import BrokerSettings

pytestmark = pytest.mark.mosquitto


@contextmanager
def connection(broker: GuardedBroker, account: str, folder: Path) -> Iterator[Connection]:
    """A connection of an account, run as a program does."""
    secret = folder / f"{account}-{threading.active_count()}"
    secret.touch(mode=0o600)
    secret.write_text(broker.secret(account))
    settings = BrokerSettings(port=broker.process.port, username=account, password_file=secret)
    with running(settings, account) as held:
        yield held


@contextmanager
def running(settings: BrokerSettings, name: str, *topics: str) -> Iterator[Connection]:
    """A connection that subscribes to these topics, run as a program does."""
    held = Connection(settings, name, None, topics, persistent=False, max_payload_bytes=1 << 20, inbox=Inbox())
    thread = threading.Thread(target=held.run)
    thread.start()
    try:
        yield held
    finally:
        held.interrupt()
        thread.join(WAIT_S)
        assert not thread.is_alive()


def lines(caplog: pytest.LogCaptureFixture, word: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith(word)]


def test_a_device_under_another_name_than_its_account_is_told_what_to_look_at(
    guarded_mosquitto: GuardedBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "millrace.mqtt")
    with connection(guarded_mosquitto, "d1", tmp_path) as held:
        wait_until(lambda: held.connected, "a connection")
        held.publish("millrace/device/d2/status", b"{}")
        wait_until(lambda: lines(caplog, "broker_disconnected") != [], "a word on why it ended")
    assert (
        "does another program use the account 'd1', or is a topic denied to it?"
        in lines(caplog, "broker_disconnected")[0]
    )
    assert lines(caplog, "publish_refused") == ["publish_refused reason='Not authorized' account=d1"]


def test_two_programs_on_one_account_do_not_fight_at_full_speed(
    guarded_mosquitto: GuardedBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "millrace.mqtt")
    bounds: list[float] = []
    monkeypatch.setattr("millrace.mqtt.random.uniform", lambda low, high: bounds.append(high) or low)  # no pause
    with connection(guarded_mosquitto, "d1", tmp_path), connection(guarded_mosquitto, "d1", tmp_path):
        wait_until(lambda: max(bounds, default=0) >= 4, "a longer and longer pause")
    assert any("another program use the account 'd1'" in line for line in lines(caplog, "broker_disconnected"))
    assert bounds.count(0.25) == 0, "an attempt that did not last counted as a success"


def test_a_connection_ended_by_ourselves_is_no_news(
    guarded_mosquitto: GuardedBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "millrace.mqtt")
    with connection(guarded_mosquitto, "d1", tmp_path) as held:
        wait_until(lambda: held.connected, "a connection")
        assert isinstance(held.inbox.get(WAIT_S), Connected)
    assert lines(caplog, "broker_disconnected") == []


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_a_subscription_that_the_broker_denies_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, protocol: Literal["3.1.1", "5"]
) -> None:
    with denying_mosquitto(tmp_path / "broker", "shop/secret/#") as broker:
        settings = BrokerSettings(port=broker.port, protocol=protocol, reconnect_max_s=0.2)
        with running(settings, "wall", "shop/open/#", "shop/secret/#") as held:
            wait_until(lambda: held.denied == ("shop/secret/#",), "the broker's answer")
            held.denied = ("shop/secret/#", "")
            with running(settings, "wall", "shop/open/#") as other:  # throws it off, and it comes again
                wait_until(lambda: other.connected, "another connection")
            wait_until(lambda: held.denied == ("shop/secret/#",), "the broker's answer once more")
            assert held.connected
    (said,) = lines(caplog, "subscription_denied")
    assert said.startswith("subscription_denied topic=shop/secret/# reason=")
    assert "access rules" in said
