"""`millrace queue`: what waits for the cloud, how long, and when it is done; hold lanes back, send buried rows again.

It reads the gateway's and the sync worker's files; what changes something is asked of the worker, which alone writes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import click

from cloud_sync import export
from cloud_sync.orders import AT_ONCE, LANES, all_buried, lane_names, name_of
from cloud_sync.progress import Buried
from cloud_sync.waiting import LaneState, LinkState, Waiting
from millrace import clock, control
from millrace.cli import Unavailable, become_owner, state_dir_option
from millrace.entries import Lane
from millrace.words import size, span, table, text

lane_arguments = click.argument("lanes", nargs=-1, type=click.Choice(list(LANES)), metavar="[LANE]...")


@click.group("queue")
def command() -> None:
    """Show what waits for the cloud; hold it back, let it go on, send it again, write it to a file.

    Run it on the gateway's machine, as the gateway's user or root.
    """


@command.command("list")
@state_dir_option
@click.option("--buried", is_flag=True, help="List the rows that the cloud refused, with key, reason and when.")
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON object, with --buried one a line.")
def show(state_dir: Path, buried: bool, as_json: bool) -> None:
    """Show, lane by lane, what waits, since when, how fast it goes and when it is done.

    LANES are alarm, verdict, result, frame and bulk (readings and waveforms).
    """
    waiting = _open(state_dir)
    try:
        if buried:
            _show_buried(waiting, as_json=as_json)
            return
        is_running = _is_running(state_dir)
        lanes, link, refused = waiting.lanes(is_running=is_running), waiting.link(), waiting.buried_rows()
    finally:
        waiting.close()
    worker = "running" if is_running else "not running"
    if as_json:
        states = {lane.name.lower(): asdict(state) for lane, state in lanes.items()}
        click.echo(json.dumps({"worker": worker, "link": asdict(link), "lanes": states, "buried": refused}, indent=2))
        return
    click.echo("\n".join(lines(lanes, link, time.time_ns(), worker=worker, buried=refused)))


@command.command()
@lane_arguments
@state_dir_option
def pause(lanes: tuple[str, ...], state_dir: Path) -> None:
    """Hold lanes back, all if none is named, until `resume`, over restarts too. They go on filling the disk."""
    _say_paused(_order(state_dir, {"do": "pause", "lanes": list(lanes)}))


@command.command()
@lane_arguments
@state_dir_option
def resume(lanes: tuple[str, ...], state_dir: Path) -> None:
    """Let lanes go on, all if none is named."""
    _say_paused(_order(state_dir, {"do": "resume", "lanes": list(lanes)}))


@command.command()
@click.argument("key", required=False)
@click.option("--all", "everything", is_flag=True, help="Send every buried row again.")
@state_dir_option
def requeue(key: str | None, everything: bool, state_dir: Path) -> None:
    """Send a buried row once more: KEY as `list --buried` shows it, or the end of it, such as k3v9x0pa-12.

    Exit 1 if some cannot be sent again, with the reason; they stay buried.
    """
    if (key is None) is not everything:
        raise click.UsageError("give a KEY or --all")
    answer = _order(state_dir, {"do": "requeue", "key": key})
    click.echo(f"{answer['requeued']} to be sent again")
    for name, reason in answer["kept"].items():
        click.echo(f"stays buried: {text(name)}: {text(reason)}", err=True)
    if answer["kept_rows"]:
        raise click.ClickException(f"{answer['kept_rows']} cannot be sent again")


@command.command("export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path, allow_dash=True))
@click.option(
    "--pictures", type=click.Path(file_okay=False, path_type=Path), help="Folder for frames' pictures, by SHA-256."
)
@state_dir_option
def write(file: Path, pictures: Path | None, state_dir: Path) -> None:
    """Write what waits to FILE: NDJSON (.ndjson, .jsonl, or - for standard output) or CSV (.csv).

    It changes nothing: what was written there still goes to the cloud.
    """
    form = export.form_of(file)
    if form is None:
        raise click.UsageError(f"{file}: its name must end with .ndjson, .jsonl or .csv, or be -")
    waiting = _open(state_dir)
    try:
        with click.open_file(str(file), "w", encoding="utf-8") as out:
            album = export.Album(state_dir / "frames", pictures) if pictures is not None else None
            rows = form(out, waiting, album)
    except OSError as error:
        raise click.ClickException(f"{error.filename or file}: {error.strerror}; write where this user may") from None
    finally:
        waiting.close()
    lost = "" if album is None or not album.gone else f"; {album.gone} of their pictures are gone"
    click.echo(f"{rows} rows written to {file}{lost}", err=True)


def _open(state_dir: Path) -> Waiting:
    path = state_dir / "gateway.db"
    become_owner(path, "queue")
    waiting = Waiting(state_dir)
    if not waiting.is_there:
        raise click.ClickException(f"{path} is no gateway's database")
    return waiting


def _order(state_dir: Path, order: Mapping[str, object]) -> dict[str, Any]:
    become_owner(state_dir, "queue")
    try:
        return control.ask(state_dir, control.SYNC_WORKER, order)
    except control.NobodyThere as error:
        raise Unavailable(str(error)) from None
    except control.Refused as error:
        raise click.ClickException(str(error)) from None


def _is_running(state_dir: Path) -> bool:
    try:
        control.ask(state_dir, control.SYNC_WORKER, {"do": "hello"})
    except control.NobodyThere:
        return False
    return True


def _say_paused(answer: Mapping[str, Any]) -> None:
    paused = [LANES[name] for name in answer["paused"]]
    click.echo(f"paused: {lane_names(paused) or 'none'}")


_HEAD = ("lane", "rows", "size", "oldest", "rate", "done in", "state")


def lines(lanes: Mapping[Lane, LaneState], link: LinkState, now_ns: int, *, worker: str, buried: int) -> Iterator[str]:
    """Yield what a person wants to see."""
    since = f" for {span(max(0.0, (now_ns - link.since_wall_ns) / 1e9))}" if link.since_wall_ns else ""
    why = f": {text(link.reason)}" if link.reason else ""
    yield f"sync worker: {worker}; link: {link.state}{since}{why}"
    yield ""
    yield from table(_HEAD, [_row(lane, state, now_ns) for lane, state in lanes.items()])
    if paused := [lane for lane, state in lanes.items() if state.paused]:
        yield f"\nheld back: {lane_names(paused)}; go on: millrace queue resume"
    if buried:
        yield f"\n{buried} buried, refused by the cloud: millrace queue list --buried"


def _row(lane: Lane, state: LaneState, now_ns: int) -> list[str]:
    return [
        lane.name.lower(),
        str(state.rows),
        size(state.bytes),
        "-" if state.oldest_wall_ns is None else _ago(state.oldest_wall_ns, now_ns),
        "-" if state.rows_per_s is None else f"{state.rows_per_s:.1f}/s",
        "-" if state.done_in_s is None or not state.rows else span(state.done_in_s),
        "paused" if state.paused else "waits" if state.rows else "done",
    ]


def _ago(wall_ns: int, now_ns: int) -> str:
    seconds = (now_ns - wall_ns) / 1e9
    return span(seconds) if seconds > -1 else f"{span(-seconds)} ahead"


def _show_buried(waiting: Waiting, *, as_json: bool) -> None:
    found = all_buried(waiting.buried)
    if as_json:
        for row in found:
            click.echo(json.dumps(_buried_facts(row), ensure_ascii=False))
        return
    head = ("key", "lane", "when", "reason")
    while part := list(islice(found, AT_ONCE)):
        for line in table(head, [_buried_row(row) for row in part]):
            click.echo(line)


def _buried_facts(row: Buried) -> dict[str, object]:
    return {
        "key": name_of(row),
        "lane": row.lane.name.lower(),
        "reason": row.reason,
        "buried_at": None if row.buried_wall_ns is None else clock.rfc3339(row.buried_wall_ns),
        "to_be_sent_again": bool(row.again),
    }


def _buried_row(row: Buried) -> list[str]:
    when = "unknown" if row.buried_wall_ns is None else clock.rfc3339(row.buried_wall_ns)
    again = "to be sent again; " if row.again else ""
    return [text(name_of(row)), row.lane.name.lower(), when, again + text(row.reason)]
