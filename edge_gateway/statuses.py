"""What devices and gateways say of themselves, taken: how far they have minted, what they hold, who runs twice."""

from __future__ import annotations

import logging

from edge_gateway.admission import DeviceStatus, GatewayStatus
from edge_gateway.company import Gateways, Twins
from edge_gateway.own_events import OwnEvents
from edge_gateway.settings import GatewaySettings
from edge_gateway.store import Store
from edge_gateway.work import Work
from millrace import clock
from millrace.mending import Sighting

log = logging.getLogger(__name__)

TWINS_ALARM_EVERY_S = 3600.0


class Statuses:
    """Takes them inside the present transaction."""

    def __init__(
        self,
        settings: GatewaySettings,
        store: Store,
        time: clock.Clock,
        own: OwnEvents,
        twins: Twins,
        gateways: Gateways,
    ) -> None:
        self._settings, self._store, self._clock, self._own = settings, store, time, own
        self._twins, self._gateways = twins, gateways

    def hear_device(self, status: DeviceStatus, work: Work) -> None:
        """Take a device's word; one that is online is owed a receipt. Errors: Crowded."""
        if not work.register.admits(status.device):
            return
        if status.met is not None:
            boot_id, tie = status.met
            ours = (f"gateway/{self._settings.gateway}", self._clock.now().boot_id)
            self._store.note_sighting(Sighting((f"device/{status.device}", boot_id), ours, tie))
        self._tell_apart(status, work)
        if status.epoch is None:
            return
        if status.online:
            self._meet_in_order(status, work)
            # Even where there is no room for its epoch: who hears nothing sends nothing, and goes on to hold all.
            work.owed[status.device, status.epoch] = self._store.stream(status.device, status.epoch)
        if status.minted:
            work.stream(status.device, status.epoch, self._clock.uptime_s())
            self._store.outbox.note_minted(f"device/{status.device}", status.epoch, status.minted)
        if status.online and status.held_epochs is not None:
            self._close_epochs(status, status.held_epochs | {status.epoch, self._store.outbox.epoch}, work)

    def hear_gateway(self, status: GatewayStatus, work: Work) -> None:
        """Take a gateway's word, ours or another's; say it when another one has our name."""
        now_s, name = self._clock.uptime_s(), status.gateway
        if self._gateways.heard(name, status.session, status.said_ns, now_s):
            log.warning("gateway_beside gateway=%s: both store and answer all that devices send", name)
        namesake = self._gateways.namesake(now_s)
        if namesake and name == self._gateways.name:
            text = (
                f"another gateway under this name: session {namesake} speaks as {name} beside {self._gateways.session};"
                " nothing is lost; stop one, or give it another name (gateway:)"
            )
            self._own.alarm("another_gateway", name, text, work, TWINS_ALARM_EVERY_S)

    def _tell_apart(self, status: DeviceStatus, work: Work) -> None:
        """Say it when two agents run under one name."""
        device, now_s = status.device, self._clock.uptime_s()
        if status.ended:
            self._twins.ended(device)
        if not status.online or None in (status.session, status.epoch, status.said_ns):
            return
        self._twins.heard(device, str(status.session), str(status.epoch), status.said_ns or 0, now_s)
        twins = self._twins.of(device, now_s)
        if twins:
            both = " and ".join(f"session {session} (epoch {epoch})" for session, epoch in twins.items())
            text = f"two agents run as {device}: {both}; nothing is lost; stop one, or give it another name (device:)"
            self._own.alarm("two_agents", device, text, work, TWINS_ALARM_EVERY_S)

    def _meet_in_order(self, status: DeviceStatus, work: Work) -> None:
        """Meet epochs in which a device never spoke to us before its present one: theirs is the older place.

        One place is left for the present one. They are in use, whether we knew them or not: the device holds them.
        """
        device, last = status.device, self._settings.limits.epochs_per_device - 1
        for epoch, minted in status.older_minted:
            if self._store.stream(device, epoch) is not None or len(self._store.epochs_of(device)) < last:
                work.stream(device, epoch, self._clock.uptime_s())
                self._store.outbox.note_minted(f"device/{device}", epoch, minted)

    def _close_epochs(self, status: DeviceStatus, held: frozenset[str], work: Work) -> None:
        """Declare what is owed of epochs that a device has left and holds nothing of: it should not come any more."""
        device = status.device
        for stream in self._store.epochs_of(device):
            if stream.epoch in held or self._twins.may_live(
                device, stream.epoch, status.session, self._clock.uptime_s()
            ):
                continue
            for first, last in stream.gaps_below(self._store.minted_of(stream) + 1):
                work.declare(device, stream.epoch, first, last, "unproven", "the device holds nothing of this epoch")
                work.touch(stream).declare(first, last)
