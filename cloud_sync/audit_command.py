"""`millrace audit`: devices' ledgers, the gateway's account and the cloud's, compared; every gap is named."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from cloud_sync.books import Books, NoSpool, note_spool, read_cloud, read_gateway, read_spool
from cloud_sync.gaps import Finding, reckon, spelled
from cloud_sync.settings import SyncSettings
from cloud_sync.submit import Cloud, LinkDown, Rejected
from millrace.cli import EXIT_FAILED, become_owner, config_option
from millrace.settings import load
from millrace.words import table, text


@click.command("audit")
@config_option
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File (mode 0600) with a reader's token at the cloud, instead of the gateway's own.",
)
@click.option(
    "--spool",
    "spools",
    multiple=True,
    type=click.Path(path_type=Path),
    help="An agent's spool.db or state_dir on this machine, or a copy; may be given again.",
)
@click.option("--no-cloud", is_flag=True, help="Do not ask the cloud.")
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON object.")
def command(config: Path, token_file: Path | None, spools: tuple[Path, ...], no_cloud: bool, as_json: bool) -> None:
    """Name what was promised and is nowhere. FILE is the sync worker's settings.

    Of each device and gateway: what was minted, what the cloud holds or was told of, what waits, what is missing. A
    device whose spool is not given is judged by what it told the gateway. Nothing is changed.

    Exit 1 if anything is missing, 0 if all is held, declared or waiting.
    """
    settings = load(config, SyncSettings)
    cloud = None if no_cloud else _cloud(settings, token_file)
    books: Books = {}
    try:
        ledgers = [read_spool(spool) for spool in spools]
    except NoSpool as error:
        raise click.ClickException(str(error)) from None
    become_owner(settings.state_dir / "gateway.db", "audit")
    read_gateway(settings.state_dir, settings.gateway, books)
    for ledger in ledgers:
        note_spool(ledger, books)
    not_asked = "--no-cloud" if cloud is None else _ask(cloud, books)
    findings = [reckon(origin, epoch, book) for (origin, epoch), book in sorted(books.items())]
    if as_json:
        said = {"cloud": not_asked or "asked", "verdict": verdict(findings, not_asked)}
        click.echo(json.dumps({**said, "origins": [asdict(finding) for finding in findings]}, indent=2))
    else:
        click.echo("\n".join(lines(findings, not_asked)))
    if any(finding.missing for finding in findings):
        sys.exit(EXIT_FAILED)


def _cloud(settings: SyncSettings, token_file: Path | None) -> Cloud:
    changed = {"token_file": token_file} if token_file is not None else {}
    return Cloud(settings.cloud.model_copy(update=changed))


def _ask(cloud: Cloud, books: Books) -> str:
    """Ask the cloud; return why it did not answer, or nothing."""
    try:
        read_cloud(cloud.audit(), books)
    except (LinkDown, Rejected) as error:
        return str(error)
    finally:
        cloud.close()
    return ""


_HEAD = ("origin", "epoch", "minted", "held", "declared", "unproven", "at gateway", "at device", "missing")


def lines(findings: Sequence[Finding], not_asked: str) -> Iterator[str]:
    """Yield what a person wants to see, the verdict last."""
    if not_asked:
        yield f"the cloud was not asked ({text(not_asked)}); `held` is what the sync worker settled\n"
    yield from table(_HEAD, [_row(finding) for finding in findings])
    for finding in findings:
        for reason, seqs in finding.reasons.items():
            yield f"  {finding.origin} {finding.epoch}: {seqs} {text(reason)}"
    for finding in findings:
        if finding.missing:
            yield f"MISSING {finding.origin} {finding.epoch}: {spelled(finding.missing)}"
    yield ""
    yield verdict(findings, not_asked)


def _row(finding: Finding) -> list[str]:
    declared = ", ".join(f"{count} {disposition}" for disposition, count in finding.declared.items())
    at_device = f"{finding.unread} unread" if finding.unread else str(finding.at_device)
    return [
        finding.origin,
        finding.epoch,
        str(finding.minted),
        str(finding.held or finding.settled),
        declared or "0",
        str(finding.unproven),
        str(finding.at_gateway),
        at_device,
        str(sum(last - first + 1 for first, last in finding.missing)),
    ]


def verdict(findings: Sequence[Finding], not_asked: str) -> str:
    """Return the one line that says it."""
    missing = sum(last - first + 1 for finding in findings for first, last in finding.missing)
    unread = sum(finding.unread for finding in findings)
    if missing:
        return f"verdict: {missing} MISSING; look for them"
    rest = f"; {unread} are at devices whose spool was not read: give --spool" if unread else ""
    if not_asked:
        return f"verdict: nothing is missing as far as can be told without the cloud{rest}"
    return f"verdict: nothing is missing: all is held, declared or waiting{rest}"
