"""Whether an accelerator serves or its twin on the CPU does, and when the accelerator is tried again. No I/O."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """`starting`: not tried yet; `serving`: it gave the golden answers; `failed`: the twin serves until it does so."""

    STARTING = "starting"
    SERVING = "serving"
    FAILED = "failed"


class Reason(StrEnum):
    """Why an accelerator does not serve."""

    REFUSED = "refused"
    """It cannot be opened, or not in time."""
    RAISED = "raised"
    """It broke off an inference."""
    HUNG = "hung"
    """It gave no answer within the deadline."""
    GARBAGE = "garbage"
    """Its answer has another shape or type than the model's, or is no number."""
    MISMATCH = "mismatch"
    """Its answers to the golden inputs are not its twin's."""
    DIED = "died"
    """Its process ended."""


@dataclass(frozen=True, slots=True)
class Pauses:
    """Seconds before a failed accelerator is tried again: the first, doubled with each failure, up to the longest."""

    first_s: float
    longest_s: float


class Standby:
    """The state of one accelerator; changed by one thread at a time, the time passed in.

    The pause falls back to the first one only after it has served for as long as the longest pause: one that fails
    again and again is tried ever less often, however well each trial went.
    """

    def __init__(self, pauses: Pauses, now_s: float) -> None:
        self._pauses, self._pause_s = pauses, pauses.first_s
        self._due_s = now_s
        self.state = State.STARTING
        self.since_s = now_s
        self.reason: Reason | None = None
        self.said = ""
        """What was wrong the last time, in words; empty before the first failure."""
        self.fallbacks: Counter[Reason] = Counter()
        """How often the twin had to take over, by reason; trials that fail while it serves are not counted."""

    def serves(self) -> bool:
        """Whether the accelerator is asked."""
        return self.state is State.SERVING

    def wait_s(self, now_s: float) -> float:
        """Return the seconds until a trial is due; means nothing while it serves."""
        return max(0.0, self._due_s - now_s)

    def passed(self, now_s: float) -> None:
        """Take note that a trial gave the golden answers: the accelerator serves."""
        self.state, self.since_s = State.SERVING, now_s

    def failed(self, reason: Reason, said: str, now_s: float) -> None:
        """Take note that it failed, in service or in a trial: the twin serves, and a trial is due after a pause."""
        if self.serves() and now_s - self.since_s >= self._pauses.longest_s:
            self._pause_s = self._pauses.first_s
        if self.state is not State.FAILED:
            self.fallbacks[reason] += 1
            self.since_s = now_s
        self.state, self.reason, self.said = State.FAILED, reason, said
        self._due_s = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, self._pauses.longest_s)
