"""The connection as programs use it: made again when it is lost, heard into an inbox, acknowledged by hand.

One connection is one paho client: what an old connection still held cannot be acknowledged, sent or mixed up on a new
one. Callbacks only enqueue. A library's queue holds nothing that matters: the caller refills from what is durable.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import paho.mqtt.client as paho

from millrace import certificates
from millrace.inbox import Connected, Delivery, Disconnected, Inbox, Protocol
from millrace.mqtt import dialling, outgoing, refusals
from millrace.mqtt.client import Client
from millrace.mqtt.dialling import Caller, Will
from millrace.mqtt.probing import BrokerUnreachable, probe
from millrace.mqtt.publishes import Publish
from millrace.packet_limit import PacketLimit
from millrace.settings import BrokerSettings

log = logging.getLogger(__name__)

SAY_TOO_LARGE_EVERY_S = 60.0


@dataclass(slots=True)
class _Held:
    """One connection, from its first attempt until it ends; what its client says after that is not heard."""

    epoch: int
    protocol: Protocol
    ended: threading.Event = field(default_factory=threading.Event)
    reason: str = ""

    def end(self, reason: str = "") -> None:
        """Note that it has ended; the first reason stays: the broker's own word comes before its closed socket."""
        if not self.ended.is_set():
            self.reason = reason
        self.ended.set()


