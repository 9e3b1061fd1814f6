"""A client made ready as the settings have it, and its first word to the broker: name, account, will, session."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from millrace.inbox import Inbox, Protocol
from millrace.mqtt.client import Client
from millrace.mqtt.probing import tls_context
from millrace.mqtt.publishes import Publish
from millrace.settings import BrokerSettings

SESSION_EXPIRY_S = 7 * 86400
RECEIVE_MAXIMUM = 1000


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker says of us when we are lost without a word."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Caller:
    """Who connects. `persistent`: the broker keeps our session while we are away."""

    client_id: str
    will: Will | None
    persistent: bool
    max_packet_bytes: int


def make_client(
    caller: Caller,
    settings: BrokerSettings,
    protocol: Protocol,
    inbox: Inbox,
    pause_over: threading.Event,
    on_publish_read: Callable[[Publish], None],
    hold_loop: Callable[[Callable[[], object]], None],
) -> Client:
    """Return a client for one connection, not connected yet. Errors: ConfigError for unusable certificates."""
    options: dict[str, Any] = {} if protocol == "5" else {"clean_session": not caller.persistent}
    client = Client(
        inbox,
        pause_over,
        on_publish_read,
        hold_loop,
        CallbackAPIVersion.VERSION2,
        client_id=caller.client_id,
        protocol=paho.MQTTv5 if protocol == "5" else paho.MQTTv311,
        reconnect_on_failure=False,
        manual_ack=True,
        **options,
    )
    client.connect_timeout = settings.connect_timeout_s
    client.max_inflight_messages_set(0)  # the caller's window is the only one; paho would look through all each time
    if caller.will is not None:
        client.busy_topic = caller.will.topic
        client.will_set(caller.will.topic, caller.will.payload, qos=1, retain=True)
    if settings.username is not None:
        client.username_pw_set(settings.username, settings.password())
    if settings.ca_file is not None:
        client.tls_set_context(tls_context(settings))
    client.on_socket_open = _no_delay
    return client


def dial(client: Client, caller: Caller, settings: BrokerSettings, protocol: Protocol) -> None:
    """Connect and send the first word; the broker's answer comes to the client's callback. Errors: OSError."""
    options: dict[str, Any] = {}
    if protocol == "5":
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = SESSION_EXPIRY_S if caller.persistent else 0
        properties.ReceiveMaximum = RECEIVE_MAXIMUM
        properties.MaximumPacketSize = caller.max_packet_bytes
        options = {"clean_start": not caller.persistent, "properties": properties}
    client.connect(settings.host, settings.port, settings.keepalive_s, **options)


def _no_delay(_client: paho.Client, _userdata: Any, sock: Any) -> None:
    # Without it Nagle's algorithm meets delayed acknowledgements: 44 ms for each frame.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
