"""A network camera (RTSP or HTTP): always its newest frame; its address is never shown with what may be secret."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit, urlunsplit

import cv2

from device_agent.sources.newest import Newest
from device_agent.sources.opencv import OpencvDevice

if TYPE_CHECKING:
    from millrace.clock import Clock

_OPEN_TIMEOUT_MS = 10_000
_READ_TIMEOUT_MS = 10_000


def open_stream(clock: Clock, url: str, password: str | None = None) -> Newest:
    """Return a Source of the stream; `password` belongs to the user that the address names."""
    name = f"stream {shown(url)}"
    address = url if password is None else with_password(url, password)

    def open_device() -> OpencvDevice:
        options = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_TIMEOUT_MS)
        return OpencvDevice(clock, name, cv2.VideoCapture(address, cv2.CAP_FFMPEG, options))

    return Newest(name, open_device)


def shown(url: str) -> str:
    """Return the address without user, password, query and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def with_password(url: str, password: str) -> str:
    """Return the address with the password of the user that it names."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:{quote(password, safe='')}{at or '@'}{host}"))
