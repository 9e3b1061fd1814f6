"""Fixtures that more than one folder of tests uses; their machinery lies beside the tests that are about it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from integration.brokers import (
    Address,
    EmbeddedBroker,
    GuardedBroker,
    start_guarded_mosquitto,
    start_mosquitto,
)

from broker_config.mosquitto import Mosquitto
from broker_config.settings import AccountSettings

# How fast a machine is says nothing of what it does.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


MEMORY, ROOM_BYTES = Path("/dev/shm"), 1 << 29


@pytest.fixture
def quick_path() -> Iterator[Path]:
    """A folder in memory where there is room: for tests that sync a great deal and are not about the syncing."""
    is_roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM_BYTES
    folder = Path(tempfile.mkdtemp(prefix="millrace-", dir=MEMORY if is_roomy else None))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """An anonymous Mosquitto on a free port with its own directory."""
    with start_mosquitto(tmp_path / "mosquitto") as broker:
        yield broker


@pytest.fixture
def guarded_mosquitto(tmp_path: Path) -> Iterator[GuardedBroker]:
    """A Mosquitto with accounts for devices d1 and d2, gateways g1 and g2, viewers wall and hall."""
    accounts = AccountSettings(devices=["d1", "d2"], gateways=["g1", "g2"], viewers=["wall", "hall"])
    broker = start_guarded_mosquitto(tmp_path / "mosquitto", accounts)
    with broker.process:
        yield broker


@pytest.fixture
def embedded_broker() -> Iterator[EmbeddedBroker]:
    """The embedded broker in a process of its own."""
    broker = EmbeddedBroker()
    yield broker
    broker.stop()


@pytest.fixture(params=[pytest.param("mosquitto", marks=pytest.mark.mosquitto), "embedded"])
def any_broker(request: pytest.FixtureRequest) -> Address:
    """Host and port of each broker that Millrace works with, both anonymous."""
    if request.param == "mosquitto":
        broker: Mosquitto = request.getfixturevalue("mosquitto")
        return Address(broker.host, broker.port)
    embedded: EmbeddedBroker = request.getfixturevalue("embedded_broker")
    return embedded.address
