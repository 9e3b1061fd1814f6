"""A video file, every frame of it, in the file's own time or as fast as it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from device_agent.sources.pace import Pace
from device_agent.sources.source import Capture, Picture, SourceFailed, SourceFinished

if TYPE_CHECKING:
    from pathlib import Path

    from millrace.clock import Clock

_FPS_OF_UNKNOWN = 25.0


class Video:
    """A Source of a video file's frames. SourceFailed from the constructor if it is no video."""

    def __init__(self, clock: Clock, path: Path, *, realtime: bool = True, loop: bool = False) -> None:
        self._clock = clock
        self._path = path
        self._loop = loop
        self._pace = Pace(clock)
        self._video = self._opened()
        fps = self._video.get(cv2.CAP_PROP_FPS) or _FPS_OF_UNKNOWN
        self._interval_s = 1.0 / fps if realtime else 0.0

    def read(self, timeout_s: float) -> Capture | None:
        """Return the next frame, or None if none is due within `timeout_s`.

        Errors: SourceFinished at the end, SourceFailed if the file cannot be read again for the next round.
        """
        if not self._pace.reached(timeout_s):
            return None
        good, frame = self._video.read()
        if not good:
            frame = self._first_again()
        self._pace.advance(self._interval_s)
        return Capture(self._clock.now(), Picture(pixels=np.asarray(frame, np.uint8)))

    def close(self) -> None:
        """Close the file."""
        self._pace.end()
        self._video.release()

    def _first_again(self) -> cv2.typing.MatLike:
        if not self._loop:
            raise SourceFinished(f"video {self._path} is at its end")
        self._video.release()
        self._video = self._opened()
        good, frame = self._video.read()
        if not good:
            raise SourceFailed(f"video {self._path} has no frame that can be read")
        return frame

    def _opened(self) -> cv2.VideoCapture:
        if not self._path.is_file():
            raise SourceFailed(f"video {self._path} is not there")
        video = cv2.VideoCapture(str(self._path))
        if not video.isOpened():
            raise SourceFailed(f"video {self._path} cannot be read as a video")
        return video
