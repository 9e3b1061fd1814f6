"""The only door to MQTT: connect, last will, publish, and put what arrives into an inbox, acknowledged by hand.

One connection is one paho client: what an old connection still held cannot be acknowledged, sent or mixed up on a new
one. Callbacks only enqueue. A library's queue holds nothing that matters: the caller refills from what is durable.
"""

from __future__ import annotations

import logging
import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from millrace import certificates, publishes
from millrace.inbox import Connected, Delivery, Disconnected, Inbox, Protocol
from millrace.packet_limit import PacketLimit
from millrace.publishes import Publish
from millrace.settings import BrokerSettings, ConfigError

log = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 2.0
SESSION_EXPIRY_S = 7 * 86400
RECEIVE_MAXIMUM = 1000
PAUSE_S = 0.02
READ_BYTES = 65536
STEADY_S = 5.0  # a connection that stood for less counts as a failed attempt
BUSY = b'{"state":"busy"}'  # on the status topic, not retained: it keeps the connection while reading is paused
SAY_TOO_LARGE_EVERY_S = 60.0
PACKET_TOO_LARGE = 0x95
UNSPECIFIED_ERROR = 0x80
_REFUSED_FOR_GOOD = frozenset({"Not authorized", "Bad user name or password", "Unspecified error"})


