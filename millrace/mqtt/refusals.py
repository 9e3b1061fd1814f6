"""What a person may look at when the broker refuses us, or connections do not last; words for the log."""

from __future__ import annotations

from millrace.inbox import Protocol

STEADY_S = 5.0  # a connection that stood for less counts as a failed attempt
_REFUSED_FOR_GOOD = frozenset({"Not authorized", "Bad user name or password", "Unspecified error"})


def is_for_good(reason: str) -> bool:
    """Whether the broker's answer to CONNECT will be the same until a person changes something."""
    return reason in _REFUSED_FOR_GOOD


def hint(reason: str, stood_s: float, client_id: str, username: str | None, protocol: Protocol | None) -> str:
    """Return what to look at, after a blank, for a connection that ended with this reason; or nothing."""
    if "taken over" in reason.lower():  # MQTT 5 tells
        return f" another program connected as {client_id!r}: stop one of the two, or give it another name"
    if stood_s >= STEADY_S:
        return ""
    checks = []
    if username is not None:
        checks.append(f"does another program use the account {username!r}, or is a topic denied to it?")
    if protocol == "3.1.1":
        checks.append("is a message too large for the broker? Then set broker.max_packet_bytes to its limit")
    return f" check: {' '.join(checks)}" if checks else ""
