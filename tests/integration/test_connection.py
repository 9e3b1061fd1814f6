"""A connection that does not last says why, and tries less and less often; against a real Mosquitto with accounts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from integration.brokers import WAIT_S, GuardedBroker, wait_until

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
    held = Connection(settings, account, None, [], persistent=False, max_payload_bytes=1 << 20, inbox=Inbox())
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
