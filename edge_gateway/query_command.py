"""`millrace query`: ask a gateway's database in SQL, read-only, as the user who owns it, without holding it up."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import click
import sqlite_utils

from millrace.cli import become_owner, state_dir_option
from millrace.database import Connection, open_reader
from millrace.short_bodies import in_full

MAX_ROWS = 100_000
_IN_FULL = (
    "CREATE TEMP VIEW entry AS SELECT position, lane, epoch, seq, in_full(body, epoch, seq) AS body, blob, bytes,"
    " born_s, checksum FROM main.entry"
)


@click.command("query")
@click.argument("sql")
@state_dir_option
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV instead of one JSON object a line.")
@click.option("--rows", type=click.IntRange(1, MAX_ROWS), default=1000, show_default=True, help="Most rows printed.")
def command(sql: str, state_dir: Path, as_csv: bool, rows: int) -> None:
    """Run one SELECT on gateway.db and print what it gives.

    \b
    Events are JSON in entry.body:
      millrace query "select json_extract(body,'$.data.label') label, count(*) n from entry where lane=3 group by 1"
    """  # noqa: D301  (\b is click's mark for lines that keep their breaks)
    path = state_dir / "gateway.db"
    become_owner(path, "query")
    connection = open_reader(path, "SELECT one FROM counter")
    if connection is None:
        raise click.ClickException(f"{path} is not there, or is no gateway's database")
    try:
        _show_bodies_in_full(connection)
        # Read to the end at once: a statement left open would keep the gateway's log from being emptied.
        _print(list(islice(sqlite_utils.Database(connection).query(sql), rows)), as_csv)
    except connection.Error as error:
        raise click.ClickException(f"SQL: {error}") from None
    finally:
        connection.close()


def _show_bodies_in_full(connection: Connection) -> None:
    """Have `entry.body` be JSON in each row, as the event came."""

    def shown(kept: Any, epoch: Any, seq: Any) -> Any:
        try:
            return in_full(kept, epoch, seq)
        except TypeError:  # damage changed what kind of thing stands there
            return kept

    connection.create_function("in_full", 3, shown, deterministic=True)
    for statement in ("PRAGMA temp_store = memory", "PRAGMA query_only = 0", _IN_FULL, "PRAGMA query_only = 1"):
        connection.execute(statement)  # the file itself is opened to be read only


def _print(rows: Iterable[Mapping[str, Any]], as_csv: bool) -> None:
    writer: Any = None
    for row in rows:
        plain = {
            name: value.decode(errors="replace") if isinstance(value, bytes) else value for name, value in row.items()
        }
        if not as_csv:
            click.echo(json.dumps(plain, ensure_ascii=False))
            continue
        if writer is None:
            writer = csv.DictWriter(sys.stdout, list(plain))
            writer.writeheader()
        writer.writerow(plain)
