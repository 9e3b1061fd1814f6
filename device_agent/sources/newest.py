"""The newest frame of a device that blocks: a thread owns the device, and no reader waits longer than it said."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from device_agent.sources.source import Capture, SourceFailed, SourceFinished

_CLOSE_WAIT_S = 1.0


class Device(Protocol):
    """A device as its thread sees it; nobody else touches it. Each call may block."""

    def grab(self) -> bool:
        """Wait for the next frame and hold it; False if there is none yet. SourceFailed: it broke."""
        ...

    def retrieve(self) -> Capture | None:
        """Return the frame last grabbed, or None if it is damaged."""
        ...

    def release(self) -> None:
        """Give the device back."""
        ...


class Newest:
    """A Source whose frames never wait: the device is read all the time, and what arrives unasked for is dropped.

    `open_device` runs in the thread too, since opening may block; it raises SourceFailed if the device is not there.
    """

    def __init__(self, name: str, open_device: Callable[[], Device]) -> None:
        self._name = name
        self._open_device = open_device
        self._changed = threading.Condition()
        self._wanted = False
        self._capture: Capture | None = None
        self._closed = False
        self._ended: SourceFailed | SourceFinished | None = None
        # A daemon, because a device that hangs in its driver must not keep the program from ending.
        self._thread = threading.Thread(target=self._run, name=f"read {name}", daemon=True)
        self._thread.start()

    def read(self, timeout_s: float) -> Capture | None:
        """Return the next frame to arrive, or None if none came within `timeout_s`.

        Errors: SourceFailed (the device broke or the source is closed), SourceFinished.
        """
        with self._changed:
            self._wanted = True
            self._changed.wait_for(self._is_over, timeout_s)
            self._wanted = False
            capture, self._capture = self._capture, None
            if capture is not None:
                return capture
            if self._closed:
                raise SourceFailed(f"{self._name} is closed")
            if self._ended is not None:
                raise self._ended
        return None

    def close(self) -> None:
        """Have the device released; if it hangs, its thread releases it when it comes back."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(_CLOSE_WAIT_S)

    def _is_over(self) -> bool:
        return self._capture is not None or self._closed or self._ended is not None

    def _run(self) -> None:
        ended: SourceFailed | SourceFinished = SourceFailed(f"{self._name}: its reading thread stopped")
        try:
            device = self._open_device()
            try:
                while not self._closed:
                    if device.grab() and self._wanted:
                        self._hand_over(device.retrieve())
            finally:
                device.release()
        except (SourceFailed, SourceFinished) as error:
            ended = error
        finally:
            with self._changed:
                self._ended = ended
                self._changed.notify_all()

    def _hand_over(self, capture: Capture | None) -> None:
        """Give a frame to the reader, unless it has stopped waiting meanwhile."""
        with self._changed:
            if self._wanted and capture is not None:
                self._capture = capture
                self._changed.notify_all()
