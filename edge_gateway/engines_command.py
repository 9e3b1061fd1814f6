"""`millrace engines`: what runs models on this machine, and how fast each way runs the bundles that are given."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from edge_gateway.bundle import Bundle, load_bundle
from edge_gateway.engines.choice import EDGETPU_LIBRARY, Machine, candidates, choose
from edge_gateway.engines.engine import EngineFailed
from edge_gateway.engines.isolated import Deadlines
from edge_gateway.engines.machine import Runs, look, runtimes, with_edgetpus
from edge_gateway.engines.trial import trials
from edge_gateway.settings import AcceleratorSettings, DelegateSettings, ModelSettings
from millrace import words
from millrace.cli import EXIT_FAILED
from millrace.settings import ConfigError


@click.command("engines")
@click.argument("folders", metavar="[BUNDLE]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--delegate",
    "delegates",
    metavar="LIBRARY[,KEY=VALUE]...",
    multiple=True,
    help="A TensorFlow Lite delegate to try too; may stand several times.",
)
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 64), help="Threads of one inference.")
@click.option("--seconds", default=1.0, show_default=True, type=click.FloatRange(0), help="How long each way is timed.")
@click.option("--json", "as_json", is_flag=True, help="The same for programs.")
def command(folders: tuple[Path, ...], delegates: tuple[str, ...], threads: int, seconds: float, as_json: bool) -> None:
    """Say which engines work here, or with BUNDLEs, on what each runs, how fast, and what the gateway would choose.

    An accelerator is tried in a process of its own and has to give what the CPU gives. Exit 1: a bundle runs on nothing
    here.
    """
    if not folders:
        found = [*runtimes(), _edgetpu(with_edgetpus())]
        click.echo(_json([_facts(one) for one in found]) if as_json else "\n".join(_installed(found)))
        return
    named = [_delegate(text) for text in delegates]
    shown = [_tried(folder, named, threads, seconds) for folder in folders]
    click.echo(_json(shown) if as_json else "\n\n".join("\n".join(_lines(one)) for one in shown))
    if not all(any(way["works"] for way in one["ways"]) for one in shown):
        sys.exit(EXIT_FAILED)


def _tried(folder: Path, delegates: list[DelegateSettings], threads: int, seconds: float) -> dict[str, Any]:
    """Return a bundle's name, what is chosen for it and why, and how each way to run it went."""
    bundle: Bundle = load_bundle(folder)
    wanted = ModelSettings(bundle=folder, threads=threads)
    try:
        machine = look(bundle.manifest)
        plan = choose(wanted, bundle.manifest, machine)
        ways = candidates(wanted.model_copy(update={"delegates": delegates}), bundle.manifest, machine)
    except EngineFailed as error:
        raise ConfigError([str(error)]) from None
    care = AcceleratorSettings()
    done = trials(bundle, ways, Deadlines(care.open_s, care.deadline_s), care.tolerance_ratio, seconds)
    return {
        "bundle": bundle.name,
        "reason": plan.reason,
        "ways": [
            {
                "engine": str(one.choice),
                "works": one.median_ms is not None,
                "chosen": one.choice in plan.choices,
                "median_ms": one.median_ms,
                "said": one.said,
            }
            for one in done
        ],
    }


def _delegate(text: str) -> DelegateSettings:
    library, *options = text.split(",")
    pairs = [option.partition("=") for option in options]
    if not library or any(not (key and sign) for key, sign, _ in pairs):
        raise click.BadParameter(f"{text!r}: give LIBRARY, or LIBRARY,KEY=VALUE", param_hint="--delegate")
    full = str(Path(library).absolute()) if "/" in library else library
    return DelegateSettings(library=full, options={key: value for key, _, value in pairs})


def _edgetpu(machine: Machine) -> Runs:
    lacking = [] if machine.edgetpu_library else [f"{EDGETPU_LIBRARY} is not installed"]
    lacking += [] if machine.edgetpus else ["no Edge TPU is plugged in"]
    return Runs("edgetpu", not lacking, "; ".join(lacking) or ", ".join(machine.edgetpus))


def _facts(one: Runs) -> dict[str, Any]:
    return {"engine": one.engine, "works": one.works, "said": one.said}


def _installed(found: list[Runs]) -> Iterator[str]:
    rows = [(one.engine, "yes" if one.works else "no", words.text(one.said)) for one in found]
    return words.table(("engine", "works", "what"), rows)


def _lines(shown: dict[str, Any]) -> Iterator[str]:
    yield f"{shown['bundle']}: {shown['reason']}"
    rows = [
        (
            words.text(way["engine"]),
            "yes" if way["works"] else "no",
            f"{way['median_ms']:.3g} ms" if way["works"] else "-",
            "; ".join(filter(None, ["chosen" if way["chosen"] else "", words.text(way["said"])])),
        )
        for way in shown["ways"]
    ]
    yield from words.table(("engine", "works", "median", ""), rows)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
