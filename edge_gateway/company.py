"""Who else is there: two agents under one device name, another gateway on the floor or under this one's name. No I/O.

Sessions are names that a program draws at its start. One that is heard again after another one is a second program
that lives: a program that was started again does not come back as the one before.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ALIVE_S = 75.0  # an agent speaks every 30 s
TWINS_FOR_S = 3600.0
SESSIONS_KEPT = 8
DEVICES_KEPT = 4096
GATEWAYS_KEPT = 64


@dataclass(slots=True)
class _Agent:
    said_ns: int
    heard_s: float
    epoch: str
    ended: bool = False


@dataclass(slots=True)
class _Device:
    agents: dict[str, _Agent] = field(default_factory=dict)
    """By session, the one heard last at the end."""
    twins: tuple[str, str] | None = None
    twins_s: float = float("-inf")


class Twins:
    """What live statuses of devices tell of the agents behind them. The writer's thread writes, others may ask."""

    def __init__(self) -> None:
        self._devices: dict[str, _Device] = {}

    def heard(self, device: str, session: str, epoch: str, said_ns: int, now_s: float) -> None:
        """Take a live `online`, said at the agent's uptime `said_ns`; one that was heard before is no news."""
        known = self._devices.setdefault(device, _Device())
        if len(self._devices) > DEVICES_KEPT:
            self._devices.pop(next(iter(self._devices)))
        before = known.agents.get(session)
        if before is not None and said_ns <= before.said_ns:
            return
        other = next(reversed(known.agents), session)
        if before is not None and other != session:
            known.twins, known.twins_s = (session, other), now_s
        known.agents.pop(session, None)
        known.agents[session] = _Agent(said_ns, now_s, epoch)
        if len(known.agents) > SESSIONS_KEPT:
            known.agents.pop(next(iter(known.agents)))

    def ended(self, device: str) -> None:
        """Take a live `offline` or `lost`, which does not say whose it is."""
        for agent in self._devices.get(device, _Device()).agents.values():
            agent.ended = True

    def of(self, device: str, now_s: float) -> dict[str, str] | None:
        """Return session -> epoch of two agents that both spoke under one name within the last hour, or None."""
        known = self._devices.get(device)
        if known is None or known.twins is None or now_s - known.twins_s > TWINS_FOR_S:
            return None
        return {session: known.agents[session].epoch for session in known.twins if session in known.agents}

    def seen(self, now_s: float) -> dict[str, dict[str, str]]:
        """Return `of` for every device that has twins."""
        return {device: found for device in list(self._devices) if (found := self.of(device, now_s))}

    def may_live(self, device: str, epoch: str, but: str | None, now_s: float) -> bool:
        """Whether an agent other than the session `but` may still be minting in an epoch."""
        known = self._devices.get(device, _Device())
        if self.of(device, now_s):
            return True
        return any(
            agent.epoch == epoch and session != but and not agent.ended and now_s - agent.heard_s < ALIVE_S
            for session, agent in known.agents.items()
        )


class Gateways:
    """The other gateways of the floor, and whether one of them has our name. As Twins for threads."""

    def __init__(self, name: str, session: str) -> None:
        self.name, self.session = name, session
        self._echoed = False
        self._others: tuple[str, ...] = ()
        self._said_ns: dict[str, int] = {}
        self._namesake, self._namesake_s = "", float("-inf")

    def heard(self, name: str, session: str | None, said_ns: int, now_s: float) -> bool:
        """Take a status, `session` None for one that is not online; return whether another gateway has come.

        Under our name, what we heard before our own word may be our predecessor's. Who says something new after it
        lives; an old word that a broker repeats is nothing new.
        """
        if name != self.name:
            return self._heard_other(name, session)
        if session == self.session:
            self._echoed = True
        elif session is not None:
            before_ns = self._said_ns.pop(session, said_ns)
            self._said_ns[session] = max(said_ns, before_ns)
            if len(self._said_ns) > SESSIONS_KEPT:
                self._said_ns.pop(next(iter(self._said_ns)))
            if self._echoed and said_ns > before_ns:
                self._namesake, self._namesake_s = session, now_s
        return False

    def namesake(self, now_s: float) -> str | None:
        """Return the session of another gateway that spoke under our name within the last hour."""
        return self._namesake if now_s - self._namesake_s <= TWINS_FOR_S else None

    def others(self) -> list[str]:
        """Return the names of the other gateways that are online, in order."""
        return sorted(self._others)

    def _heard_other(self, name: str, session: str | None) -> bool:
        is_known = name in self._others
        if session is None:
            self._others = tuple(other for other in self._others if other != name)
        elif not is_known and len(self._others) < GATEWAYS_KEPT:
            self._others = (*self._others, name)
            return True
        return False
