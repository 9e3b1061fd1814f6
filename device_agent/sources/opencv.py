"""A cv2.VideoCapture as a Device: each frame with the moment of its arrival."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import cv2
import numpy as np

from device_agent.sources.jpegs import first_jpeg
from device_agent.sources.source import Capture, Picture, SourceFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from millrace.clock import Clock

log = logging.getLogger(__name__)


class OpencvDevice:
    """An opened capture; `name` is what errors call it, and holds no secret."""

    def __init__(self, clock: Clock, name: str, video: cv2.VideoCapture) -> None:
        if not video.isOpened():
            raise SourceFailed(f"{name} cannot be opened")
        self._clock = clock
        self._name = name
        self._video = video
        self._instant = clock.now()

    def grab(self) -> bool:
        """Wait for the next frame; SourceFailed if the device gave none within its own timeout."""
        if not self._video.grab():
            raise SourceFailed(f"{self._name} gave no frame")
        self._instant = self._clock.now()
        return True

    def retrieve(self) -> Capture | None:
        """Return the frame last grabbed, or None if it is damaged."""
        try:
            good, frame = self._video.retrieve()
        except cv2.error as error:
            log.debug("frame damaged source=%s why=%s", self._name, error.err)
            return None
        picture = picture_of(np.asarray(frame, np.uint8)) if good else None
        return None if picture is None else Capture(self._instant, picture)

    def release(self) -> None:
        """Close the capture."""
        self._video.release()


def picture_of(frame: NDArray[np.uint8]) -> Picture | None:
    """Return a frame as a picture: (height, width, 3) are pixels, any other shape is a JPEG's bytes, perhaps padded.

    None if it is neither pixels nor a whole JPEG.
    """
    if frame.ndim == 3 and frame.shape[2] == 3:
        return Picture(pixels=frame)
    encoded = first_jpeg(frame.tobytes())
    return None if encoded is None else Picture(encoded=encoded)
