"""`millrace chaos`: a private line on this machine and its card, under every safe fault, and what it lost."""

from __future__ import annotations

import json
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from millrace.chaos.kills import chosen_seed
from millrace.chaos.line import Line
from millrace.chaos.mischief import WEIGHTS, Fault, Mischief
from millrace.chaos.plan import Durability, Plan, has_mosquitto
from millrace.chaos.reckoning import Outcome, reckon
from millrace.demo.stage import BrokerKind, StageFailed


@click.command("chaos")
@click.option(
    "--minutes",
    type=click.FloatRange(0.01, 7 * 24 * 60),
    default=5.0,
    show_default=True,
    help="How long faults happen.",
)
@click.option(
    "--broker",
    type=click.Choice(["embedded", "mosquitto"]),
    default="embedded",
    show_default=True,
    help="embedded: amqtt, needs nothing; mosquitto: the one installed here, without persistence.",
)
@click.option(
    "--durability",
    type=click.Choice(["shipped", "power", "process"]),
    default="shipped",
    show_default=True,
    help="Where the devices keep what has no receipt yet. power: on the disk; process: in memory that outlives the "
    "program; shipped: frames in memory and readings on the disk, as devices do it unless told otherwise.",
)
@click.option("--seed", type=click.IntRange(min=1), help="Choose the same faults again; without it by chance.")
@click.option(
    "--dir",
    "folder",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    default=".",
    show_default=True,
    help="On which disk or card: a folder of its own is made there.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as one JSON object and nothing else.")
def command(
    minutes: float, broker: BrokerKind, durability: Durability, seed: int | None, folder: Path, as_json: bool
) -> None:
    """Kill, stop, cut and fill a private line on this machine for a while, and count what is lost.

    Two devices with a camera and a sensor each, 100 readings and 10 frames a second in all; broker, gateway, sync
    worker and cloud. Nothing outside the folder is touched, and no root is needed. Ctrl-C settles the account early.
    Exit 0 only if every promised event is in the cloud exactly once and in order.
    """
    if broker == "mosquitto" and not has_mosquitto():
        raise click.ClickException("mosquitto is not installed here; apt install mosquitto, or --broker embedded")
    seed = seed or chosen_seed()
    home = Path(tempfile.mkdtemp(prefix="millrace-chaos-", dir=folder)).resolve()
    say = _silent if as_json else click.echo
    say(f"seed {seed}; {broker} broker; everything in {home} ({_kind_of_disk(home)})")
    faults: list[Fault] = []
    trouble: str | None = None
    outcome: Outcome | None = None
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Line(home, Plan(broker, durability)) as line:
            mischief = Mischief(line, random.Random(seed), _stamped(say), faults)
            try:
                mischief.go_on_for(minutes * 60)
            except KeyboardInterrupt:
                say("stopped early; settling the account (Ctrl-C again gives up)")
            line.link.set_state("pass")
            outcome = reckon(line)
    except StageFailed as error:
        trouble = str(error)
    except KeyboardInterrupt:
        trouble = "given up before the account was settled"
    verdict = _verdict(seed, broker, faults, outcome, trouble) | {"durability": durability}
    click.echo(json.dumps(verdict)) if as_json else _show(verdict, faults, outcome)
    if verdict["ok"]:
        shutil.rmtree(home)
    else:
        click.echo(f"settings, logs and databases: {home}", err=True)
    sys.exit(0 if verdict["ok"] else 1)


def _verdict(
    seed: int, broker: BrokerKind, faults: Sequence[Fault], outcome: Outcome | None, trouble: str | None
) -> dict[str, Any]:
    waits_s = sorted(fault.recovery_s for fault in faults if fault.recovery_s is not None)
    account = outcome.account if outcome is not None else None
    return {
        "ok": account is not None and account.whole and trouble is None,
        "seed": seed,
        "broker": broker,
        "faults": len(faults),
        "kills": outcome.kills if outcome is not None else None,
        "promised": account.promised if account is not None else None,
        "lost": account.missing if account is not None else None,
        "duplicated": account.doubled if account is not None else None,
        "out_of_order": account.out_of_order if account is not None else None,
        "recovery_p50_s": _quantile(waits_s, 0.50),
        "recovery_p99_s": _quantile(waits_s, 0.99),
        "drain_s": round(outcome.drain_s, 2) if outcome is not None and outcome.drain_s is not None else None,
        "complaints": [*(account.complaints if account is not None else []), *([trouble] if trouble else [])],
    }


def _show(verdict: dict[str, Any], faults: Sequence[Fault], outcome: Outcome | None) -> None:
    click.echo(f"\n{'fault':12}  {'times':>5}  {'mended after: median':>20}  {'longest':>8}")
    for kind in WEIGHTS:
        mine = [fault for fault in faults if fault.kind == kind]
        waits_s = [fault.recovery_s for fault in mine if fault.recovery_s is not None]
        median, longest = (f"{statistics.median(waits_s):.1f} s", f"{max(waits_s):.1f} s") if waits_s else ("", "")
        click.echo(f"{kind:12}  {len(mine):>5}  {median:>20}  {longest:>8}")
    click.echo("")
    for complaint in verdict["complaints"]:
        click.echo(complaint)
    if outcome is not None:
        click.echo(
            f"{verdict['kills']} kills · promised {verdict['promised']} · lost {verdict['lost']} · duplicated"
            f" {verdict['duplicated']} · out of order {verdict['out_of_order']} · refused as repeats by the cloud"
            f" {outcome.duplicates_refused} · mended within {verdict['recovery_p99_s']} s (p99)"
        )
    click.echo(f"{'Kept every promise' if verdict['ok'] else 'NOT WHOLE'}; seed {verdict['seed']}")


def _silent(_text: str) -> None:
    """Say nothing."""


def _stamped(say: Callable[[str], None]) -> Callable[[str], None]:
    begun_s = time.monotonic()
    return lambda text: say(f"{time.monotonic() - begun_s:7.1f} s  {text}")


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) if ordered else None


def _kind_of_disk(folder: Path) -> str:
    """Return what the folder lies on, from the machine's own list of mounts."""
    found, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines():
        device, point, kind_here = line.split()[:3]
        if folder.is_relative_to(point) and len(point) >= len(found):
            found, kind = point, f"{kind_here} on {device}"
    return kind
