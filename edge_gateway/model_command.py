"""`millrace model`: which models serve, and another version put in a running gateway's place of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from millrace import control
from millrace.cli import Unavailable, become_owner, state_dir_option
from millrace.words import size, table, text

SWAP_TIMEOUT_S = 300.0


@click.group("model")
def command() -> None:
    """Show which models serve; put another version in the place of one while frames come in.

    Run it on the gateway's machine, as the gateway's user or root.
    """


@command.command("list")
@state_dir_option
def show(state_dir: Path) -> None:
    """Show each binding: its name, the model that serves it, its channels, memory and folder."""
    models = _order(state_dir, {"do": "models"})["models"]
    rows = [
        [
            text(model["binding"]),
            text(model["model"]),
            text(", ".join(model["channels"])),
            size(model["memory_bytes"]),
            text(model["folder"]),
        ]
        for model in models
    ]
    click.echo("\n".join(table(["binding", "model", "channels", "memory", "folder"], rows)))


@command.command()
@click.argument("binding")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path))
@state_dir_option
def swap(binding: str, folder: Path, state_dir: Path) -> None:
    """Have the bundle in FOLDER serve BINDING from the next frame on, over restarts too.

    It is tried, loaded and checked first, while the old one serves. Exit 1 if it is refused, with the reason.
    """
    answer = _order(state_dir, {"do": "swap", "binding": binding, "folder": str(folder)})
    click.echo(f"{text(answer['model'])} serves {binding}; before it {text(answer['before'])}")


def _order(state_dir: Path, order: Mapping[str, object]) -> dict[str, Any]:
    become_owner(state_dir, "model")
    try:
        return control.ask(state_dir, control.GATEWAY, order, SWAP_TIMEOUT_S)
    except control.NobodyThere as error:
        raise Unavailable(str(error)) from None
    except control.Refused as error:
        raise click.ClickException(str(error)) from None
