"""The agent's one loop over its spool: keep what the feeds hand over, send it, forget it on the gateway's receipt."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from device_agent.feed import Feed
from device_agent.packing import Admission
from device_agent.patience import Patience
from device_agent.publish import Sender
from device_agent.settings import AgentSettings
from device_agent.spool import Spool
from millrace import __version__, clock, crashpoints, events, jsontext, mending, topics
from millrace.blobs import StorageFailed
from millrace.entries import Entry
from millrace.healing import damaged_files
from millrace.inbox import Connected, Delivery, Disconnected
from millrace.mqtt import Connection
from millrace.service import Beat

log = logging.getLogger(__name__)

POLL_S = 0.1
GATHER_MAX = 64
SEND_ROWS = 16
STATUS_EVERY_S = 30.0
SAY_REFUSED_EVERY_S = 30.0
RETRY_STORAGE_S = 1.0
RETRY_STORAGE_MAX_S = 10.0


@dataclass(frozen=True, slots=True)
class Handed:
    """What a feed hands over."""

    feed: Feed
    admission: Admission


class Keeper:
    """An actor; owns the spool."""

    def __init__(
        self, settings: AgentSettings, spool: Spool, connection: Connection, feeds: Sequence[Feed], time: clock.Clock
    ) -> None:
        self._settings, self._spool, self._connection = settings, spool, connection
        self.feeds, self._clock = feeds, time
        publish = settings.publish
        self._sender = Sender(publish.window_bytes, publish.resend_after_s, publish.resend_max_s)
        self._stop = threading.Event()
        self._status_topic = topics.topic(settings.prefix, topics.Kind.DEVICE_STATUS, settings.device)
        self.session = secrets.token_hex(4)
        self._said: tuple[str, ...] = ()
        self._said_s = float("-inf")
        self._heard = mending.Heard()
        self._sending, self._tending, self._settling, self._shedding = (
            Patience(RETRY_STORAGE_S, RETRY_STORAGE_MAX_S) for _ in range(4)
        )
        self._refused = 0
        self._too_large = ""
        self._said_refused_s = float("-inf")
        self.beat = Beat(time)

    def run(self) -> None:
        """Work until interrupted; what was handed over before that is kept, and the last word is `offline`."""
        while not self._stop.is_set():
            self.beat.beat()
            self._take_in(POLL_S)
            self._with_patience(self._sending, self._send)
            self._with_patience(self._tending, self._tend)
            self._say_status()
        self._take_in(0)
        self._connection.farewell(self._status_topic, self._status("offline"))

    def _with_patience(self, patience: Patience, work: Callable[[], None]) -> None:
        """Do what needs the disk; if that refuses, say so and let it be for a while. What is held stays held."""
        now_s = self._clock.uptime_s()
        if not patience.due(now_s):
            return
        try:
            work()
        except StorageFailed as error:
            log.error(
                "disk_refused work=%s retry_s=%.0f error=%s", work.__name__.strip("_"), patience.refused(now_s), error
            )
        else:
            patience.done()

    def _tend(self) -> None:
        self._spool.tend(self._clock.uptime_s())

    def interrupt(self) -> None:
        """End `run`."""
        self._stop.set()

    # --- taking in

    def _take_in(self, wait_s: float) -> None:
        """Take up what has arrived: admissions together in one commit, messages one by one."""
        handed: list[Handed] = []
        inbox = self._connection.inbox
        arrival = inbox.get(wait_s)
        deadline_s = self._clock.uptime_s() + self._settings.spool.commit_delay_ms / 1000
        while arrival is not None:
            if isinstance(arrival, Handed):
                handed.append(arrival)
            else:
                self._hear(arrival)
            if len(handed) >= GATHER_MAX:
                break
            arrival = inbox.get(max(0.0, deadline_s - self._clock.uptime_s()) if handed else 0)
        if handed:
            self._keep(handed)

    def _keep(self, handed: list[Handed]) -> None:
        crashpoints.reached("agent.handed")
        kept = []

        def make_room() -> None:
            self._spool.make_room(sum(item.admission.size_bytes for item in handed))

        self._with_patience(self._shedding, make_room)
        for item in handed:
            if self._spool.has_room(item.admission):
                kept.append(item.admission)
            else:
                self._refuse("the spool is full")
        try:
            promised = len(self._spool.admit(kept)) if kept else 0
            if promised:
                crashpoints.reached("agent.admitted")
            why = "the disk refuses"
        except StorageFailed as error:
            promised, why = 0, str(error)
        for _ in kept[promised:]:
            self._refuse(why)
        for item in handed:
            item.feed.taken()

    def _refuse(self, why: str) -> None:
        """Count a capture that was not promised to anyone; the status says how many."""
        self._refused += 1
        now_s = self._clock.uptime_s()
        if now_s - self._said_refused_s > SAY_REFUSED_EVERY_S:
            self._said_refused_s = now_s
            log.error("captures_refused total=%d reason=%s", self._refused, why)

    # --- hearing

    def _hear(self, arrival: object) -> None:
        now_s = self._clock.uptime_s()
        if isinstance(arrival, Connected):
            self._sender.connected(now_s)
            self._said_s = float("-inf")
        elif isinstance(arrival, Disconnected):
            self._sender.disconnected()
        elif isinstance(arrival, Delivery):
            self._hear_message(arrival, now_s)
            arrival.ack()

    def _hear_message(self, delivery: Delivery, now_s: float) -> None:
        try:
            topic = topics.parse(self._settings.prefix, delivery.topic)
            value = jsontext.parse(delivery.payload, 1 << 20)
            if not isinstance(value, dict):
                raise ValueError("not an object")
            self._hear_clock(value)
            if topic.kind is topics.Kind.GATEWAY_STATUS:
                self._hear_gateway(topic.owner, value, now_s)
            elif topic.kind is topics.Kind.RECEIPT:
                self._hear_receipt(value, now_s)
        except (ValueError, KeyError, TypeError) as error:
            log.warning("message_ignored topic=%s error=%s", delivery.topic, error)

    def _hear_clock(self, value: dict[str, Any]) -> None:
        """Note a gateway's uptime: our status says when we heard it, so that it can mend our times."""
        boot_id, theirs_ns = value.get("bootid"), mending.uptime(value.get("uptimens"))
        if isinstance(boot_id, str) and theirs_ns is not None:
            self._heard.note(boot_id, theirs_ns, self._clock.now().uptime_ns)

    def _hear_gateway(self, name: str, value: dict[str, Any], now_s: float) -> None:
        state = value.get("state")
        if state == "online":
            if self._sender.gateway(name, str(value["session"]), now_s):
                log.info("gateway_online gateway=%s session=%s", name, value["session"])
                self._said_s = float("-inf")
        elif state in ("offline", "lost"):
            self._sender.gateway(name, None, now_s)
            log.info("gateway_%s gateway=%s", state, name)

    def _hear_receipt(self, value: dict[str, Any], now_s: float) -> None:
        epoch, window_bytes = str(value["epoch"]), int(value["window_bytes"])
        ranges = [(int(first), int(last)) for first, last in value["ranges"]]

        def settle() -> None:
            if self._spool.is_ahead(epoch, ranges):
                self._spool.begin_epoch("a receipt is ahead of what was sent: the spool was set back", ranges)
                self._said_s = float("-inf")
                return
            crashpoints.reached("agent.receipt_heard")
            positions = self._spool.settle(epoch, ranges)
            crashpoints.reached("agent.forgot")
            self._sender.receipted(positions, window_bytes, now_s, greets=epoch == self._spool.epoch)

        self._with_patience(self._settling, settle)  # what the disk refuses now comes again: receipts are cumulative

    # --- sending

    def _send(self) -> None:
        now_s = self._clock.uptime_s()
        if self._sender.resend_due(now_s):
            log.info("resend_begun held=%d", self._spool.held_rows)
            self._said_s = float("-inf")
        while self._sender.budget_bytes() > 0:
            entries, buried = self._spool.read(self._sender.cursor, SEND_ROWS), False
            for entry in entries:
                if self._sender.budget_bytes() <= 0:
                    return
                why = self._send_entry(entry, now_s)
                if why is not None:
                    self._spool.bury(entry, why)
                    buried = True
            if len(entries) < SEND_ROWS or buried:  # a burial is a commit: many of them are parted
                return

    def _send_entry(self, entry: Entry, now_s: float) -> str | None:
        """Hand an entry to the connection, or say why it can never be sent."""
        parcel = self._spool.parcel(entry)
        if parcel is None:
            return "the spool's copy is damaged"
        size_bytes = len(parcel.payload)
        if size_bytes > self._settings.max_payload_bytes:
            return f"{size_bytes} bytes are over max_payload_bytes"
        is_frame = parcel.kind is topics.Kind.FRAME
        topic = topics.topic(self._settings.prefix, parcel.kind, self._settings.device, parcel.channel)
        properties = events.user_properties(parcel.event) if is_frame else ()
        content_type = parcel.event.datacontenttype if is_frame else events.JSON_CONTENT_TYPE
        why = self._connection.too_large(topic, parcel.payload, user_properties=properties, content_type=content_type)
        if why is not None and parcel.kind is not topics.Kind.DEVICE_LEDGER:
            self._too_large = f"declared lost: {why}"
            return why
        self._connection.publish(
            topic,
            parcel.payload,
            qos=topics.TABLE[parcel.kind].qos,
            user_properties=properties,
            content_type=content_type,
        )
        crashpoints.reached("agent.published")
        if why is not None:  # a ledger record: one of its loss would be no smaller
            self._too_large = f"a ledger record that waits: {why}"
            self._sender.passed_by(entry.position)
            return None
        self._sender.sent(entry.position, size_bytes, now_s)
        return None

    # --- saying

    def _say_status(self) -> None:
        now_s = self._clock.uptime_s()
        states = tuple(feed.state for feed in self.feeds)
        if states == self._said and now_s - self._said_s < STATUS_EVERY_S:
            return
        self._connection.publish(self._status_topic, self._status("online"), retain=True)
        self._said, self._said_s = states, now_s  # in vain without a connection: the next one asks for it again

    def _status(self, state: str) -> bytes:
        now = self._clock.now()
        minted = self._spool.minted()
        epoch, *older = self._spool.held_epochs()
        return jsontext.dump(
            {
                "state": state,
                "session": self.session,
                "version": __version__,
                "mqtt": self._connection.protocol,
                "epoch": epoch,
                "minted": minted.get(epoch, 0),
                "held_epochs": [epoch, *older],
                "older_minted": {name: minted.get(name, 0) for name in older},
                "held": self._spool.held_rows,
                "held_bytes": self._spool.held_bytes,
                "refused": self._refused,
                "shed": self._spool.shed_rows,
                "too_large": self._too_large,
                "unencodable": sum(feed.unencodable for feed in self.feeds),
                "channels": {feed.name: feed.state for feed in self.feeds},
                "time": clock.rfc3339(now.wall_ns),
                "clock": clock.wall_state(),
                "bootid": now.boot_id,
                "uptimens": str(now.uptime_ns),
                "heard": self._heard.said(),
                "damaged": damaged_files(self._settings.state_dir),
            }
        )
