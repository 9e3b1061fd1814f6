"""`millrace sync`: where the sync worker's process is put together."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import click

from cloud_sync.drain import Drain
from cloud_sync.link import Link
from cloud_sync.orders import Orders
from cloud_sync.progress import Progress
from cloud_sync.settings import SyncSettings
from cloud_sync.submit import Cloud
from cloud_sync.witness import Witness
from millrace import heap
from millrace.cli import config_option
from millrace.clock import SystemClock
from millrace.control import Control
from millrace.service import SILENT_AFTER_S, Actor, run, set_up_logging
from millrace.settings import load
from millrace.ties import TieReader

log = logging.getLogger(__name__)


@click.command("sync")
@config_option
def command(config: Path) -> None:
    """Drain what the gateway stored to the cloud, whenever there is a link.

    It runs beside the gateway, as the same user, on the same state_dir; it writes sync.db there and nothing else.
    """
    settings = load(config, SyncSettings)
    heap.part()
    set_up_logging(settings.log.level)
    clock = SystemClock()
    progress = Progress(settings.state_dir / "sync.db")
    witness = Witness(TieReader(settings.state_dir / "gateway.db"), progress, clock)
    retry = settings.retry
    link = Link(
        retry.first_s,
        retry.max_s,
        random.uniform,
        breaker_failures=retry.breaker_failures,
        retry_after_max_s=retry.retry_after_max_s,
    )
    drain = Drain(settings, progress, Cloud(settings.cloud, witness), link, clock)
    control = Control(settings.state_dir, Orders(progress, settings.state_dir, clock))
    # Without an answer of the cloud's own there is no beat: a row is refused, and then the same request without it too.
    silence_s = SILENT_AFTER_S + 2 * settings.cloud.request_deadline_s
    log.info("sync_ready gateway=%s url=%s", settings.gateway, settings.cloud.url)
    try:
        run(
            [
                Actor("control", control.run, control.interrupt),
                Actor("drain", drain.run, drain.interrupt, drain.beat, silence_s),
            ],
            clock,
        )
    finally:
        progress.close()
