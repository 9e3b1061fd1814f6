"""Pictures to measure with: JPEGs of any size that are as hard to decode as a camera's."""

from __future__ import annotations

import cv2
import numpy as np

QUALITY = 85
COARSE_PX = 8


def make(width_px: int, height_px: int, count: int = 16) -> list[bytes]:
    """Return different JPEGs of this size; the same at every call."""
    rng = np.random.default_rng(1)
    pictures = []
    for _ in range(count):
        coarse = rng.integers(0, 255, (height_px // COARSE_PX, width_px // COARSE_PX, 3), np.uint8)
        pixels = cv2.resize(coarse, (width_px, height_px), interpolation=cv2.INTER_CUBIC)
        pictures.append(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes())
    return pictures
