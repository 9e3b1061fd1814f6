"""Time as a value: wall clock, boot id and uptime, read at the rim and passed in; no rule calls a clock."""

from __future__ import annotations

import ctypes
import re
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3])(:[0-5][0-9]){2}(\.[0-9]{1,9})?"
    r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])\Z",
    re.ASCII | re.IGNORECASE,
)
_LIMIT_NS = 1 << 63
_TIMEX_BYTES = 512  # more than struct timex has on any machine
_TIME_ERROR = 5


@dataclass(frozen=True, slots=True)
class Instant:
    """One moment as this machine saw it: the wall may be wrong, boot id and uptime let it be mended later."""

    wall_ns: int
    boot_id: str
    uptime_ns: int


class Clock(Protocol):
    """What a program gets instead of the `time` module."""

    def now(self) -> Instant:
        """Return the present moment."""
        ...

    def uptime_s(self) -> float:
        """Return monotonic seconds; only differences have a meaning."""
        ...


class SystemClock:
    """The machine's own clocks; uptime counts suspended time too (CLOCK_BOOTTIME)."""

    def __init__(self) -> None:
        self._boot_id = boot_id()

    def now(self) -> Instant:
        """Return the present moment."""
        return Instant(time.time_ns(), self._boot_id, time.clock_gettime_ns(time.CLOCK_BOOTTIME))

    def uptime_s(self) -> float:
        """Return monotonic seconds."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Return the kernel's id of this boot, or a random one where the kernel has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return str(uuid.uuid4())


def wall_state() -> Literal["synced", "unsynced", "unknown"]:
    """Return what the kernel knows of its wall clock: whether something (NTP, PTP, GPS) keeps it right."""
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return "unknown"
    state = adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))  # all zero: asks, changes nothing
    if state < 0:
        return "unknown"
    return "unsynced" if state == _TIME_ERROR else "synced"


def machine_id() -> str:
    """Return this machine's id, or an empty string where it has none; a cloned card differs in it."""
    for place in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            return Path(place).read_text(encoding="ascii").strip()
        except OSError:
            continue
    return ""


def rfc3339(wall_ns: int) -> str:
    """Return a wall time as RFC 3339 UTC with microseconds, e.g. `2026-11-21T08:30:00.123456Z`."""
    moment = _EPOCH + timedelta(microseconds=wall_ns // 1000)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_rfc3339(text: str) -> int:
    """Return nanoseconds since 1970, a signed 64-bit number, of an RFC 3339 time; ValueError where it is none.

    What lies below a microsecond is cut off. Refused as well: a leap second, and years before 1678 or after 2261.
    """
    if not _RFC3339.match(text):
        raise ValueError(f"not an RFC 3339 time: {text[:40]!r}")
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError as error:
        raise ValueError(f"not an RFC 3339 time: {text[:40]!r} ({error})") from None
    since = moment - _EPOCH
    wall_ns = ((since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds) * 1000
    if not -_LIMIT_NS <= wall_ns < _LIMIT_NS:
        raise ValueError(f"a time outside 1678 to 2261: {text[:40]!r}")
    return wall_ns
