"""The broker's settings: where it listens, who has an account, and a number for each thing that could grow."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from broker_config.address import is_loopback
from millrace.settings import Bytes, ProgramSettings, Section, check_name

Name = Annotated[str, AfterValidator(check_name)]


class AccountSettings(Section):
    """Who may connect. A name stands once: it is the account, the name in the topics and the client id."""

    devices: list[Name] = Field([], description="Devices; each writes under its own name only.")
    gateways: list[Name] = Field([], description="Gateways; each answers every device and speaks under its own name.")
    viewers: list[Name] = Field([], description="Read-only accounts, one for each dashboard or person that watches.")

    @property
    def names(self) -> list[str]:
        """Every account's name: devices, then gateways, then viewers."""
        return [*self.devices, *self.gateways, *self.viewers]

    @model_validator(mode="after")
    def _each_name_once(self) -> Self:
        twice = sorted(name for name, count in Counter(self.names).items() if count > 1)
        if twice:
            raise ValueError(f"one name is one account, and {', '.join(twice)} stands twice; rename one of them")
        return self


class BrokerConfig(ProgramSettings):
    """The broker's file. Every limit is per broker unless its description says per client."""

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 listens on every interface.")
    port: Annotated[int, Field(ge=1, le=65535)] = Field(1883, description="TCP port to listen on.")
    anonymous: bool = Field(
        False, description="True lets anyone who reaches the port read and write everything; on loopback only."
    )
    accounts: AccountSettings = Field(AccountSettings(), description="Who may connect.")
    password_dir: Path = Field(
        Path("/etc/millrace/accounts"),
        description="Directory with one file (mode 0600) for each account, holding its secret.",
    )
    state_dir: Path = Field(
        Path("/var/lib/millrace-broker"),
        description="Private directory in which `millrace broker mosquitto` writes the files that it runs with.",
    )
    max_inflight_messages: Annotated[int, Field(ge=1, le=65535)] = Field(
        1000, description="Messages sent to a client and not yet acknowledged by it."
    )
    max_queued_bytes: Bytes = Field(
        64 << 20, description="Bytes kept per client for when it is slow or away; what exceeds them is dropped."
    )
    memory_limit_bytes: Bytes = Field(512 << 20, description="Heap bytes of the broker, all clients together.")
    max_connections: Annotated[int, Field(ge=1, le=60000)] = Field(500, description="Clients connected at one time.")
    persistence: bool = Field(
        False,
        description="True writes the broker's queues to disk; not needed, since devices keep what is not receipted.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.anonymous and self.accounts.names:
            raise ValueError("anonymous: true makes accounts meaningless; remove one of the two")
        if self.anonymous and not is_loopback(self.host):
            raise ValueError(f"an anonymous broker listens on loopback only, not on {self.host}; make accounts instead")
        if self.max_queued_bytes + self.max_payload_bytes > self.memory_limit_bytes:
            raise ValueError("memory_limit_bytes must be at least max_queued_bytes + max_payload_bytes")
        return self
