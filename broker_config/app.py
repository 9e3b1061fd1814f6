"""`millrace broker …`: make accounts, render Mosquitto's files, run Mosquitto, or run the embedded broker."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from broker_config import accounts, mosquitto
from broker_config.address import PortTaken, require_free
from broker_config.settings import BrokerConfig
from millrace import service, settings
from millrace.cli import Unavailable, config_option
from millrace.clock import SystemClock

INSTALLED_AT = Path("/etc/mosquitto/millrace")


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except (accounts.ProgramUnusable, PortTaken) as error:
        raise Unavailable(str(error)) from None


@click.group("broker")
def command() -> None:
    """Set up and run the broker on the floor."""


@command.command("accounts")
@config_option
def make_accounts(config: Path) -> None:
    """Make a secret for each account that has none; no secret is ever printed."""
    loaded = settings.load(config, BrokerConfig)
    made = accounts.make_secrets(loaded)
    for path in made:
        click.echo(f"made {path}")
    click.echo(f"{len(loaded.accounts.names)} accounts, {len(made)} new; give each device its own file only")


@command.command()
@config_option
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory to write to; the files are readable by their owner only.",
)
@_unavailable()
def render(config: Path, out: Path) -> None:
    """Write mosquitto.conf, the ACL and the hashed passwords, and say how to install them."""
    loaded = settings.load(config, BrokerConfig)
    mosquitto.write_files(loaded, out, home=INSTALLED_AT)
    click.echo(f"Wrote {out}. To install (Debian):")
    if not loaded.anonymous:
        click.echo(f"  sudo install -d -m 0750 -g mosquitto {INSTALLED_AT}")
        click.echo(
            f"  sudo install -m 0640 -g mosquitto {out / mosquitto.ACL} {out / mosquitto.PASSWORDS} {INSTALLED_AT}/"
        )
    click.echo(f"  sudo install -m 0644 {out / mosquitto.CONF} /etc/mosquitto/conf.d/millrace.conf")
    click.echo("  sudo systemctl restart mosquitto")


@command.command("mosquitto")
@config_option
@_unavailable()
def run_mosquitto(config: Path) -> None:
    """Run Mosquitto in the foreground with files rendered into state_dir; it takes this process's place."""
    loaded = settings.load(config, BrokerConfig)
    words = mosquitto.prepare(loaded, loaded.state_dir)
    require_free(loaded.host, loaded.port)
    os.chdir(loaded.state_dir)
    os.execve(words[0], words, mosquitto.environment(os.environ))  # noqa: S606  (Mosquitto itself gets our signals and gives our exit status)


@command.command("embedded")
@click.option("--host", default="127.0.0.1", show_default=True, help="Loopback address to listen on.")
@click.option("--port", default=1883, show_default=True, type=click.IntRange(1, 65535), help="TCP port to listen on.")
@_unavailable()
def run_embedded(host: str, port: int) -> None:
    """Run the embedded broker (amqtt): anonymous, this machine only, for demos and tests."""
    try:
        from broker_config import embedded
    except ModuleNotFoundError as error:
        raise Unavailable(
            f"{error.name} is not installed; run in a checkout of Millrace: pip install '.[broker]'"
            " (or name its wheel instead of '.')"
        ) from None
    service.set_up_logging("info")
    stop = threading.Event()
    service.run([service.Actor("broker", lambda: embedded.run(host, port, stop), stop.set)], SystemClock())
