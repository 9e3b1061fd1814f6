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
from millrace import heap, service, settings
from millrace.cli import config_option
from millrace.clock import SystemClock
from millrace.database import Damaged
from millrace.listening import listen

GRACE_S = 5


class _Server(uvicorn.Server):
    """Says that it is ready when it is, in one line for whoever started it."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            click.echo(f"cloud ready url=http://{f'[{host}]' if ':' in host else host}:{port}")


def serve(config: CloudSettings) -> None:
    """Serve until SIGTERM or SIGINT, or until damage is met in the ledger: the next start salvages it.

    Errors: ConfigError, Locked, NewerSchema, StorageFailed, AddressTaken, Damaged.
    """
    door = read_door(config)
    clock = SystemClock()
    damage: list[Damaged] = []
    ledger = Ledger(config.state_dir / "cloud.db")

    def damaged(error: Damaged) -> None:
        damage.append(error)
        interrupt()

    def interrupt() -> None:
        server.should_exit = True

    try:
        api = Api(config, door, ledger, SiteBlobs(config.state_dir / "blobs"), clock, damaged)
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
        with listen(config.host, config.port) as listener:
            service.run([service.Actor("http", lambda: server.run([listener]), interrupt)], clock)
        if damage:
            raise damage[0]
    finally:
        ledger.close()


@click.command("cloud")
@config_option
def command(config: Path) -> None:
    """Run the reference cloud, which keeps what gateways drain to it and says what is missing."""
    heap.part()
    loaded = settings.load(config, CloudSettings)
    service.set_up_logging(loaded.log.level)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    serve(loaded)
