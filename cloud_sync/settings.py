"""A sync worker's settings: whose database it drains, to which cloud, and how hard it tries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from millrace.settings import Bytes, LogSettings, Seconds, Section, check_name


def _check_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("must be an address such as https://cloud.example.com")
    if parts.username or parts.password:
        raise ValueError("must not hold a password: use token_file")
    return value.rstrip("/")


class CloudSettings(Section):
    """The far side."""

    url: Annotated[str, AfterValidator(_check_url)] = Field(description="Address of the cloud's API, without /v1.")
    token_file: Path = Field(description="File (mode 0600) with this gateway's token at the cloud; read again on 401.")
    ca_file: Path | None = Field(None, description="CA certificates of a private cloud; none for the system's own.")
    connect_timeout_s: Seconds = Field(10.0, description="Seconds to wait for a connection.")
    answer_timeout_s: Seconds = Field(30.0, description="Seconds of silence after which a request is given up.")
    request_deadline_s: Seconds = Field(
        60.0,
        description="Seconds after which a request is given up whatever comes; a batch is made to fit into a quarter.",
    )
    uploads: Annotated[int, Field(ge=1, le=16)] = Field(
        4, description="Pictures that go up at once, each over a kept connection of its own, 1 to 16."
    )


class BatchSettings(Section):
    """How much goes in one request."""

    max_rows: Annotated[int, Field(ge=1, le=10_000)] = Field(256, description="Most rows in one request.")
    max_bytes: Bytes = Field(1 << 20, description="Most bytes of rows in one request, before compression.")
    live_share: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.2, description="Share of requests that carry the newest rows while a backlog drains, 0 to 0.5."
    )


class BurySettings(Section):
    """When rows that the cloud refuses are given up; beyond these bounds none is, and their lane waits."""

    max_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.05, description="Greatest share of a lane's last rows that may be buried, 0 to 1."
    )
    min_rows: Annotated[int, Field(ge=1)] = Field(10, description="Rows that may be buried whatever their share.")
    window_rows: Annotated[int, Field(ge=1)] = Field(1000, description="How many of a lane's last rows are looked at.")


class RetrySettings(Section):
    """What happens while the link is down."""

    first_s: Seconds = Field(1.0, description="Bound of the first random pause after a failure; it doubles each time.")
    max_s: Seconds = Field(300.0, description="Greatest bound of that pause.")
    retry_after_max_s: Seconds = Field(900.0, description="Longest pause in seconds that the cloud may ask for.")
    breaker_failures: Annotated[int, Field(ge=1)] = Field(
        5, description="Failures in a row after which a try carries one row, until one is committed."
    )
    stuck_after_s: Seconds = Field(
        300.0, description="Seconds with a backlog, a link that is up and nothing settled, before all is begun anew."
    )


class SyncSettings(Section):
    """Everything of a sync worker."""

    gateway: Annotated[str, AfterValidator(check_name)] = Field(description="Name of the gateway whose rows it drains.")
    state_dir: Path = Field(description="The gateway's state_dir; sync.db is written beside gateway.db.")
    cloud: CloudSettings = Field(description="The far side.")
    batch: BatchSettings = Field(BatchSettings(), description="How much goes in one request.")
    bury: BurySettings = Field(BurySettings(), description="When rows that the cloud refuses are given up.")
    retry: RetrySettings = Field(RetrySettings(), description="What happens while the link is down.")
    poll_s: Seconds = Field(0.1, description="Seconds between two looks for new rows; a look costs microseconds.")
    log: LogSettings = Field(LogSettings(), description="What is logged.")