class Connection:
    """One lasting connection to the broker, made again with full-jitter backoff; an actor of the run group."""

    def __init__(
        self,
        settings: BrokerSettings,
        client_id: str,
        will: Will | None,
        subscriptions: Sequence[str],
        *,
        persistent: bool,
        max_payload_bytes: int,
        inbox: Inbox,
    ) -> None:
        """Prepare; nothing happens before `run`. `persistent`: the broker keeps our session while we are away."""
        self._settings = settings
        self._caller = Caller(client_id, will, persistent, max_payload_bytes + 65536)
        self._subscriptions = list(subscriptions)
        self.inbox = inbox
        self._stop = threading.Event()
        self._held: _Held | None = None
        self._failure: BaseException | None = None
        self._client: Client | None = None
        self._epoch = 0
        self._connected_epoch = 0
        self._refused_epoch = 0
        self._stood_from_s = 0.0
        self._said_too_large_s = float("-inf")
        self.denied: tuple[str, ...] = ()
        """Of our subscriptions, those that the broker has denied: nothing is heard on them."""
        self.protocol: Protocol | None = None

    # --- the actor

    def run(self) -> None:
        """Hold a connection until `interrupt`; raise what a callback raised, and ConfigError for unusable settings."""
        attempt = 0
        while not self._stop.is_set():
            stood_s = 0.0
            try:
                stood_s = self._hold_one()
            except (OSError, BrokerUnreachable) as error:
                if attempt == 0 or attempt % 20 == 0:
                    where = self._settings.host, self._settings.port
                    certificate = certificates.why_refused(
                        error, *where, self._settings.ca_file, self._settings.connect_timeout_s
                    )
                    log.warning("broker_unreachable host=%s port=%d error=%s", *where, certificate or error)
            if self._failure is not None:
                raise self._failure
            attempt = 0 if stood_s >= refusals.STEADY_S else attempt + 1
            pause_s = random.uniform(0, min(self._settings.reconnect_max_s, 0.25 * 2 ** min(attempt, 16)))
            self._stop.wait(pause_s)

    def interrupt(self) -> None:
        """End `run`."""
        self._stop.set()
        if (held := self._held) is not None:
            held.end()

    def _hold_one(self) -> float:
        """Make one connection and hold it until it ends; return for how many seconds it stood."""
        said = self._settings.protocol
        self.protocol = protocol = probe(self._settings) if said == "auto" else said
        self._epoch += 1
        self._held = held = _Held(self._epoch, protocol)
        if self._stop.is_set():
            return 0.0
        client = self._make_client(held)
        dialling.dial(client, self._caller, self._settings, protocol)
        client.loop_start()
        try:
            held.ended.wait()
        finally:
            stood_s = time.monotonic() - self._stood_from_s if self._connected_epoch == held.epoch else 0.0
            if stood_s and self._stop.is_set():
                client.disconnect()
            self._end(held.epoch, client)
        if stood_s and not self._stop.is_set():
            hint = refusals.hint(held.reason, stood_s, self._caller.client_id, self._settings.username, protocol)
            log.warning("broker_disconnected stood_s=%.1f reason=%r%s", stood_s, held.reason, hint)
        return stood_s

    def _end(self, epoch: int, client: paho.Client) -> None:
        # Ends paho's thread also where the network is dead: it stops at the first pass of its loop.
        self._client = None
        self._connected_epoch = 0
        client._reconnect_on_failure = False
        stopper = threading.Thread(target=client.loop_stop, name="mqtt-stop", daemon=True)
        stopper.start()
        stopper.join(2.0)
        sock = client.socket()
        if sock is not None:  # the loop hangs in it, or was over before it could close it
            sock.close()
        self.inbox.put(Disconnected(epoch))

    def _make_client(self, held: _Held) -> Client:
        hear = self._guard(held, partial(self._hear, held.epoch))
        hold_loop = self._guard(held, partial(_hold_loop, held))
        client = dialling.make_client(
            self._caller, self._settings, held.protocol, self.inbox, self._stop, hear, hold_loop
        )
        # None of them holds the client, which would hold itself by it: when its connection ends, all that it held goes.
        client.on_connect = self._guard(held, lambda *a: self._on_connect(a[0], held, *a[2:5]))
        client.on_disconnect = self._guard(held, lambda *a: held.end(str(a[3])))
        client.on_publish = self._guard(held, lambda *a: self._on_publish(a[3]))
        client.on_subscribe = self._guard(held, lambda *a: self._on_subscribe(a[3]))
        client.on_message = self._guard(held, lambda *a: self._on_message(held.epoch, a[2]))
        return client

    def _guard(self, held: _Held, callback: Callable[..., None]) -> Callable[..., None]:
        """Hand a callback's exception to the run group: in paho it would end the network thread in silence."""

        def guarded(*arguments: Any) -> None:
            if held.ended.is_set():
                return
            try:
                callback(*arguments)
            except BaseException as error:  # noqa: BLE001  (it ends the process: `run` raises it)
                if held.ended.is_set():
                    log.warning("ended_connection_failed error=%r", error)  # such as a socket closed under its loop
                    return
                self._failure = error
                held.end(repr(error))

        return guarded

    def _on_connect(self, client: Client, held: _Held, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            if refusals.is_for_good(str(reason)):
                log.error(
                    "broker_refused host=%s reason=%r check=username,password_file", self._settings.host, str(reason)
                )
            else:
                log.warning("broker_refused host=%s reason=%r", self._settings.host, str(reason))
            held.end(str(reason))
            return
        if self._subscriptions:
            client.subscribe([(topic, 1) for topic in self._subscriptions])
        client.limit = PacketLimit(getattr(properties, "MaximumPacketSize", None), self._settings.max_packet_bytes)
        self._client = client
        self._stood_from_s = time.monotonic()
        self._connected_epoch = held.epoch
        log.info(
            "broker_connected host=%s port=%d protocol=%s resumed=%s",
            self._settings.host,
            self._settings.port,
            held.protocol,
            bool(flags.session_present),
        )
        self.inbox.put(Connected(held.epoch, held.protocol))

    def _on_publish(self, reason: Any) -> None:
        """Say once for each connection that the broker refuses what we publish; only MQTT 5 tells."""
        if reason.is_failure and self._refused_epoch != self._connected_epoch:
            self._refused_epoch = self._connected_epoch
            log.error("publish_refused reason=%r account=%s", str(reason), self._settings.username)

    def _on_subscribe(self, reasons: Sequence[Any]) -> None:
        """Say once of each subscription that the broker denies it, and again if it does so after it had not."""
        answers = list(zip(self._subscriptions, reasons, strict=False))
        for topic, reason in answers:
            if reason.is_failure and topic not in self.denied:
                check = f"may the account {self._settings.username!r} read this topic, by the broker's access rules?"
                log.error("subscription_denied topic=%s reason=%r check: %s", topic, str(reason), check)
        self.denied = tuple(topic for topic, reason in answers if reason.is_failure)

    def _on_message(self, epoch: int, message: paho.MQTTMessage) -> None:
        properties = tuple(getattr(message.properties, "UserProperty", ()) if message.properties else ())
        payload, flags = bytes(message.payload), (message.qos, message.retain, message.dup)
        topic = message._topic.decode("utf-8", "replace")  # one that is no UTF-8 is nobody's, and ends no program
        self._hear(epoch, Publish(topic, payload, *flags, message.mid, properties))

    def _hear(self, epoch: int, message: Publish) -> None:
        topic, payload, qos, retain, dup, mid, properties = message
        ack = partial(self._ack, epoch, mid, qos) if qos else _nothing
        self.inbox.put(Delivery(topic, payload, retain, dup, properties, epoch, ack))

    def _ack(self, epoch: int, mid: int, qos: int) -> None:
        """Acknowledge a message to the connection that brought it; nothing if that has ended."""
        client = self._client
        if client is not None and self._connected_epoch == epoch:
            client.ack(mid, qos)

    # --- publishing

    @property
    def connected(self) -> bool:
        """Whether a connection stands, as far as we know; a dead link is noticed after 1.5 keepalives."""
        return self._connected_epoch != 0

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        user_properties: Sequence[tuple[str, str]] = (),
        content_type: str | None = None,
    ) -> bool:
        """Hand a message to the present connection. True promises nothing: wait for a receipt.

        False: there is no connection, or the broker takes no packet of this size, as far as it or the settings say.
        """
        client = self._client
        if client is None:
            return False
        properties = outgoing.make_properties(self.protocol, user_properties, content_type)
        if (why := outgoing.why_not(client.limit, topic, payload, properties)) is not None:
            now_s = time.monotonic()
            if now_s - self._said_too_large_s >= SAY_TOO_LARGE_EVERY_S:
                self._said_too_large_s = now_s
                log.error("publish_too_large topic=%s reason=%r", topic, why)
            return False
        client.publish(topic, payload, qos=qos, retain=retain, properties=properties)
        return True

    def too_large(
        self,
        topic: str,
        payload: bytes,
        *,
        user_properties: Sequence[tuple[str, str]] = (),
        content_type: str | None = None,
    ) -> str | None:
        """Say why the broker would not take this message for its size and what to do, as far as is known."""
        client = self._client
        if client is None or not client.limit.matters_to(len(payload)):
            return None
        properties = outgoing.make_properties(self.protocol, user_properties, content_type)
        return outgoing.why_not(client.limit, topic, payload, properties)

    def farewell(self, topic: str, payload: bytes, timeout_s: float = 1.0) -> None:
        """Publish a last retained word and wait for the broker to have it, at most `timeout_s`."""
        client = self._client
        if client is None:
            return
        info = client.publish(topic, payload, qos=1, retain=True)
        try:
            info.wait_for_publish(timeout_s)
        except (RuntimeError, ValueError):
            log.info("farewell_unsent topic=%s", topic)


def _nothing() -> None:
    """Acknowledge a message of QoS 0, which nobody waits for."""


def _hold_loop(held: _Held, loop: Callable[[], object]) -> None:
    """Run a client's network loop; that it is over ends the connection, whatever it says of it or does not."""
    loop()
    held.end("the network loop has ended")
