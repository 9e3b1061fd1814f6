"""`millrace config …`: check settings files, show what is in force, and explain every key."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import yaml
from pydantic import BaseModel, SecretStr

from millrace import programs, reference
from millrace.cli import EXIT_CONFIG
from millrace.settings import ConfigError, load

FILE = click.Path(dir_okay=False, path_type=Path)
PROGRAM = click.Choice(list(programs.MODELS))


@click.group("config")
def command() -> None:
    """Check, show and explain settings files."""


@command.command(short_help="Say of files that they are good, or all that is wrong.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=FILE)
@click.option("--program", type=PROGRAM, help="Whose settings they are; left out, it is seen from the file's keys.")
def check(files: tuple[Path, ...], program: str | None) -> None:
    """Say of each FILE that it is good, or all that is wrong with it, line by line (exit 78)."""
    bad = False
    for path in files:
        try:
            taken = program or programs.program_of(path)
        except ConfigError as error:
            click.echo("\n".join(error.problems), err=True)
            bad = True
            continue
        try:
            load(path, programs.model_of(taken))
        except ConfigError as error:
            click.echo("\n".join(error.problems), err=True)
            count = len(error.problems)
            click.echo(f"{path}: {count} problem{'s' if count > 1 else ''} (read as settings of {taken})", err=True)
            bad = True
        else:
            click.echo(f"{path}: ok ({taken})")
    if bad:
        sys.exit(EXIT_CONFIG)


@command.command(short_help="Print the settings in force, each marked file or default.")
@click.argument("path", metavar="FILE", type=FILE)
@click.option("--program", type=PROGRAM, help="Whose settings they are; left out, it is seen from the file's keys.")
def show(path: Path, program: str | None) -> None:
    """Print the settings in force as YAML: what FILE says and the defaults of all else, each marked. No secrets."""
    taken = program or programs.program_of(path)
    settings = load(path, programs.model_of(taken))
    click.echo(f"# millrace {taken}: {path}")
    click.echo("\n".join(_section_lines(settings, "")))


@command.command(short_help="Say what a key is: type, unit, default.")
@click.argument("key", required=False)
@click.option("--program", type=PROGRAM, help="Only this program's keys.")
def explain(key: str | None, program: str | None) -> None:
    """Say what KEY is, its type, unit and default; without KEY, list all keys.

    KEY is a path such as broker.port, channels.top.gate or models[0].threshold; a section shows all that is in it.
    """
    keys = {name: reference.keys_of(programs.model_of(name)) for name in ([program] if program else programs.MODELS)}
    if key is None:
        for name, known in keys.items():
            click.echo(f"{name}:")
            click.echo("\n".join(_brief(known)))
        return
    found = {name: reference.find(known, key) for name, known in keys.items()}
    if not any(found.values()):
        paths = sorted({one.path for known in keys.values() for one in known})
        near = difflib.get_close_matches(key, paths, n=3) or [path for path in paths if path.endswith(f".{key}")][:3]
        hint = f"; did you mean {' or '.join(near)}?" if near else "; without KEY all are listed"
        raise click.BadParameter(f"no key {key!r}{hint}", param_hint="KEY")
    for name, known in found.items():
        for one in known:
            click.echo("\n".join(_full(name, one)))


@command.command(short_help="Print the JSON Schema for editors.")
@click.option("--program", type=PROGRAM, required=True, help="Whose settings.")
def schema(program: str) -> None:
    """Print the JSON Schema for editors.

    \b
    millrace config schema --program agent > agent.schema.json
    and as first line of agent.yaml:  # yaml-language-server: $schema=./agent.schema.json
    """  # noqa: D301  (\b is click's mark for lines that keep their breaks)
    click.echo(json.dumps(reference.editor_schema(programs.model_of(program)), indent=2, ensure_ascii=False))


@command.command(short_help="Print docs/config.md.")
def docs() -> None:
    """Print docs/config.md: every key of every program."""
    click.echo(reference.markdown({name: programs.model_of(name) for name in programs.MODELS}), nl=False)


def _brief(keys: list[reference.Key]) -> Iterator[str]:
    for key in keys:
        kind = f" ({key.when})" if key.when else ""
        value = "needed" if key.default is None else key.default
        yield f"  {key.path}{kind}{f': {value}' if value else ''}"


def _full(program: str, key: reference.Key) -> Iterator[str]:
    yield f"{key.path}   [{', '.join(word for word in (program, key.when) if word)}]"
    yield f"  {key.description}"
    facts = [f"type: {key.type.replace('`', '')}"]
    if key.unit:
        facts.append(f"unit: {key.unit}")
    if key.default != "":
        facts.append("needed" if key.default is None else f"default: {key.default}")
    yield f"  {'; '.join(facts)}"


def _section_lines(section: BaseModel, indent: str) -> Iterator[str]:
    for name in type(section).model_fields:
        origin = "file" if name in section.model_fields_set else "default"
        yield from _lines(f"{indent}{name}:", getattr(section, name), origin, indent)


def _lines(head: str, value: Any, origin: str, indent: str) -> Iterator[str]:
    """Yield a key and its value; what is a section, or holds sections, goes on below."""
    if isinstance(value, BaseModel):
        yield head
        yield from _section_lines(value, indent + "  ")
    elif isinstance(value, dict) and value:
        yield head
        for name, member in value.items():
            yield from _lines(f"{indent}  {_yaml(name)}:", member, origin, indent + "  ")
    elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
        yield head
        for member in value:
            first, *rest = _section_lines(member, indent + "    ")
            yield f"{indent}  - {first.strip()}"
            yield from rest
    else:
        yield f"{head} {_yaml(value)}  # {origin}"


def _yaml(value: Any) -> str:
    """Return a plain value as YAML on one line; a secret is not shown."""
    if isinstance(value, SecretStr):
        return "(not shown)"
    plain = str(value) if isinstance(value, Path) else value
    return yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=1 << 20).split("\n...")[0].strip()
