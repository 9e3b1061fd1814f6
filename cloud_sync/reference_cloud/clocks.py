"""Which boots have met, as the cloud keeps it, and the mender of times made of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from millrace.clock import Instant, rfc3339
from millrace.database import Connection
from millrace.mending import Mended, Mender, Node, Sighting, Tie, better, in_order, met, span_of, uptime
from millrace.topics import origin_of

SCHEMA = """
CREATE TABLE tie (
    site TEXT, origin TEXT, bootid TEXT, peer TEXT, peer_bootid TEXT, span INTEGER,
    low_ns INTEGER NOT NULL, peer_low_ns INTEGER NOT NULL, high_ns INTEGER NOT NULL, peer_high_ns INTEGER NOT NULL,
    PRIMARY KEY (site, origin, bootid, peer, peer_bootid, span)
) WITHOUT ROWID;
CREATE INDEX tie_of_peer ON tie (site, peer, peer_bootid);
CREATE TABLE own_boot (bootid TEXT PRIMARY KEY, wall_less_uptime_ns INTEGER NOT NULL) WITHOUT ROWID;
"""
CLOUD = "cloud"

_NUMBERS = "low_ns, peer_low_ns, high_ns, peer_high_ns"
_SELECT_ONE = (
    f"SELECT {_NUMBERS} FROM tie WHERE site = ? AND origin = ? AND bootid = ?"  # noqa: S608  (no value in it)
    " AND peer = ? AND peer_bootid = ? AND span = ?"
)
_SELECT_UP = f"SELECT peer, peer_bootid, {_NUMBERS} FROM tie WHERE site = ? AND origin = ? AND bootid = ?"  # noqa: S608
_SELECT_DOWN = f"SELECT origin, bootid, {_NUMBERS} FROM tie WHERE site = ? AND peer = ? AND peer_bootid = ?"  # noqa: S608
_SELECT_GATEWAY = (
    "SELECT DISTINCT origin FROM tie WHERE site = ? AND origin LIKE 'gateway/%' AND bootid = ? AND peer = 'cloud'"
)


def note(connection: Connection, site: str, sightings: Iterable[Sighting]) -> None:
    """Keep what is news of these, inside the present transaction."""
    for sighting in sightings:
        key = (site, *sighting.mine, *sighting.theirs, span_of(sighting.tie))
        row = connection.execute(_SELECT_ONE, key).fetchone()
        tie = better(None if row is None else _tie(*row), sighting.tie)
        if tie is not None:
            values = (*key, *tie.low, *tie.high)
            connection.execute("INSERT OR REPLACE INTO tie VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)


def note_boot(connection: Connection, now: Instant) -> None:
    """Keep what the cloud's own wall clock says in this boot: the last word on a boot is believed."""
    connection.execute("INSERT OR REPLACE INTO own_boot VALUES (?, ?)", (now.boot_id, now.wall_ns - now.uptime_ns))


def met_us(gateway: str, said: Mapping[str, Any], now: Instant) -> list[Sighting]:
    """Return what a batch's `clock` says of its sender's boot and ours; nothing where it does not say."""
    found = met(said, now.boot_id, now.uptime_ns)
    return [Sighting((f"gateway/{gateway}", found[0]), (CLOUD, now.boot_id), found[1])] if found else []


def moment(event: Mapping[str, Any]) -> tuple[str, str, int] | None:
    """Return an event's origin, boot id and uptime in ns; None where it does not say them."""
    boot_id, uptime_ns = event.get("bootid"), uptime(event.get("uptimens"))
    if boot_id is None or uptime_ns is None:
        return None
    return origin_of(str(event["source"])), str(boot_id), uptime_ns


def words(mended: Mended | None) -> dict[str, Any]:
    """Return what a reader is told: the time, and by how much it may be wrong, rounded up."""
    if mended is None:
        return {}
    within_us = -(-mended.within_ns // 1000) + 1  # the time is cut to microseconds
    try:
        return {"mended_time": rfc3339(mended.time_ns), "mended_within_ms": within_us / 1000}
    except OverflowError:  # somebody told of uptimes that lead beyond the year 9999
        return {}


class SiteMender:
    """Mends the times of one site's events, as the cloud's clock stands now; for one answer, inside a transaction."""

    def __init__(self, connection: Connection, site: str, now: Instant) -> None:
        self._connection, self._site = connection, site
        self._cache: dict[tuple[str, Node], Mapping[Node, list[Tie]]] = {}
        self._who: dict[Node, Node] = {}
        past = {
            (CLOUD, str(boot_id)): int(offset_ns)
            for boot_id, offset_ns in connection.execute("SELECT bootid, wall_less_uptime_ns FROM own_boot")
            if boot_id != now.boot_id
        }
        present = {(CLOUD, now.boot_id): now.wall_ns - now.uptime_ns}
        self._mender = Mender(self._up, self._around, (present, past))

    def mend(self, origin: str, boot_id: str, uptime_ns: int) -> Mended | None:
        """Return when an event was by the cloud's clock, or None where that is not known."""
        return self._mender.mend(self._node(origin, boot_id), uptime_ns)

    def _node(self, origin: str, boot_id: str) -> Node:
        """Return whose uptime an event bears: its origin's, or that of the gateway that gave a bare event its key."""
        said = (origin, boot_id)
        if said not in self._who:
            self._who[said] = said
            if not self._up(said):
                gateways = self._connection.execute(_SELECT_GATEWAY, (self._site, boot_id)).fetchall()
                if gateways:
                    self._who[said] = (str(gateways[0][0]), boot_id)
        return self._who[said]

    def _up(self, node: Node) -> Mapping[Node, list[Tie]]:
        return self._ties("up", _SELECT_UP, node)

    def _around(self, node: Node) -> Mapping[Node, list[Tie]]:
        turned = self._ties("down", _SELECT_DOWN, node)
        down = {peer: in_order(tie.turned() for tie in ties) for peer, ties in turned.items()}
        return {**down, **self._up(node)}

    def _ties(self, way: str, sql: str, node: Node) -> Mapping[Node, list[Tie]]:
        known = self._cache.get((way, node))
        if known is None:
            found: dict[Node, list[Tie]] = {}
            for peer, peer_boot, *numbers in self._connection.execute(sql, (self._site, *node)):
                found.setdefault((str(peer), str(peer_boot)), []).append(_tie(*numbers))
            known = self._cache[way, node] = {peer: in_order(ties) for peer, ties in found.items()}
        return known


def _tie(*numbers: Any) -> Tie:
    low_ns, peer_low_ns, high_ns, peer_high_ns = numbers
    return Tie((low_ns, peer_low_ns), (high_ns, peer_high_ns))
