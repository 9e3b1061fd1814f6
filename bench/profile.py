"""How much a run of the bench does: `quick` in under three minutes, `full` for what is claimed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Profile:
    """Rounds of each measurement, and how much each round takes."""

    name: str
    rounds: int
    frames: int
    """Frames a round."""
    paced_s: float
    """Seconds of evenly paced frames a round."""
    readings: int
    """Readings a round."""
    groups: int
    """Commits of 32 rows a round."""
    idle_s: float
    """Seconds for which an idle gateway is watched."""
    backlog_rows: int
    peers: bool
    """Whether the other serving systems are measured beside."""


QUICK = Profile("quick", 3, 300, 3.0, 20_000, 200, 8.0, 100_000, peers=False)
FULL = Profile("full", 5, 800, 15.0, 60_000, 600, 60.0, 1_000_000, peers=True)
PROFILES = {profile.name: profile for profile in (QUICK, FULL)}