class BrokerUnreachable(Exception):
    """No broker answered; try again."""


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker says of us when we are lost without a word."""

    topic: str
    payload: bytes


class _Client(paho.Client):
    """A paho client that reads many packets at once, and leaves the socket unread while the inbox is full.

    By itself paho asks the system four times for each packet, and where other threads are busy waits for the
    interpreter's lock each time. Blocking in a callback would lose the connection while paho says that all is well.
    Of what is read at once the ordinary messages are heard here (`on_publish_read`); all else goes paho's own way.
    """

    busy_topic: str | None = None

    def __init__(
        self,
        inbox: Inbox,
        pause_over: threading.Event,
        on_publish_read: Callable[[Publish], None],
        *arguments: Any,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._millrace_hear = on_publish_read
        self._millrace_inbox = inbox
        self._millrace_pause = pause_over
        self._millrace_grace_s = 0.0
        self._millrace_said_s = 0.0
        self._millrace_ahead = memoryview(b"")
        self._millrace_may_read = False
        self._millrace_reader: int | None = None
        self._millrace_acks = bytearray()
        self._millrace_acks_lock = threading.Lock()
        self.limit = PacketLimit()

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """Read once from the socket and handle all of it: what is read ahead never waits for more to come."""
        if self._millrace_inbox.full:
            self._millrace_grace_s = paho.time_func() + self.keepalive
            self._millrace_pause.wait(PAUSE_S)
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        self._millrace_may_read = True
        self._millrace_reader = threading.get_ident()
        code = super().loop_read(max_packets)
        while self._millrace_ahead and code == MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._hear_ahead()
            if self._millrace_ahead:
                code = super().loop_read(max_packets)
        self._millrace_reader = None
        self._send_acks()
        return code

    def _hear_ahead(self) -> None:
        """Hear the messages that are read ahead as far as they are ordinary and all there."""
        if self._in_packet["command"]:
            return  # what is ahead begins within a packet
        messages, size_bytes = publishes.read(self._millrace_ahead, has_properties=self._protocol == paho.MQTTv5)
        self._millrace_ahead = self._millrace_ahead[size_bytes:]
        for message in messages:
            self._millrace_hear(message)

    def ack(self, mid: int, qos: int) -> MQTTErrorCode:
        """Acknowledge a message; acknowledgements that come close together go out together."""
        if qos != 1:
            return super().ack(mid, qos)
        with self._millrace_acks_lock:
            is_first = not self._millrace_acks
            self._millrace_acks += struct.pack("!BBH", paho.PUBACK, 2, mid)
        if is_first and self._millrace_reader != threading.get_ident() and self._sockpairW is not None:
            with suppress(OSError):  # it is awake, or has ended
                self._sockpairW.send(b"0")
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _send_acks(self) -> None:
        with self._millrace_acks_lock:
            acks, self._millrace_acks = self._millrace_acks, bytearray()
        if acks:
            self._packet_queue(paho.PUBACK, bytes(acks), 0, 1)

    def loop_write(self) -> MQTTErrorCode:
        """Write what waits, with the acknowledgements of other threads behind it."""
        self._send_acks()
        return super().loop_write()

    def disconnect(self, *arguments: Any, **options: Any) -> MQTTErrorCode:
        """End the connection, behind what was acknowledged before."""
        self._send_acks()
        return super().disconnect(*arguments, **options)

    def _handle_pubackcomp(self, cmd: Literal["PUBACK", "PUBCOMP"]) -> MQTTErrorCode:
        packet = self._in_packet["packet"]
        if packet[2:3] == bytes([PACKET_TOO_LARGE]):
            # Mosquitto says so; the standard has no such word in a PUBACK, and paho would close the connection.
            message = self._out_messages.get(int.from_bytes(packet[:2], "big"))
            if message is not None:
                self.limit.refused(len(message.payload))
            self._in_packet["packet"] = packet[:2] + bytes([UNSPECIFIED_ERROR]) + packet[3:]
        return super()._handle_pubackcomp(cmd)

    def _sock_recv(self, bufsize: int) -> bytes:
        if not self._millrace_ahead:
            if not self._millrace_may_read:
                raise BlockingIOError
            self._millrace_may_read = False
            self._millrace_ahead = memoryview(super()._sock_recv(max(bufsize, READ_BYTES)))
        taken, self._millrace_ahead = self._millrace_ahead[:bufsize], self._millrace_ahead[bufsize:]
        return bytes(taken)

    def loop_misc(self) -> MQTTErrorCode:
        now_s = paho.time_func()
        if now_s >= self._millrace_grace_s or self.busy_topic is None:
            return super().loop_misc()
        if now_s - self._millrace_said_s > self.keepalive / 2:
            self._millrace_said_s = now_s
            self.publish(self.busy_topic, BUSY, qos=0)
        return MQTTErrorCode.MQTT_ERR_SUCCESS


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
        self._client_id = client_id
        self._will = will
        self._subscriptions = list(subscriptions)
        self._persistent = persistent
        self._max_packet_bytes = max_payload_bytes + 65536
        self.inbox = inbox
        self._stop = threading.Event()
        self._closed = threading.Event()
        self._failure: BaseException | None = None
        self._client: _Client | None = None
        self._epoch = 0
        self._connected_epoch = 0
        self._refused_epoch = 0
        self._stood_from_s = 0.0
        self._reason = ""
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
            attempt = 0 if stood_s >= STEADY_S else attempt + 1
            pause_s = random.uniform(0, min(self._settings.reconnect_max_s, 0.25 * 2 ** min(attempt, 16)))
            self._stop.wait(pause_s)

    def interrupt(self) -> None:
        """End `run`."""
        self._stop.set()
        self._closed.set()

    def _hold_one(self) -> float:
        """Make one connection and hold it until it ends; return for how many seconds it stood."""
        protocol = self._settings.protocol
        self.protocol = probe(self._settings) if protocol == "auto" else protocol
        self._closed.clear()
        if self._stop.is_set():
            return 0.0
        self._epoch += 1
        epoch = self._epoch
        client = self._make_client(epoch, self.protocol)
        options: dict[str, Any] = {}
        if self.protocol == "5":
            properties = _properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = SESSION_EXPIRY_S if self._persistent else 0
            properties.ReceiveMaximum = RECEIVE_MAXIMUM
            properties.MaximumPacketSize = self._max_packet_bytes
            options = {"clean_start": not self._persistent, "properties": properties}
        client.connect(self._settings.host, self._settings.port, self._settings.keepalive_s, **options)
        client.loop_start()
        try:
            self._closed.wait()
        finally:
            stood_s = time.monotonic() - self._stood_from_s if self._connected_epoch == epoch else 0.0
            if stood_s and self._stop.is_set():
                client.disconnect()
            self._end(epoch, client)
        if stood_s and not self._stop.is_set():
            log.warning("broker_disconnected stood_s=%.1f reason=%r%s", stood_s, self._reason, self._hint(stood_s))
        return stood_s

    def _hint(self, stood_s: float) -> str:
        """Return what a person may look at when connections do not last."""
        if "taken over" in self._reason.lower():  # MQTT 5 tells
            return f" another program connected as {self._client_id!r}: stop one of the two, or give it another name"
        if stood_s >= STEADY_S:
            return ""
        username, checks = self._settings.username, []
        if username is not None:
            checks.append(f"does another program use the account {username!r}, or is a topic denied to it?")
        if self.protocol == "3.1.1":
            checks.append("is a message too large for the broker? Then set broker.max_packet_bytes to its limit")
        return f" check: {' '.join(checks)}" if checks else ""

    def _end(self, epoch: int, client: paho.Client) -> None:
        # Ends paho's thread also where the network is dead: it stops at the first pass of its loop.
        self._client = None
        self._connected_epoch = 0
        client._reconnect_on_failure = False
        stopper = threading.Thread(target=client.loop_stop, name="mqtt-stop", daemon=True)
        stopper.start()
        stopper.join(2.0)
        if stopper.is_alive():
            sock = client.socket()
            if sock is not None:
                sock.close()
        self.inbox.put(Disconnected(epoch))

    def _make_client(self, epoch: int, protocol: Protocol) -> _Client:
        settings = self._settings
        options: dict[str, Any] = {} if protocol == "5" else {"clean_session": not self._persistent}
        client = _Client(
            self.inbox,
            self._stop,
            self._guard(partial(self._hear, epoch)),
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=paho.MQTTv5 if protocol == "5" else paho.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
            **options,
        )
        client.connect_timeout = settings.connect_timeout_s
        client.max_inflight_messages_set(
            0
        )  # the caller's window is the only one; with one paho looks through all each time
        if self._will is not None:
            client.busy_topic = self._will.topic
            client.will_set(self._will.topic, self._will.payload, qos=1, retain=True)
        if settings.username is not None:
            client.username_pw_set(settings.username, settings.password())
        if settings.ca_file is not None:
            client.tls_set_context(_tls(settings))
        client.on_socket_open = _no_delay
        # None of them holds the client, which would hold itself by it: when its connection ends, all that it held goes.
        client.on_connect = self._guard(lambda *a: self._on_connect(a[0], epoch, protocol, *a[2:5]))
        client.on_disconnect = self._guard(lambda *a: self._on_disconnect(a[3]))
        client.on_publish = self._guard(lambda *a: self._on_publish(a[3]))
        client.on_subscribe = self._guard(lambda *a: self._on_subscribe(a[3]))
        client.on_message = self._guard(lambda *a: self._on_message(epoch, a[2]))
        return client

    def _guard(self, callback: Callable[..., None]) -> Callable[..., None]:
        """Hand a callback's exception to the run group: in paho it would end the network thread in silence."""

        def guarded(*arguments: Any) -> None:
            try:
                callback(*arguments)
            except BaseException as error:  # noqa: BLE001  (it ends the process: `run` raises it)
                self._failure = error
                self._closed.set()

        return guarded

    def _on_connect(
        self, client: _Client, epoch: int, protocol: Protocol, flags: Any, reason: Any, properties: Any
    ) -> None:
        if reason.is_failure:
            if str(reason) in _REFUSED_FOR_GOOD:
                log.error(
                    "broker_refused host=%s reason=%r check=username,password_file", self._settings.host, str(reason)
                )
            else:
                log.warning("broker_refused host=%s reason=%r", self._settings.host, str(reason))
            self._closed.set()
            return
        if self._subscriptions:
            client.subscribe([(topic, 1) for topic in self._subscriptions])
        client.limit = PacketLimit(getattr(properties, "MaximumPacketSize", None), self._settings.max_packet_bytes)
        self._client = client
        self._stood_from_s = time.monotonic()
        self._connected_epoch = epoch
        log.info(
            "broker_connected host=%s port=%d protocol=%s resumed=%s",
            self._settings.host,
            self._settings.port,
            protocol,
            bool(flags.session_present),
        )
        self.inbox.put(Connected(epoch, protocol))

    def _on_disconnect(self, reason: Any) -> None:
        if not self._closed.is_set():  # the broker's own word comes first, that the socket closed second
            self._reason = str(reason)
        self._closed.set()

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
        self._hear(epoch, Publish(message.topic, payload, *flags, message.mid, properties))

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
        properties = self._publish_properties(user_properties, content_type)
        if (why := _why_not(client, topic, payload, properties)) is not None:
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
        return _why_not(client, topic, payload, self._publish_properties(user_properties, content_type))

    def _publish_properties(
        self, user_properties: Sequence[tuple[str, str]], content_type: str | None
    ) -> Properties | None:
        if self.protocol != "5" or not (user_properties or content_type):
            return None
        properties = _properties(PacketTypes.PUBLISH)
        if user_properties:
            properties.UserProperty = list(user_properties)
        if content_type:
            properties.ContentType = content_type
        return properties

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


