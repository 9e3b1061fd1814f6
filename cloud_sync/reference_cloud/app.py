"""`millrace cloud`: the reference cloud as a process; SIGTERM ends it cleanly, two never share a state folder."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import click
import uvicorn

from cloud_sync.reference_cloud.blobs import SiteBlobs
from cloud_sync.reference_cloud.credentials import read_door
from cloud_sync.reference_cloud.ledger import Ledger
from cloud_sync.reference_cloud.routes import Api
from cloud_sync.reference_cloud.settings import CloudSettings
from millrace import service, settings
from millrace.cli import EXIT_UNAVAILABLE, config_option
from millrace.clock import SystemClock

GRACE_S = 5
KEEPALIVE_S = 60


class AddressTaken(click.ClickException):
    """The address cannot be listened on. Exit 69."""

    exit_code = EXIT_UNAVAILABLE


class _Server(uvicorn.Server):
    """Says that it is ready when it is, in one line for whoever started it."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            click.echo(f"cloud ready url=http://{f'[{host}]' if ':' in host else host}:{port}")


def serve(config: CloudSettings) -> None:
    """Serve until SIGTERM or SIGINT. Errors: ConfigError, Locked, NewerSchema, StorageFailed, AddressTaken."""
    door = read_door(config)
    clock = SystemClock()
    ledger = Ledger(config.state_dir / "cloud.db")
    try:
        api = Api(config, door, ledger, SiteBlobs(config.state_dir / "blobs"), clock)
        server = _Server(
            uvicorn.Config(
                api.application(),
                log_config=None,
                access_log=False,
                lifespan="off",
                limit_concurrency=config.max_connections,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=GRACE_S,
            )
        )

        def interrupt() -> None:
            server.should_exit = True

        with _listen(config.host, config.port) as listener:
            http = service.Actor("http", lambda: server.run([listener]), interrupt)
            service.run([http], clock)
    finally:
        ledger.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise AddressTaken(f"cannot listen on {host} port {port}: {error.strerror}") from None
    # Every accepted connection takes these over. Without the first, Nagle holds a short answer back for 40 ms; without
    # the others, a gateway that lost its power in the middle of a request keeps its place for ever.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
    return listener


@click.command("cloud")
@config_option
def command(config: Path) -> None:
    """Run the reference cloud, which keeps what gateways drain to it and says what is missing."""
    loaded = settings.load(config, CloudSettings)
    service.set_up_logging(loaded.log.level)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    serve(loaded)
