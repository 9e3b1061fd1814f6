"""What has its turn is decoded, frames go to the workers, and all of it into the line."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from edge_gateway.admission import Arrived, DeviceStatus, GatewayStatus, Malformed, admit
from edge_gateway.line import Item, Line
from edge_gateway.settings import GatewaySettings
from edge_gateway.turns import HTTP_DEVICE, Asked, Heard, Turns
from edge_gateway.workers import Workers
from millrace import clock, crashpoints, events, images, topics
from millrace.inbox import Connected, Disconnected
from millrace.service import Beat

POLL_S = 0.1


class Intake:
    """An actor: takes what has its turn, says what it is, and starts the inference of frames."""

    def __init__(
        self, settings: GatewaySettings, turns: Turns, line: Line, workers: Workers, time: clock.Clock
    ) -> None:
        self._settings, self._line, self._workers, self._clock = settings, line, workers, time
        self.turns = turns
        line.freed = turns.wake
        self._stop = threading.Event()
        self.beat = Beat(time)
        self.connection_events: queue.SimpleQueue[Connected | Disconnected] = queue.SimpleQueue()

    def run(self) -> None:
        """Work until interrupted."""
        while not self._stop.is_set():
            self.beat.beat()
            arrival = self.turns.get(POLL_S, self._line.has_room)
            if isinstance(arrival, Heard | Asked):
                self._forward(arrival)
            elif isinstance(arrival, Connected | Disconnected):
                self.connection_events.put(arrival)

    def interrupt(self) -> None:
        """End `run`."""
        self._stop.set()
        self._line.closed.set()

    def _forward(self, waiting: Heard | Asked) -> None:
        crashpoints.reached("gateway.received")
        items = [Item(waiting.arrived, _nothing)] if isinstance(waiting, Asked) else self._items(waiting)
        for item in items:
            if isinstance(item.finished, Arrived) and item.finished.type == events.FRAME:
                self._workers.start(item.finished)
        while not self._line.closed.is_set() and not self._line.offer(items, POLL_S):
            self.beat.beat()  # the line stands, and it is the writer's beat that tells why

    def _items(self, heard: Heard) -> list[Item]:
        delivery, limit = heard.delivery, self._settings.max_payload_bytes
        device = heard.topic.owner
        try:
            found = admit(
                self._settings.prefix,
                delivery.topic,
                delivery.payload,
                delivery.properties,
                self._clock.now(),
                delivery.redelivered,
            )
        except topics.BadTopic as error:
            self.turns.refuse(error)
            delivery.ack()
            return []
        except events.MalformedEvent as error:
            bad = Malformed(delivery.topic, delivery.payload, str(error), device, error.key)
            return [Item(bad, delivery.ack)]
        if isinstance(found, DeviceStatus):
            if delivery.retain:  # it was said long ago
                found = replace(found, held_epochs=None, session=None, ended=False)
            return [Item(found, delivery.ack)]
        if isinstance(found, GatewayStatus):
            return [Item(found, delivery.ack)]
        if len(delivery.payload) > limit:
            reason = f"{len(delivery.payload)} bytes; at most {limit} are taken (max_payload_bytes)"
            key = found[0].event.key if found[0].event else None
            return [Item(Malformed(delivery.topic, delivery.payload, reason, device, key), delivery.ack)]
        return [Item(a, _nothing if a is not found[-1] else delivery.ack) for a in found]

    def predict(self, picture: bytes, channel: str) -> Future[list[dict[str, Any]]]:
        """Send an uploaded picture down the same line, as a bare frame of the device `http`.

        The future gives the results' data once they are committed, or NotAnswered, also if the line has no place.
        Errors: MalformedEvent, ValueError for a channel's name.
        """
        prefix = self._settings.prefix
        topic = topics.topic(prefix, topics.Kind.FRAME, HTTP_DEVICE, channel)
        found = admit(prefix, topic, images.bare(picture), (), self._clock.now(), redelivered=False)
        assert isinstance(found, list)
        arrived = found[0]
        reply = arrived.reply = Future()
        reply.set_running_or_notify_cancel()  # a caller who gives up must not take the writer's answer with him
        self.turns.put(Asked(arrived, reply))
        return reply


def _nothing() -> None:
    """Acknowledge nothing: several events came in one message, or none came by MQTT."""
