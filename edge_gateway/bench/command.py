"""`millrace bench`: what this machine could do, what the gateway does on it, and what to change; no network needed."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click

from edge_gateway.bench.advice import Found, advise
from edge_gateway.bench.load import NoResult
from edge_gateway.bench.private_line import best_broker
from edge_gateway.bench.trial import Plan, run
from edge_gateway.engines.engine import EngineFailed
from millrace.demo.stage import BrokerKind, StageFailed, shipped_bundle
from millrace.settings import ConfigError
from millrace.words import table


def _size(_context: click.Context, _option: click.Parameter, value: str) -> tuple[int, int]:
    width, _, height = value.partition("x")
    if not (width.isdecimal() and height.isdecimal() and 32 <= min(int(width), int(height)) <= 8192):
        raise click.BadParameter(f"{value!r} is no size such as 640x480")
    return int(width), int(height)


@click.command("bench")
@click.option(
    "--model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Bundle folder; the shipped `parts` without it.",
)
@click.option("--size", callback=_size, default="640x480", show_default=True, help="Size of the pictures in pixels.")
@click.option(
    "--broker",
    type=click.Choice(["auto", "mosquitto", "embedded"]),
    default="auto",
    show_default=True,
    help="A private one: Mosquitto where it is installed, else the embedded broker.",
)
@click.option(
    "--seconds", type=click.FloatRange(2, 3600), default=45.0, show_default=True, help="How long it measures, about."
)
@click.option(
    "--dir",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("/var/tmp"),  # noqa: S108  (a folder of its own is made in it)
    show_default=True,
    help="Folder on the disk that is measured; what is written goes again.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as one JSON object and nothing else.")
def command(
    model: Path | None, size: tuple[int, int], broker: str, seconds: float, folder: Path, as_json: bool
) -> None:
    """Measure this machine in about a minute: the limit, the gateway beside it, the ratio, and what to change.

    The limit is decoding a picture and invoking the model, and nothing else. The gateway is the real program with its
    database, at a broker of its own; both are measured by turns, so that whatever else runs here slows both.
    """
    kind: BrokerKind = best_broker() if broker == "auto" else "mosquitto" if broker == "mosquitto" else "embedded"
    plan = Plan(model or shipped_bundle("parts"), kind, size, seconds)
    try:
        with tempfile.TemporaryDirectory(prefix="millrace-bench-", dir=folder) as home:
            found = run(plan, Path(home), _silent if as_json else click.echo)
    except (StageFailed, NoResult) as error:
        raise click.ClickException(str(error)) from None
    except EngineFailed as error:
        raise ConfigError([str(error)]) from None
    click.echo(json.dumps(found.as_json(), indent=2) if as_json else _text(found))


def _text(found: Found) -> str:
    width, height = found.picture_px
    alone_ms = found.decode_ms + found.invoke_ms
    rows = [
        ("decode + invoke alone, all cores", f"{found.limit_per_s:,.0f} frames/s"),
        ("the same on what publisher and broker leave", f"{found.share_per_s:,.0f} frames/s"),
        ("Millrace, each result on the disk", f"{found.ours_per_s:,.0f} frames/s"),
        ("ratio of the last two", f"{found.ratio:.2f}"),
        ("processor time a frame: decode + invoke", f"{found.limit_cpu_ms:.2f} ms"),
        ("processor time a frame: gateway", f"{found.gateway_cpu_ms:.2f} ms"),
        ("a lone frame: decode + invoke", f"{found.decode_ms:.2f} + {found.invoke_ms:.2f} = {alone_ms:.2f} ms"),
        ("a lone frame: published to result received", f"{found.lone_p50_ms:.2f} ms"),
        ("one sync of this disk", f"{found.sync_ms:.2f} ms"),
        ("memory of the gateway", f"{found.resident_mb:.0f} MB"),
    ]
    head = f"{found.model}, pictures of {width}x{height}, {found.broker} broker, {found.cores} cores"
    return "\n".join(
        ["", head, *table(rows[0], rows[1:]), "", "What to change:", *(f"- {line}" for line in advise(found))]
    )


def _silent(_text: str) -> None:
    """Say nothing: a program reads what is printed."""
