"""Mosquitto's ACL file, rendered from the topic table: what is not written here, no account may do.

Every account has its own `user` block and there is no `pattern` line. A `pattern` line holds for all accounts: one with
`device/%u` would let a viewer or a gateway write as the device of that name. Wills are checked as any publish is.
Mosquitto grants every subscription and checks each message instead, so `#` delivers just what the account may read.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from broker_config.settings import AccountSettings
from millrace import topics
from millrace.topics import TABLE, Party


class Role(Enum):
    """What an account is for."""

    DEVICE = "device"
    GATEWAY = "gateway"
    VIEWER = "viewer"


def render(prefix: str, accounts: AccountSettings) -> str:
    """Return the ACL file's text for these accounts under `prefix`."""
    lines = ["# Rendered from the topic table by `millrace broker render`; edit the settings, not this file."]
    for role, names in (
        (Role.DEVICE, accounts.devices),
        (Role.GATEWAY, accounts.gateways),
        (Role.VIEWER, accounts.viewers),
    ):
        for name in names:
            lines += ["", f"# {role.value}", f"user {name}"]
            lines += [f"topic write {filter_}" for filter_ in writable(prefix, role, name)]
            lines += [f"topic read {filter_}" for filter_ in readable(prefix, role, name)]
    return "\n".join(lines) + "\n"


def writable(prefix: str, role: Role, name: str) -> Iterator[str]:
    """Yield the topic filters that this account may publish to.

    They cover channel names that the gateway will refuse, so that it can say so: Mosquitto 2.0.11 would end the
    connection at each such message, and a 3.1.1 client would never learn why.
    """
    writer = {Role.DEVICE: Party.DEVICE, Role.GATEWAY: Party.GATEWAY}.get(role)
    for kind, rule in TABLE.items():
        if rule.writer is writer:
            answers_devices = role is Role.GATEWAY and rule.pattern.startswith("device/")
            yield topics.subscription(prefix, kind, "+" if answers_devices else name)


def readable(prefix: str, role: Role, name: str) -> Iterator[str]:
    """Yield the topic filters whose messages this account receives.

    A device hears what is said to it, and of others only what is retained (status, model, alarm): it must know
    whether a gateway is there, and has no business with another device's results.
    """
    if role is Role.VIEWER:
        yield f"{prefix}/#"
        return
    for kind, rule in TABLE.items():
        if role is Role.GATEWAY and rule.readers in (Party.GATEWAY, Party.ALL):
            yield topics.subscription(prefix, kind)
        elif role is Role.DEVICE and rule.readers in (Party.DEVICE, Party.ALL):
            yield topics.subscription(prefix, kind, "+" if rule.retain else name)
