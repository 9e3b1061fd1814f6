"""Pictures as bytes: encoded ones pass through untouched, pixels become a JPEG or PNG that keeps its byte budget."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from device_agent.settings import EncodeSettings
from device_agent.sources.source import Picture, Unencodable
from millrace import images

THUMBNAIL_WIDTH_PX = 32
THUMBNAIL_HEIGHT_PX = 24
_SMALLEST_SIDE_PX = 16
_MAX_SHRINKS = 8

Pixels = NDArray[np.uint8]


class Encoded(NamedTuple):
    """A picture to send; `reencoded` says that its own bytes were not good to send, so that it lost quality."""

    payload: bytes
    content_type: str
    reencoded: bool


def encode(picture: Picture, settings: EncodeSettings) -> Encoded:
    """Return the picture as JPEG or PNG of at most `max_bytes`; Unencodable if there is no way.

    Quality is lowered first, to `quality_min`, then the size. A lossless picture too big as PNG becomes a JPEG, unless
    the format is set to png.
    """
    if picture.encoded is None:
        if picture.pixels is None:
            raise Unencodable("a picture with neither pixels nor bytes")
        return _encode_pixels(picture.pixels, picture.lossless, settings)
    try:
        content_type = images.read_header(picture.encoded).content_type
    except images.BadPicture as error:
        raise Unencodable(str(error)) from None
    carries_attributes = content_type in {"image/jpeg", "image/png"}
    if carries_attributes and len(picture.encoded) <= settings.max_bytes:
        return Encoded(picture.encoded, content_type, reencoded=False)
    pixels = _decode(picture.encoded, cv2.IMREAD_COLOR)
    return _encode_pixels(pixels, not carries_attributes, settings)._replace(reencoded=True)


def thumbnail(picture: Picture) -> bytes:
    """Return 32 x 24 grey pixels, row after row; Unencodable if the picture's bytes are damaged."""
    if picture.pixels is not None:
        small = _resized(picture.pixels, THUMBNAIL_WIDTH_PX, THUMBNAIL_HEIGHT_PX)
        return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)).tobytes()
    gray = _decode(picture.encoded or b"", cv2.IMREAD_REDUCED_GRAYSCALE_8)
    return _resized(gray, THUMBNAIL_WIDTH_PX, THUMBNAIL_HEIGHT_PX).tobytes()


def _encode_pixels(pixels: Pixels, lossless: bool, settings: EncodeSettings) -> Encoded:
    if settings.format == "png" or (settings.format == "auto" and lossless):
        payload = _written(".png", pixels, [])
        if len(payload) <= settings.max_bytes:
            return Encoded(payload, "image/png", reencoded=False)
        if settings.format == "png":
            raise Unencodable(
                f"{len(payload)} bytes as PNG, max_bytes is {settings.max_bytes}; use format auto or jpeg"
            )
        return Encoded(_jpeg_within(pixels, settings), "image/jpeg", reencoded=True)
    return Encoded(_jpeg_within(pixels, settings), "image/jpeg", reencoded=False)


def _jpeg_within(pixels: Pixels, settings: EncodeSettings) -> bytes:
    """Return the best JPEG within the budget: full quality, else a bisected one, else a smaller picture."""
    best = _jpeg(pixels, settings.quality)
    if len(best) <= settings.max_bytes:
        return best
    best = _jpeg(pixels, settings.quality_min)
    if len(best) > settings.max_bytes:
        return _shrunk(pixels, len(best), settings)
    good, bad = settings.quality_min, settings.quality
    while bad - good > 1:
        middle = (good + bad) // 2
        payload = _jpeg(pixels, middle)
        if len(payload) <= settings.max_bytes:
            good, best = middle, payload
        else:
            bad = middle
    return best


def _shrunk(pixels: Pixels, size_bytes: int, settings: EncodeSettings) -> bytes:
    """Return the picture at the lowest quality, scaled down until it fits; bytes go about with the area."""
    height, width = pixels.shape[:2]
    scale = 1.0
    for _ in range(_MAX_SHRINKS):
        scale *= min(0.9, 0.97 * math.sqrt(settings.max_bytes / size_bytes))
        sides = round(width * scale), round(height * scale)
        if min(sides) < _SMALLEST_SIDE_PX:
            break
        payload = _jpeg(_resized(pixels, *sides), settings.quality_min)
        size_bytes = len(payload)
        if size_bytes <= settings.max_bytes:
            return payload
    raise Unencodable(
        f"{width} x {height} pixels do not fit into max_bytes {settings.max_bytes} at quality {settings.quality_min}"
    )


def _jpeg(pixels: Pixels, quality: int) -> bytes:
    return _written(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])


def _written(suffix: Literal[".jpg", ".png"], pixels: Pixels, options: list[int]) -> bytes:
    try:
        return cv2.imencode(suffix, pixels, options)[1].tobytes()
    except cv2.error as error:
        raise Unencodable(f"pixels of shape {pixels.shape} cannot be written as {suffix}: {error.err}") from None


def _decode(encoded: bytes, mode: int) -> Pixels:
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), mode | cv2.IMREAD_IGNORE_ORIENTATION) if encoded else None
    if pixels is None:
        raise Unencodable(f"{len(encoded)} bytes cannot be decoded; the picture is damaged")
    return np.asarray(pixels, np.uint8)


def _resized(pixels: Pixels, width_px: int, height_px: int) -> Pixels:
    return np.asarray(cv2.resize(pixels, (width_px, height_px), interpolation=cv2.INTER_AREA), np.uint8)
