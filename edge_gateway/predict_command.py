"""`millrace predict`: ask a gateway about one picture, as a frame from the floor would be asked about."""

from __future__ import annotations

import http.client
import json
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import click

from millrace import jsontext
from millrace.cli import Unavailable
from millrace.settings import read_secret

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 60.0
MAX_ANSWER_BYTES = 1 << 20
_KINDS = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class Refused(click.ClickException):
    """The gateway's answer is no. Exit 1."""


@click.command("predict")
@click.argument("file", type=_FILE)
@click.option("--gateway", "url", default="http://127.0.0.1:8470", show_default=True, help="The gateway's address.")
@click.option("--channel", default="predict", show_default=True, help="Models bound to http/CHANNEL answer.")
@click.option("--token-file", type=_FILE, help="File (mode 0600) with the token that the gateway asks for.")
@click.option("--json", "as_json", is_flag=True, help="The gateway's answer as it is.")
def command(file: Path, url: str, channel: str, token_file: Path | None, as_json: bool) -> None:
    """Upload the picture FILE and print what each model says of it: label, score, decision, reason, and what is where.

    The gateway keeps it like any frame: it is stored, and goes up where the policy for http/CHANNEL says so.
    """
    token = read_secret(token_file) if token_file else None
    results = ask(url, file.read_bytes(), channel, token)
    if as_json:
        click.echo(json.dumps({"results": results}, ensure_ascii=False, indent=2))
        return
    for result in results:
        click.echo(
            f"{result.get('label')}  score {result.get('score')}  [{result.get('model')}]\n"
            f"  decision: {result.get('decision')} ({result.get('reason')})\n"
            f"  inference {result.get('infer_ms')} ms, in all {result.get('total_ms')} ms"
        )
        for found in result.get("detections", ()):
            box = ", ".join(f"{name} {100 * ratio:.1f} %" for name, ratio in found["box"].items())
            click.echo(f"  {found['label']}  score {found['score']}  {box}")


def ask(url: str, picture: bytes, channel: str, token: str | None) -> list[dict[str, Any]]:
    """Return one result for each model; Unavailable, or Refused with the gateway's own reason."""
    connection, base = _connection(url)
    headers = {"Content-Type": "application/octet-stream", **({"Authorization": f"Bearer {token}"} if token else {})}
    try:
        connection.connect()
        connection.sock.settimeout(ANSWER_TIMEOUT_S)
        try:
            connection.request("POST", f"{base}/predict?channel={quote(channel, safe='')}", picture, headers)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has said no before it had all; what it said may be there to read
        answer = connection.getresponse()
        return _results(answer.status, answer.read(MAX_ANSWER_BYTES), url)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(
            f"no gateway at {url}: {error or type(error).__name__}; is `millrace gateway` running, with http enabled?"
        ) from None
    finally:
        connection.close()


def _connection(url: str) -> tuple[http.client.HTTPConnection, str]:
    """Return a connection that is not made yet, and the path below which the gateway's own paths stand."""
    with suppress(ValueError, http.client.InvalidURL):
        parts = urlsplit(url)
        host = parts.hostname or ""
        host.encode("idna")  # as the look-up will
        if host and parts.scheme in _KINDS:
            return _KINDS[parts.scheme](host, parts.port, timeout=CONNECT_TIMEOUT_S), quote(parts.path.rstrip("/"))
    raise click.BadParameter(f"{url!r} is no address such as http://127.0.0.1:8470", param_hint="--gateway")


def _results(status: int, body: bytes, url: str) -> list[dict[str, Any]]:
    try:
        value = jsontext.parse(body, MAX_ANSWER_BYTES)
    except jsontext.BadJson:
        value = None
    fields = value if isinstance(value, dict) else {}
    results = fields.get("results")
    if status == http.client.OK and isinstance(results, list) and all(isinstance(one, dict) for one in results):
        return results
    if status == http.client.OK or "error" not in fields:
        raise Refused(f"{url} is no Millrace gateway: it answered {status} with {body[:80]!r}")
    hint = "; see --token-file" if status == http.client.UNAUTHORIZED else ""
    raise Refused(f"the gateway refuses ({status}): {fields['error']}{hint}")
