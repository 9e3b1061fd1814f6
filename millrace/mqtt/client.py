"""A paho client that reads many packets at once, acknowledges them together, and can pause its reading.

Its network loop runs in paho's own thread; what other threads ask of it wakes it.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Literal

import paho.mqtt.client as paho
from paho.mqtt import MQTTException
from paho.mqtt.enums import MQTTErrorCode

from millrace.inbox import Inbox
from millrace.mqtt import publishes
from millrace.mqtt.publishes import Publish
from millrace.packet_limit import PacketLimit

PAUSE_S = 0.02
READ_BYTES = 65536
READ_AT_MOST_BYTES = 1 << 20  # however large a packet says that it is
BUSY = b'{"state":"busy"}'  # on the status topic, not retained: it keeps the connection while reading is paused
PACKET_TOO_LARGE = 0x95
UNSPECIFIED_ERROR = 0x80
MALFORMED = (struct.error, LookupError, ValueError, AssertionError, MQTTException)
"""What paho raises at a packet that is not as the standard has it, where it does not answer with an error code."""


class Client(paho.Client):
    """A paho client that reads many packets at once, and leaves the socket unread while the inbox is full.

    By itself paho asks the system four times for each packet, and where other threads are busy waits for the
    interpreter's lock each time. Blocking in a callback would lose the connection while paho says that all is well.
    Of what is read at once the ordinary messages are heard here (`on_publish_read`); all else goes paho's own way.
    `hold_loop` calls the network loop in its thread: however that ends, it knows.
    """

    busy_topic: str | None = None

    def __init__(
        self,
        inbox: Inbox,
        pause_over: threading.Event,
        on_publish_read: Callable[[Publish], None],
        hold_loop: Callable[[Callable[[], object]], None],
        *arguments: Any,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._millrace_hear = on_publish_read
        self._millrace_hold_loop = hold_loop
        self._millrace_inbox = inbox
        self._millrace_pause = pause_over
        self._millrace_grace_s = 0.0
        self._millrace_said_s = 0.0
        self._millrace_ahead = memoryview(b"")
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
        self._millrace_reader = threading.get_ident()
        code = self._read_ahead()
        while self._millrace_ahead and self._sock is not None and code == MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._hear_ahead()
            if self._millrace_ahead:
                code = self._handle_ahead()
        self._millrace_reader = None
        self._send_acks()
        return code

    def _read_ahead(self) -> MQTTErrorCode:
        """Read once from the socket."""
        size_bytes = max(READ_BYTES, min(self._in_packet["to_process"], READ_AT_MOST_BYTES))
        try:
            self._millrace_ahead = memoryview(super()._sock_recv(size_bytes))
        except BlockingIOError:
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        except OSError:
            return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
        if not self._millrace_ahead:  # the broker has closed the connection
            return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _handle_ahead(self) -> MQTTErrorCode:
        """Have paho read one packet of what is ahead, or as much of it as is there."""
        if not self._in_packet["command"] and not self._millrace_ahead[0]:  # paho takes it for no packet begun
            return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_PROTOCOL)
        try:
            code = self._packet_read()
        except MALFORMED:
            code = MQTTErrorCode.MQTT_ERR_PROTOCOL
        return self._loop_rc_handle(code) if code > 0 else MQTTErrorCode.MQTT_ERR_SUCCESS

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
            raise BlockingIOError
        taken, self._millrace_ahead = self._millrace_ahead[:bufsize], self._millrace_ahead[bufsize:]
        return bytes(taken)

    def loop_forever(self, *arguments: Any, **options: Any) -> MQTTErrorCode:
        """Run the network loop as `hold_loop` does: paho's thread ends in silence where it fails or gives up."""
        self._millrace_hold_loop(partial(super().loop_forever, *arguments, **options))
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def loop_misc(self) -> MQTTErrorCode:
        """Look after the keepalive; while reading is paused, and for one keepalive after, say `busy` in its place."""
        now_s = paho.time_func()
        if now_s >= self._millrace_grace_s or self.busy_topic is None:
            return super().loop_misc()
        if now_s - self._millrace_said_s > self.keepalive / 2:
            self._millrace_said_s = now_s
            self.publish(self.busy_topic, BUSY, qos=0)
        return MQTTErrorCode.MQTT_ERR_SUCCESS
