"""The example settings: each is taken as it stands, and they fit together as the files of one floor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from broker_config import mosquitto
from broker_config.settings import BrokerConfig
from cloud_sync.reference_cloud.settings import CloudSettings
from cloud_sync.settings import SyncSettings
from device_agent.settings import AgentSettings
from edge_gateway.settings import GatewaySettings
from millrace import programs
from millrace.settings import load

DEPLOY = Path(__file__).parents[2] / "deploy"
EXAMPLES = DEPLOY / "examples"


def example(program: str) -> Any:
    return load(EXAMPLES / f"{program}.yaml", programs.model_of(program))


def test_there_is_one_example_for_each_program() -> None:
    assert {path.stem for path in EXAMPLES.iterdir()} == set(programs.MODELS)


@pytest.mark.parametrize("program", programs.MODELS)
def test_an_example_loads_and_is_seen_to_be_for_its_program(program: str) -> None:
    assert isinstance(example(program), programs.model_of(program))
    assert programs.program_of(EXAMPLES / f"{program}.yaml") == program


@pytest.mark.parametrize("program", ["agent", "gateway"])
def test_what_is_commented_out_in_an_example_is_good_too(program: str, tmp_path: Path) -> None:
    """Lines such as `  # side:` and `  # token_file: …` become settings when a user takes the mark away."""
    text = (EXAMPLES / f"{program}.yaml").read_text(encoding="utf-8")
    opened = [line.replace("# ", "", 1) if _is_setting(line) else line for line in text.splitlines()]
    (tmp_path / "opened.yaml").write_text("\n".join(opened), encoding="utf-8")
    loaded = load(tmp_path / "opened.yaml", programs.model_of(program))
    assert loaded != example(program)


def _is_setting(line: str) -> bool:
    words = line.strip().removeprefix("#").split()
    return line.startswith("  # ") and bool(words) and words[0].endswith(":") and words[0].islower()


def test_the_examples_are_the_files_of_one_floor() -> None:
    agent: AgentSettings = example("agent")
    gateway: GatewaySettings = example("gateway")
    sync: SyncSettings = example("sync")
    cloud: CloudSettings = example("cloud")
    broker: BrokerConfig = example("broker")
    assert agent.prefix == gateway.prefix == broker.prefix
    assert agent.max_payload_bytes == gateway.max_payload_bytes == broker.max_payload_bytes
    assert agent.device == agent.broker.username
    assert agent.device in broker.accounts.devices
    assert gateway.gateway == gateway.broker.username
    assert gateway.gateway in broker.accounts.gateways
    assert (sync.gateway, sync.state_dir) == (gateway.gateway, gateway.state_dir)
    assert sync.gateway in {credential.gateway for credential in cloud.gateways}


@pytest.mark.parametrize("program", ["agent", "gateway", "sync"])
def test_an_examples_secrets_and_folder_are_those_that_its_unit_provides(program: str) -> None:
    unit = (DEPLOY / "systemd" / f"millrace-{program}.service").read_text(encoding="utf-8")
    text = (EXAMPLES / f"{program}.yaml").read_text(encoding="utf-8")
    named = {line.rsplit("/", 1)[1] for line in text.splitlines() if "/run/credentials/" in line}
    given = {line.split("=")[1].split(":")[0] for line in unit.splitlines() if line.startswith("LoadCredential=")}
    assert named == given
    assert f"/run/credentials/millrace-{program}.service/" in text
    folder = next(line.split("=")[1] for line in unit.splitlines() if line.startswith("StateDirectory="))
    assert example(program).state_dir == Path("/var/lib", folder)


def test_debians_mosquitto_gets_the_memory_settings_that_ours_gets() -> None:
    drop_in = (DEPLOY / "systemd" / "mosquitto.service.d" / "millrace.conf").read_text(encoding="utf-8")
    ((name, value),) = mosquitto.environment({}).items()
    assert f"\n[Service]\nEnvironment={name}={value}\n" in drop_in
