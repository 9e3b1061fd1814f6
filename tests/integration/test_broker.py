"""Who may say and hear what at a real Mosquitto, and what both brokers must do, tried with real clients."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from integration.brokers import (
    HOST,
    WAIT_S,
    Address,
    Client,
    EmbeddedBroker,
    GuardedBroker,
    Message,
    free_port,
    skip_without_mosquitto,
    start_guarded_mosquitto,
    start_mosquitto,
    wait_until,
)
from paho.mqtt.enums import MQTTProtocolVersion

from broker_config import accounts
from broker_config import mosquitto as mosquitto_module
from broker_config.address import PortTaken, accepts
from broker_config.mosquitto import BrokerFailed, Mosquitto
from broker_config.settings import AccountSettings, BrokerConfig
from millrace.settings import ConfigError, load

V311 = MQTTProtocolVersion.MQTTv311
REFUSED = "Not authorized"
UNHEARD = "No matching subscribers"  # acknowledged well, with nobody subscribed
DEVICE_MAY_NOT = [
    "millrace/device/d1/frame/top",
    "millrace/device/d1/reading/top",
    "millrace/device/d1/ledger",
    "millrace/device/d1/status",
    "millrace/device/d2/receipt",
    "millrace/device/d2/result/top",
    "millrace/device/d2/verdict/top",
    "millrace/device/d2/command",
    "millrace/gateway/g1/status",
    "millrace/gateway/d2/status",
    "millrace/gateway/d2/alarm",
    "elsewhere/device/d2/frame/top",
    "$SYS/broker/uptime",
]


@pytest.fixture
def watcher(guarded_mosquitto: GuardedBroker) -> Iterator[Client]:
    """A viewer that hears everything."""
    with guarded_mosquitto.client("wall") as wall:
        wall.subscribe("millrace/#")
        yield wall


@pytest.mark.mosquitto
class TestAccounts:
    def test_device_cannot_publish_as_another_nor_forge_its_own_answers(self, guarded_mosquitto, watcher):
        answers = {topic: forge(guarded_mosquitto, "d2", topic) for topic in DEVICE_MAY_NOT}
        assert answers == dict.fromkeys(DEVICE_MAY_NOT, REFUSED)
        with guarded_mosquitto.client("d2") as d2:
            assert d2.publish("millrace/device/d2/frame/top", b"true") == "Success"
        assert watcher.next() == Message("millrace/device/d2/frame/top", b"true", retained=False)

    def test_old_protocol_is_no_way_around(self, guarded_mosquitto, watcher):
        for topic in DEVICE_MAY_NOT:
            forge(guarded_mosquitto, "d2", topic, protocol=V311)  # MQTT 3.1.1 acknowledges what it drops
        with guarded_mosquitto.client("d2", protocol=V311) as d2:
            d2.publish("millrace/device/d2/ledger", b"true")
        assert watcher.next().topic == "millrace/device/d2/ledger"

    def test_channel_name_that_the_gateway_will_refuse_does_not_cost_the_connection(self, guarded_mosquitto, watcher):
        with guarded_mosquitto.client("d2") as d2:
            assert d2.publish("millrace/device/d2/frame/Line 1/Top", b"picture") == "Success"
            assert d2.publish("millrace/device/d2/frame/top", b"picture") == "Success"
        assert watcher.next().topic == "millrace/device/d2/frame/Line 1/Top"

    def test_will_of_a_device_in_anothers_name_is_not_delivered(self, guarded_mosquitto, watcher):
        with guarded_mosquitto.client("d2", will="millrace/device/d1/status") as d2:
            d2.cut()
        with guarded_mosquitto.client("d2", will="millrace/device/d2/status") as d2:
            d2.cut()
        assert watcher.next() == Message("millrace/device/d2/status", b"lost", retained=False)

    def test_device_hears_its_own_answers_and_statuses_whatever_it_subscribes_to(self, guarded_mosquitto):
        with ExitStack() as stack:
            d1, d2, g1 = (stack.enter_context(guarded_mosquitto.client(name)) for name in ("d1", "d2", "g1"))
            d2.subscribe("#")
            d2.subscribe("$SYS/#")
            d2.subscribe("millrace/device/d1/result/#")
            d1.publish("millrace/device/d1/frame/top", b"secret")
            d1.publish("millrace/device/d1/status", b"online", retain=True)
            g1.publish("millrace/gateway/g1/status", b"online", retain=True)
            for name in ("d1", "d2"):
                for kind in ("result/top", "verdict/top", "receipt", "command"):
                    g1.publish(f"millrace/device/{name}/{kind}", b"for " + name.encode())
            heard = [d2.next().topic for _ in range(6)]
        assert heard == [
            "millrace/device/d1/status",
            "millrace/gateway/g1/status",
            "millrace/device/d2/result/top",
            "millrace/device/d2/verdict/top",
            "millrace/device/d2/receipt",
            "millrace/device/d2/command",
        ]
        assert d2.received.empty()

    def test_viewer_reads_and_cannot_write(self, guarded_mosquitto, watcher):
        may_not = [*DEVICE_MAY_NOT, "millrace/device/hall/frame/top", "millrace/gateway/hall/status"]
        assert {forge(guarded_mosquitto, "hall", topic) for topic in may_not} == {REFUSED}
        with guarded_mosquitto.client("g1") as g1:
            g1.publish("millrace/device/d1/receipt", b"{}")
        assert watcher.next().topic == "millrace/device/d1/receipt"

    def test_gateway_does_its_work_and_no_more(self, guarded_mosquitto, watcher):
        answers = [f"millrace/device/d1/{kind}" for kind in ("result/top", "verdict/top", "receipt", "command")]
        own = [f"millrace/gateway/g1/{word}" for word in ("status", "model", "alarm")]
        may_not = ["millrace/gateway/g2/status", "millrace/device/g1/frame/top", "millrace/device/d1/frame/top"]
        with guarded_mosquitto.client("g1") as g1, guarded_mosquitto.client("d1") as d1:
            g1.subscribe("millrace/device/+/frame/#")
            d1.publish("millrace/device/d1/frame/top", b"picture")
            assert g1.next() == Message("millrace/device/d1/frame/top", b"picture", retained=False)
            assert {g1.publish(topic, b"{}") for topic in answers + own} == {"Success"}
        assert {forge(guarded_mosquitto, "g1", topic) for topic in may_not} == {REFUSED}
        assert [watcher.next().topic for _ in range(8)] == ["millrace/device/d1/frame/top", *answers, *own]

    def test_device_cannot_throw_another_off_by_claiming_its_client_id(self, guarded_mosquitto):
        with guarded_mosquitto.client("d1") as d1:
            with Client(guarded_mosquitto.address, "d1", "d2", guarded_mosquitto.secret("d2")) as impostor:
                assert impostor.publish("millrace/device/d2/ledger", b"{}") == UNHEARD
                assert d1.publish("millrace/device/d1/ledger", b"{}") == UNHEARD
            assert not d1.disconnected.is_set()

    def test_one_account_is_one_client(self, guarded_mosquitto):
        with guarded_mosquitto.client("wall") as first, guarded_mosquitto.client("wall"):
            assert first.disconnected.wait(WAIT_S)

    @pytest.mark.parametrize(("username", "password"), [(None, None), ("d1", "guess"), ("d1", ""), ("nobody", "x")])
    def test_nobody_comes_in_without_an_accounts_secret(self, guarded_mosquitto, username, password):
        with Client(guarded_mosquitto.address, "stranger", username, password) as stranger:
            assert stranger.reason == REFUSED


@pytest.mark.mosquitto
class TestLimits:
    @pytest.fixture
    def narrow(self, tmp_path: Path) -> Iterator[GuardedBroker]:
        named = AccountSettings(devices=["d1"], viewers=["wall"])
        broker = start_guarded_mosquitto(tmp_path / "narrow", named, max_payload_bytes=10_000)
        with broker.process:
            yield broker

    @pytest.mark.parametrize("protocol", [V311, MQTTProtocolVersion.MQTTv5])
    @pytest.mark.parametrize("excess_bytes", [1, mosquitto_module.PACKET_HEADROOM_BYTES])
    def test_oversize_payload_is_refused_and_the_largest_allowed_arrives(self, narrow, protocol, excess_bytes):
        with narrow.client("wall") as wall:
            wall.subscribe("millrace/#")
            with narrow.client("d1", protocol=protocol) as d1:
                d1.paho.publish("millrace/device/d1/frame/top", b"x" * (10_000 + excess_bytes), 1)
                assert d1.disconnected.wait(WAIT_S)
            with narrow.client("d1", protocol=protocol) as d1:
                assert d1.publish("millrace/device/d1/frame/top", b"y" * 10_000) == "Success"
            assert wall.next().payload == b"y" * 10_000


@pytest.mark.mosquitto
class TestStart:
    def test_its_own_words_are_quoted_when_it_dies(self, tmp_path):
        skip_without_mosquitto()
        config = BrokerConfig(
            port=free_port(), anonymous=True, max_payload_bytes=1024, max_queued_bytes=1, memory_limit_bytes=1025
        )
        with pytest.raises(BrokerFailed, match=r"ended with status \d+: .*[Mm]emory"):
            mosquitto_module.start(config, tmp_path)

    def test_taken_port_is_named_before_another_broker_answers_for_ours(self, mosquitto: Mosquitto, tmp_path):
        with pytest.raises(PortTaken, match=f"port {mosquitto.port}: Address already in use"):
            start_mosquitto(tmp_path / "second", port=mosquitto.port)

    def test_broker_killed_and_started_again_on_its_port_serves(self, mosquitto: Mosquitto, tmp_path):
        mosquitto.kill()
        with (
            start_mosquitto(tmp_path / "again", port=mosquitto.port) as again,
            Client(Address(again.host, again.port), "c") as client,
        ):
            assert client.publish("t", b"x") == UNHEARD

    def test_retained_messages_outlive_a_restart_only_with_persistence(self, tmp_path):
        for persistence, kept in ((True, [b"online"]), (False, [])):
            home = tmp_path / str(persistence)
            with (
                start_mosquitto(home, persistence=persistence) as broker,
                Client(Address(HOST, broker.port), "d1") as d1,
            ):
                d1.publish("millrace/device/d1/status", b"online", retain=True)
            with (
                start_mosquitto(home, persistence=persistence) as broker,
                Client(Address(HOST, broker.port), "late") as late,
            ):
                late.subscribe("millrace/#")
                late.publish("millrace/end", b"")
                assert [late.next().payload for _ in (*kept, "end")] == [*kept, b""]

    def test_root_does_not_serve_the_network(self, tmp_path, monkeypatch):
        skip_without_mosquitto()
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        config = BrokerConfig(host="0.0.0.0", port=free_port(), accounts=AccountSettings(devices=["d1"]))
        with pytest.raises(ConfigError, match="run it as another user"):
            mosquitto_module.start(config, tmp_path)


@pytest.mark.mosquitto
class TestCommands:
    @pytest.fixture
    def settings_file(self, tmp_path: Path) -> Path:
        skip_without_mosquitto()
        path = tmp_path / "broker.yaml"
        path.write_text(
            f"port: {free_port()}\npassword_dir: secrets\nstate_dir: state\n"
            "accounts:\n  devices: [d1]\n  gateways: [g1]\n"
        )
        return path

    def test_accounts_makes_each_secret_once_and_prints_none(self, settings_file):
        first = broker_command("accounts", "--config", settings_file)
        files = sorted((settings_file.parent / "secrets").iterdir())
        secrets = [path.read_text().strip() for path in files]
        assert [path.name for path in files] == ["d1", "g1"]
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
        assert len(set(secrets)) == 2
        again = broker_command("accounts", "--config", settings_file)
        assert [path.read_text().strip() for path in files] == secrets
        assert not any(secret in output for secret in secrets for output in (first.stdout, again.stdout))

    def test_render_without_secrets_says_what_to_run(self, settings_file, tmp_path):
        done = broker_command("render", "--config", settings_file, "--out", tmp_path / "out", status=78)
        assert "millrace broker accounts" in done.stderr
        assert not (tmp_path / "out").exists()

    def test_render_writes_private_files_without_a_plain_secret(self, settings_file, tmp_path):
        accounts.make_secrets(load(settings_file, BrokerConfig))
        done = broker_command("render", "--config", settings_file, "--out", tmp_path / "out")
        files = sorted((tmp_path / "out").iterdir())
        assert [path.name for path in files] == ["acl", "mosquitto.conf", "passwords"]
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
        secret = (tmp_path / "secrets" / "d1").read_text().strip()
        assert not any(secret in path.read_text() for path in files)
        assert "/etc/mosquitto/conf.d" in done.stdout

    def test_secret_that_others_may_read_is_refused(self, settings_file, tmp_path):
        config = load(settings_file, BrokerConfig)
        accounts.make_secrets(config)
        (tmp_path / "secrets" / "d1").chmod(0o644)
        with pytest.raises(ConfigError, match="others may read this secret"):
            mosquitto_module.write_files(config, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_mosquitto_runs_in_the_foreground_and_ends_with_sigterm(self, settings_file, tmp_path):
        config = load(settings_file, BrokerConfig)
        accounts.make_secrets(config)
        command = [sys.executable, "-m", "millrace", "broker", "mosquitto", "--config", settings_file]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            wait_until(lambda: process.poll() is not None or accepts(HOST, config.port), "Mosquitto listens")
            secret = (tmp_path / "secrets" / "d1").read_text().strip()
            with Client(Address(HOST, config.port), "d1", "d1", secret) as d1:
                assert d1.publish("millrace/device/d1/ledger", b"{}") == UNHEARD
            environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
            process.send_signal(signal.SIGTERM)
        assert b"MALLOC_MMAP_THRESHOLD_=32768" in environment
        assert process.returncode == 0


class TestBothBrokers:
    def test_retained_message_waits_for_who_comes_later(self, any_broker: Address):
        with Client(any_broker, "early", protocol=V311) as early:
            early.publish("millrace/device/d1/status", b"online", retain=True)
        with Client(any_broker, "late", protocol=V311) as late:
            late.subscribe("millrace/device/+/status")
            assert late.next() == Message("millrace/device/d1/status", b"online", retained=True)

    def test_client_gets_only_the_retained_messages_that_it_subscribed_to(self, any_broker: Address):
        with Client(any_broker, "other", protocol=V311) as other:
            other.subscribe("millrace/device/+/status")
            other.publish("millrace/device/d1/status", b"online", retain=True)
            with Client(any_broker, "gateway", protocol=V311) as gateway:
                gateway.subscribe("millrace/device/+/frame/#")
                other.publish("millrace/device/d1/frame/top", b"picture")
                assert gateway.next().topic == "millrace/device/d1/frame/top"

    def test_will_is_spoken_and_kept_when_a_client_is_lost(self, any_broker: Address):
        with Client(any_broker, "watcher", protocol=V311) as watcher:
            watcher.subscribe("millrace/#")
            with Client(any_broker, "d1", protocol=V311, will="millrace/device/d1/status") as d1:
                d1.cut()
            assert watcher.next() == Message("millrace/device/d1/status", b"lost", retained=False)
        with Client(any_broker, "late", protocol=V311) as late:
            late.subscribe("millrace/#")
            assert late.next() == Message("millrace/device/d1/status", b"lost", retained=True)

    def test_will_is_not_spoken_after_a_good_bye(self, any_broker: Address):
        with Client(any_broker, "watcher", protocol=V311) as watcher:
            watcher.subscribe("millrace/#")
            with Client(any_broker, "d1", protocol=V311, will="millrace/device/d1/status"):
                pass
            watcher.publish("millrace/after", b"")
            assert watcher.next().topic == "millrace/after"

    def test_megabyte_arrives_whole(self, any_broker: Address):
        picture = os.urandom(1 << 20)
        with Client(any_broker, "c", protocol=V311) as client:
            client.subscribe("millrace/#")
            client.publish("millrace/device/d1/frame/top", picture)
            assert client.next().payload == picture

    def test_seconds_worth_of_frames_arrives_in_order(self, any_broker: Address):
        frames = [bytes([number]) * 50_000 for number in range(60)]
        with (
            Client(any_broker, "gateway", protocol=V311) as gateway,
            Client(any_broker, "d1", protocol=V311) as d1,
        ):
            gateway.subscribe("millrace/device/+/frame/#")
            for frame in frames:
                d1.paho.publish("millrace/device/d1/frame/top", frame, 1)
            assert [gateway.next().payload for _ in frames] == frames


class TestEmbedded:
    def test_clients_that_come_together_all_get_what_they_asked_for(self, embedded_broker: EmbeddedBroker):
        with ExitStack() as stack:
            first = stack.enter_context(Client(embedded_broker.address, "first", protocol=V311))
            first.subscribe("millrace/device/+/status")
            for number in range(20):
                first.publish(f"millrace/device/d{number}/status", b"online", retain=True)
            crowd = [Client(embedded_broker.address, f"c{number}", protocol=V311) for number in range(15)]
            for client in crowd:
                stack.enter_context(client)
                client.paho.subscribe([(f"millrace/{client.client_id}/{level}", 1) for level in range(5)])
            for client in crowd:
                assert client.answers.get(timeout=WAIT_S) == "subscribed"
        assert embedded_broker.stop() == 0
        assert not [line for line in embedded_broker.log if "Traceback" in line or "dictionary changed" in line]

    def test_other_machines_cannot_reach_it(self):
        done = broker_command("embedded", "--host", "0.0.0.0", "--port", free_port(), status=78)
        assert "listens on 127.0.0.1 or ::1, not on 0.0.0.0" in done.stderr

    def test_taken_port_is_named(self, embedded_broker: EmbeddedBroker):
        done = broker_command("embedded", "--port", embedded_broker.address.port, status=69)
        assert "Address already in use" in done.stderr
        assert "Traceback" not in done.stderr


def forge(broker: GuardedBroker, account: str, topic: str, **options: Any) -> str:
    """Return the answer to one publish; on a connection of its own, since Mosquitto 2.0.11 ends it on a refusal."""
    with broker.client(account, **options) as client:
        return client.publish(topic, b"forged")


def broker_command(*arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `millrace broker …` as a person does and check its exit status."""
    done = subprocess.run(
        [sys.executable, "-m", "millrace", "broker", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == status, done.stderr
    return done