def probe(settings: BrokerSettings) -> Protocol:
    """Ask the broker which MQTT it speaks, with a bare MQTT 5 CONNECT and nothing else in it.

    A refusal of the version means 3.1.1, any MQTT 5 answer (also "not authorized") means 5; a silence is
    BrokerUnreachable, never a downgrade.
    """
    body = b"\x00\x04MQTT\x05\x02" + struct.pack(">H", 5) + b"\x00" + b"\x00\x00"
    with socket.create_connection((settings.host, settings.port), settings.connect_timeout_s) as plain:
        plain.settimeout(PROBE_TIMEOUT_S)
        sock = plain
        if settings.ca_file is not None:
            sock = _tls(settings).wrap_socket(plain, server_hostname=settings.host)
        with sock:
            sock.sendall(bytes([0x10, len(body)]) + body)
            try:
                answer = sock.recv(5)
            except TimeoutError:
                raise BrokerUnreachable(f"no answer to CONNECT within {PROBE_TIMEOUT_S} s") from None
    if len(answer) < 4 or answer[0] != 0x20:
        raise BrokerUnreachable(f"no MQTT broker there: answered {answer.hex() or 'nothing'}")
    return "3.1.1" if answer[1] == 2 and answer[3] in (1, 132) else "5"


def _why_not(client: _Client, topic: str, payload: bytes, properties: Properties | None) -> str | None:
    if not client.limit.matters_to(len(payload)):
        return None
    properties_bytes = len(properties.pack()) if properties is not None else 1  # type: ignore[no-untyped-call]
    return client.limit.why_not(topic, len(payload), properties_bytes)


def _properties(packet_type: int) -> Properties:
    return Properties(packet_type)  # type: ignore[no-untyped-call]


def _nothing() -> None:
    """Acknowledge a message of QoS 0, which nobody waits for."""


def _no_delay(_client: paho.Client, _userdata: Any, sock: Any) -> None:
    # Without it Nagle's algorithm meets delayed acknowledgements: 44 ms for each frame.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _tls(settings: BrokerSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(settings.ca_file))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError([f"{settings.ca_file}: cannot use these CA certificates: {error}"]) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
