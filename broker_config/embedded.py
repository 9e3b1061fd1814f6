"""The amqtt broker in this process, for demos and tests on one machine: MQTT 3.1.1, anonymous, loopback only.

It keeps nothing for a client that is away, sends no message twice, and does not notice a client that falls silent with
its connection open. Millrace loses nothing on it all the same, since devices keep what is not receipted; a production
floor has Mosquitto. Sockets have TCP_NODELAY, which asyncio sets on every TCP connection.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from typing import Any

from amqtt.broker import Broker  # type: ignore[import-untyped]

from broker_config.address import is_loopback, require_free
from millrace.settings import ConfigError

log = logging.getLogger(__name__)


def run(host: str, port: int, stop: threading.Event) -> None:
    """Serve until `stop` is set; it may be called in any thread.

    Raises ConfigError where others could reach `host`, PortTaken where another program listens.
    """
    if not is_loopback(host):
        raise ConfigError(
            [f"host: the embedded broker asks nobody for a password, so it listens on 127.0.0.1 or ::1, not on {host}"]
        )
    require_free(host, port)
    for noisy in ("amqtt", "transitions"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    asyncio.run(_serve(host, port, stop))


async def _serve(host: str, port: int, stop: threading.Event) -> None:
    broker = _MendedBroker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"{host}:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    await broker.start()
    log.info("embedded_broker_listening host=%s port=%d", host, port)
    await asyncio.to_thread(stop.wait)
    await broker.shutdown()


class _MendedBroker(Broker):  # type: ignore[misc]  # amqtt has no types
    """amqtt 0.12.1 walks everyone's filters when anyone connects, and sends that client the retained messages of each.

    So a client got what it never subscribed to, and the walk broke off, and the connection with it, when a filter was
    added meanwhile.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._subscriptions = _Snapshots()

    async def _publish_retained_messages_for_subscription(self, subscription: tuple[str, int], session: Any) -> None:
        if any(subscriber is session for subscriber, _ in self._subscriptions.get(subscription[0], ())):
            await super()._publish_retained_messages_for_subscription(subscription, session)


class _Snapshots(dict[str, Any]):
    """A dict which may change while it is walked: a walk goes over the keys that were there when it began."""

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(super().__iter__()))
