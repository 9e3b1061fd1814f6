"""The reference cloud's settings: where it listens, where it keeps things, its limits, and who may come in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from millrace.settings import LogSettings, Seconds, Section, check_name

Name = Annotated[str, AfterValidator(check_name)]


class GatewayCredential(Section):
    """A gateway that may write to its site and read it."""

    site: Name = Field(description="Site that all this gateway sends is stamped with.")
    gateway: Name = Field(description="The gateway's name; it may send events of no other gateway.")
    token_file: Path = Field(description="File (mode 0600) with the gateway's bearer token.")


class ReaderCredential(Section):
    """A program that may read one site."""

    site: Name = Field(description="Site that may be read.")
    token_file: Path = Field(description="File (mode 0600) with the reader's bearer token.")


class CloudSettings(Section):
    """Settings of `millrace cloud`."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8480, description="TCP port to listen on; 0 takes a free one.")
    state_dir: Path = Field(description="Folder of the ledger and the pictures; one process uses it at a time.")
    max_body_bytes: Annotated[int, Field(ge=1024)] = Field(
        8 << 20, description="Largest batch in bytes, as sent and as decompressed; also about the most in one answer."
    )
    max_blob_bytes: Annotated[int, Field(ge=1024)] = Field(16 << 20, description="Largest picture in bytes.")
    max_connections: Annotated[int, Field(ge=1)] = Field(
        64, description="Connections served at a time; further ones are answered 503 and may try again."
    )
    silence_s: Seconds = Field(60.0, description="Seconds without a byte of a body after which its sender is given up.")
    gateways: list[GatewayCredential] = Field([], description="Gateways that may write.")
    readers: list[ReaderCredential] = Field([], description="Programs that may read.")
    log: LogSettings = Field(LogSettings(), description="What is logged.")
