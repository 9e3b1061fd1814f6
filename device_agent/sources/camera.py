"""A camera of this machine through Video4Linux: always its newest frame; with `mjpeg` its own JPEGs, untouched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2

from device_agent.sources.newest import Newest
from device_agent.sources.opencv import OpencvDevice

if TYPE_CHECKING:
    from millrace.clock import Clock

_MJPG = cv2.VideoWriter.fourcc(*"MJPG")


def open_camera(
    clock: Clock,
    *,
    index: int = 0,
    width_px: int | None = None,
    height_px: int | None = None,
    fps: float | None = None,
    mjpeg: bool = False,
) -> Newest:
    """Return a Source of /dev/video`index`; what the camera cannot do it answers with its nearest setting."""
    name = f"camera /dev/video{index}"

    def open_device() -> OpencvDevice:
        video = cv2.VideoCapture(index, cv2.CAP_V4L2)
        device = OpencvDevice(clock, name, video)
        if mjpeg:
            video.set(cv2.CAP_PROP_FOURCC, _MJPG)
        if width_px is not None:
            video.set(cv2.CAP_PROP_FRAME_WIDTH, width_px)
        if height_px is not None:
            video.set(cv2.CAP_PROP_FRAME_HEIGHT, height_px)
        if fps is not None:
            video.set(cv2.CAP_PROP_FPS, fps)
        if mjpeg and int(video.get(cv2.CAP_PROP_FOURCC)) == _MJPG:
            video.set(cv2.CAP_PROP_CONVERT_RGB, 0)
        return device

    return Newest(name, open_device)
