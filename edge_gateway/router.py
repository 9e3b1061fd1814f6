"""What is decided about a frame or window: is the edge's answer sure, does the frame go up, is it kept. No I/O here."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

from edge_gateway.settings import FramePolicy, PolicySettings

DecisionWord = Literal["edge", "escalate", "fall_back"]


@dataclass(frozen=True, slots=True)
class Decision:
    """Whose answer counts, and why, in words for a person."""

    decision: DecisionWord
    reason: str


def decide(score: float, threshold: float, policy: PolicySettings) -> Decision:
    """Say whether the edge's answer stands, is sent up for a second opinion, or stands for want of one."""
    if score >= threshold:
        return Decision("edge", f"score {score:.2f} >= {threshold:.2f}")
    if policy.frames in ("escalated", "all"):
        return Decision("escalate", f"score {score:.2f} < {threshold:.2f}")
    return Decision("fall_back", f"score {score:.2f} < {threshold:.2f}, frames: {policy.frames}")


def decide_window(score: float, threshold: float, policy: PolicySettings) -> Decision:
    """Say of a window of readings whether the edge's answer stands; the readings go up by their own policy."""
    if score >= threshold:
        return Decision("edge", f"score {score:.2f} >= {threshold:.2f}")
    if policy.readings == "all":
        return Decision("escalate", f"score {score:.2f} < {threshold:.2f}")
    return Decision("fall_back", f"score {score:.2f} < {threshold:.2f}, readings: none")


def frame_goes(which: FramePolicy, decisions: list[Decision], defect: bool, key: str, sample_ratio: float) -> bool:
    """Say whether a frame falls under `which`; a sample depends on the key alone, so that a repeat decides alike."""
    if which == "all":
        return True
    if which == "defects":
        return defect
    if which == "escalated":
        return any(decision.decision == "escalate" for decision in decisions)
    if which == "sample":
        return zlib.crc32(key.encode()) < sample_ratio * 2**32
    return False
