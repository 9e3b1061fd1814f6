"""`millrace agent`: where the agent's process is put together."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from device_agent.feed import Feed
from device_agent.keeper import Handed, Keeper
from device_agent.packing import Admission
from device_agent.settings import AgentSettings
from device_agent.spool import Spool
from millrace import clock, heap, jsontext, topics
from millrace.cli import config_option
from millrace.inbox import Inbox
from millrace.mqtt import Connection, Will
from millrace.service import Actor, run, set_up_logging
from millrace.settings import load

log = logging.getLogger(__name__)


@click.command("agent")
@config_option
def command(config: Path) -> None:
    """Read this device's cameras and sensors, keep what they give, and publish it until a gateway has it.

    Frames appear on PREFIX/device/DEVICE/frame/CHANNEL as plain pictures, readings as JSON.
    """
    heap.part()
    settings = load(config, AgentSettings)
    set_up_logging(settings.log.level)
    time = clock.SystemClock()
    spool, actors = assemble(settings, time)
    try:
        run(actors, time)
    finally:
        spool.close()


def assemble(settings: AgentSettings, time: clock.Clock) -> tuple[Spool, list[Actor]]:
    """Return a device's spool, opened, and the actors that fill and empty it. Errors: ConfigError, Locked."""
    settings.broker.password()  # a secret that cannot be used is said now, not at the first connection
    spool = Spool(settings, clock.machine_id(), time)
    inbox = Inbox()
    status = topics.topic(settings.prefix, topics.Kind.DEVICE_STATUS, settings.device)
    connection = Connection(
        settings.broker,
        f"millrace-agent-{settings.device}",
        Will(status, jsontext.dump({"state": "lost"})),
        [
            topics.subscription(settings.prefix, topics.Kind.GATEWAY_STATUS),
            topics.subscription(settings.prefix, topics.Kind.RECEIPT, settings.device),
        ],
        persistent=False,
        max_payload_bytes=settings.max_payload_bytes,
        inbox=inbox,
    )

    def hand_over(feed: Feed, admission: Admission) -> None:
        inbox.put(Handed(feed, admission))

    feeds = [Feed(name, channel, time, hand_over) for name, channel in settings.channels.items()]
    keeper = Keeper(settings, spool, connection, feeds, time)
    actors = [
        Actor("mqtt", connection.run, connection.interrupt),
        Actor("keeper", keeper.run, keeper.interrupt, keeper.beat, writes=True),
        *(Actor(f"feed-{feed.name}", feed.run, feed.interrupt, feed.beat) for feed in feeds),
    ]
    log.info(
        "agent_ready device=%s epoch=%s held=%d threads=%s",
        settings.device,
        spool.epoch,
        spool.held_rows,
        ",".join(["main", *(actor.name for actor in actors)]),
    )
    return spool, actors
