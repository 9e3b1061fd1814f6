"""The command `millrace`: every program and tool behind one word, each imported only when it is called."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import click

from millrace import __version__, heap
from millrace.blobs import StorageFailed
from millrace.database import Damaged, Locked, NewerSchema
from millrace.listening import AddressTaken
from millrace.settings import ConfigError

EXIT_FAILED, EXIT_UNAVAILABLE, EXIT_TRY_LATER, EXIT_CONFIG = 1, 69, 75, 78

# Where each subcommand lives. The package named first in a module path is imported on call, never before.
COMMANDS = {
    "agent": ("device_agent.app", "Run a device: sources, gate, spool, publish."),
    "gateway": ("edge_gateway.app", "Run the gateway: receive, infer, store, answer."),
    "sync": ("cloud_sync.app", "Run the sync worker: drain what is stored to the cloud."),
    "cloud": ("cloud_sync.reference_cloud.app", "Run the reference cloud: events, audit."),
    "broker": ("broker_config.app", "Set up Mosquitto, or run the embedded broker."),
    "demo": ("millrace.demo.app", "Run the whole line on this machine and cut the cloud off."),
    "chaos": ("millrace.chaos.app", "Kill, stop and cut a private line on this machine, and count what is lost."),
    "bench": ("edge_gateway.bench.command", "Measure this machine: the limit, the gateway beside it, what to change."),
    "config": ("millrace.config_command", "Check, show and explain settings files."),
    "status": ("millrace.status_command", "Show who is on the floor and how they are."),
    "queue": ("cloud_sync.queue_command", "Show what waits for the cloud; hold it back, send it again."),
    "audit": ("cloud_sync.audit_command", "Compare devices, gateway and cloud, and name every gap."),
    "query": ("edge_gateway.query_command", "Ask a gateway's database in SQL, read-only."),
    "engines": ("edge_gateway.engines_command", "Show what runs models here, and how fast."),
    "model": ("edge_gateway.model_command", "Show which models serve; swap one for another version."),
    "predict": ("edge_gateway.predict_command", "Ask a gateway about one picture."),
}
_EXTRA = {
    "agent": "camera",
    "gateway": "gateway",
    "bench": "gateway",
    "query": "gateway",
    "engines": "gateway",
    "model": "gateway",
    "queue": "sync",
    "audit": "sync",
    "sync": "sync",
    "broker": "broker",
    "cloud": "cloud",
}


class Unavailable(click.ClickException):
    """Somebody or something that the command needs is not there. Exit 69."""

    exit_code = EXIT_UNAVAILABLE


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = COMMANDS[cmd_name][0]
        try:
            command: click.Command = importlib.import_module(module).command
        except ModuleNotFoundError as error:
            extra = _EXTRA.get(cmd_name, "demo")
            raise click.ClickException(
                f"`millrace {cmd_name}` needs the package {error.name!r};"
                f" run in a checkout of Millrace: pip install '.[{extra}]' (or name its wheel instead of '.')"
            ) from None
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="millrace")
def cli() -> None:
    """Vision and sensor inference for factory floors that are often offline.

    Agents publish frames and readings to a broker on the floor; the gateway infers, stores and answers there; the sync
    worker drains to the cloud whenever there is a link. Nothing that was admitted is lost silently.

    \b
    Try it:                millrace demo
    Watch the floor:       mosquitto_sub -v -t 'millrace/device/+/result/#'
    Check a settings file: millrace config check agent.yaml
    Shell completion:      eval "$(_MILLRACE_COMPLETE=bash_source millrace)"   (zsh_source, fish_source)

    Exit codes: 0 done, 1 failed, 2 usage, 69 unavailable, 75 try later, 78 bad configuration.
    """  # noqa: D301  (\b is click's mark for lines that keep their breaks)


def config_option(function: Any) -> Any:
    """Add `--config FILE` as every program has it."""
    return click.option(
        "--config",
        "config",
        required=True,
        type=click.Path(dir_okay=False, path_type=Path),
        help="YAML settings of this program; see `millrace config explain`.",
    )(function)


def state_dir_option(function: Any) -> Any:
    """Add `--state-dir FOLDER`, the gateway's, for commands that look into it."""
    return click.option(
        "--state-dir",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        default=Path("/var/lib/millrace"),
        show_default=True,
        help="The gateway's state_dir.",
    )(function)


def become_owner(path: Path, command: str) -> None:
    """Go on as a database's owner: another user would leave files beside it that lock its writer out.

    Errors: ConfigError where it is not there, ClickException where only the owner may.
    """
    try:
        owner = path.stat()
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}; give --state-dir"]) from None
    if owner.st_uid == os.geteuid():
        return
    if os.geteuid() != 0:
        raise click.ClickException(
            f"{path} belongs to another user; run: sudo -u '#{owner.st_uid}' millrace {command} …"
        )
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)


def main() -> None:
    """Run the command and turn the errors that have a meaning into their exit codes."""
    heap.share()
    try:
        cli(standalone_mode=True)
    except ConfigError as error:
        click.echo("\n".join(error.problems), err=True)
        sys.exit(EXIT_CONFIG)
    except NewerSchema as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_CONFIG)
    except Damaged as error:
        click.echo(f"error: {error}; the next start sets it aside and carries over what can be read", err=True)
        sys.exit(EXIT_FAILED)
    except AddressTaken as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_UNAVAILABLE)
    except (Locked, StorageFailed) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_TRY_LATER)
