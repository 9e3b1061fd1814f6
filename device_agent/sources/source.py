"""What every source gives: captures, with their time, and an honest word when it fails or is finished."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from millrace.clock import Instant

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

Scalar = float | int | str | bool


class SourceFailed(Exception):
    """The source gave no data or broke; it is closed and reopened with backoff."""


class SourceFinished(Exception):
    """The source has nothing more to give, and that is well: a file was read to its end."""


class Unencodable(ValueError):
    """A picture that cannot be sent: damaged, or too big for its budget. Drop it and count it."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One frame: pixels (height, width, 3) uint8 BGR, or bytes already encoded, which pass through untouched.

    `lossless` marks pixels that come from a lossless file and so are sent as PNG.
    """

    pixels: NDArray[np.uint8] | None = None
    encoded: bytes | None = None
    lossless: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """Named values of one moment, units in the names: `{"temperature_c": 41.2}`."""

    values: Mapping[str, Scalar]


@dataclass(frozen=True, slots=True)
class Waveform:
    """Equally spaced samples: `rate_hz` samples a second, `unit` of each sample."""

    rate_hz: float
    unit: str
    samples: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Capture:
    """What was sensed, when, and, where the source knows it, what is really there (`truth`)."""

    instant: Instant
    content: Picture | Reading | Waveform
    truth: str | None = None


class Source(Protocol):
    """An opened source. One thread reads it; opening is the constructor's or the factory's work."""

    def read(self, timeout_s: float) -> Capture | None:
        """Return the next capture, or None if none came within `timeout_s`.

        Errors: SourceFailed (reopen me), SourceFinished (I am done).
        """
        ...

    def close(self) -> None:
        """Release the device; safe to call twice and after a failure."""
        ...
