"""`millrace status`: who is on the floor and how they are, from what the broker retains."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from pydantic import BaseModel, ConfigDict

from millrace import floor, inbox, mqtt, topics
from millrace.cli import Unavailable
from millrace.settings import BrokerSettings, load

CONNECT_TIMEOUT_S = 4.0
QUIET_S = 0.5
GATHER_MAX_S = 5.0
POLL_S = 0.1
REFRESH_S = 1.0


class _FloorSettings(BaseModel):
    """What an agent's or a gateway's file says of the floor; the rest of the file is not looked at."""

    model_config = ConfigDict(extra="ignore")

    prefix: str = topics.DEFAULT_PREFIX
    broker: BrokerSettings = BrokerSettings()


@click.command("status")
@click.option("--host", help="The broker's host.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65535), help="The broker's port.  [default: 1883]")
@click.option("--username", help="A viewer's account at the broker.")
@click.option(
    "--password-file", type=click.Path(dir_okay=False, path_type=Path), help="File (mode 0600) with its password."
)
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="An agent's or gateway's settings: its broker and prefix are taken, not its account.",
)
@click.option("--prefix", help="First levels of every topic.  [default: millrace]")
@click.option("--watch", is_flag=True, help="Go on showing what changes, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON object, with --watch one a line.")
def command(
    host: str | None,
    port: int | None,
    username: str | None,
    password_file: Path | None,
    config: Path | None,
    prefix: str | None,
    watch: bool,
    as_json: bool,
) -> None:
    """Show gateways and devices: state, what they hold, what they refuse.

    It reads what the broker retains, so it shows the last word of those who are away too. Exit 69: no broker there.
    """
    loaded = load(config, _FloorSettings) if config else _FloorSettings()
    if loaded.broker.username and not username:
        raise click.UsageError(
            f"{config} names the account {loaded.broker.username!r}; whoever uses it throws the program off that does."
            " Give a viewer's account: --username and --password-file."
        )
    given = {"host": host, "port": port, "username": username, "password_file": password_file}
    asked = {name: value for name, value in given.items() if value is not None}
    settings = loaded.broker.model_copy(
        update={"username": None, "password_file": None, "connect_timeout_s": CONNECT_TIMEOUT_S, **asked}
    )
    on_floor = floor.Floor(prefix or loaded.prefix)
    with _viewer(settings, on_floor.prefix) as viewer:
        try:
            _listen(viewer, on_floor, watch=watch, as_json=as_json)
        except KeyboardInterrupt:
            click.echo("")


@contextmanager
def _viewer(settings: BrokerSettings, prefix: str) -> Iterator[mqtt.Connection]:
    """Yield a connection that stands; Unavailable or ClickException if none can be had within some seconds."""
    place = f"{settings.host}:{settings.port}"
    settings.password()
    try:
        protocol = mqtt.probe(settings)
    except (OSError, mqtt.BrokerUnreachable) as error:
        raise Unavailable(
            f"no broker at {place}: {error}; is it running, and does it listen on that address?"
        ) from None
    viewer = mqtt.Connection(
        settings.model_copy(update={"protocol": protocol}),
        f"millrace-status-{secrets.token_hex(4)}",
        None,
        [topics.subscription(prefix, kind) for kind in floor.KINDS],
        persistent=False,
        max_payload_bytes=1 << 20,
        inbox=inbox.Inbox(),
    )
    thread = threading.Thread(target=viewer.run, name="status-mqtt", daemon=True)
    thread.start()
    try:
        arrival = viewer.inbox.get(2 * CONNECT_TIMEOUT_S)
        if arrival is None:
            raise Unavailable(f"the broker at {place} gave no answer")
        if not isinstance(arrival, inbox.Connected):
            raise click.ClickException(f"the broker at {place} did not let us in; check --username and --password-file")
        yield viewer
    finally:
        viewer.interrupt()
        thread.join(5)


def _listen(viewer: mqtt.Connection, on_floor: floor.Floor, *, watch: bool, as_json: bool) -> None:
    """Show the floor once all that is retained is here, then go on if a person watches."""
    _gather(viewer, on_floor)
    _show(viewer, on_floor, watch=watch, as_json=as_json)
    shown_s, connected, news = time.monotonic(), True, False
    while watch:
        news = _hear(viewer, on_floor, POLL_S) or news or connected != viewer.connected
        connected = viewer.connected
        if time.monotonic() - shown_s >= REFRESH_S and (news or not as_json):
            _show(viewer, on_floor, watch=watch, as_json=as_json)
            shown_s, news = time.monotonic(), False


def _gather(viewer: mqtt.Connection, on_floor: floor.Floor) -> None:
    # The broker sends what it retains at once after a subscription, and does not say when that was all.
    begun_s = heard_s = time.monotonic()
    while time.monotonic() - heard_s < QUIET_S and time.monotonic() - begun_s < GATHER_MAX_S:
        if _hear(viewer, on_floor, POLL_S):
            heard_s = time.monotonic()


def _hear(viewer: mqtt.Connection, on_floor: floor.Floor, timeout_s: float) -> bool:
    arrival = viewer.inbox.get(timeout_s)
    if not isinstance(arrival, inbox.Delivery):
        return False
    arrival.ack()
    return on_floor.hear(arrival.topic, arrival.payload)


def _show(viewer: mqtt.Connection, on_floor: floor.Floor, *, watch: bool, as_json: bool) -> None:
    protocol = viewer.protocol or "unknown"
    now_ns = time.time_ns()
    if as_json:
        value = {"connected": viewer.connected, **on_floor.as_json(protocol, now_ns)}
        click.echo(json.dumps(value, ensure_ascii=False, indent=None if watch else 2))
        return
    if watch:
        click.clear()
    lost = "" if viewer.connected else "; THE CONNECTION IS LOST, what follows is old"
    click.echo(f"connected to the broker with MQTT {protocol}, prefix {on_floor.prefix}{lost}\n")
    click.echo("\n".join(floor.lines(on_floor, now_ns)))
