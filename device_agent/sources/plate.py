"""Draws the machined plates and the screws which go into them, once for each scale."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Point = tuple[float, float]

# All lengths are in pixels of a 640x480 picture; `scale` enlarges them.
SHEET_WIDTH = 380
SHEET_HEIGHT = 290
PLATE_WIDTH = 300
PLATE_HEIGHT = 210
_CORNER_RADIUS = 26
BORE_CENTER = (165, 145)
BORE_RADIUS = 36
SCREW_PLACES = ((72, 73), (308, 73), (72, 217), (308, 217))
_SCREW_RADIUS = 17
SCREW_TURNS = 16
_FINISHES = 6
_OVERSAMPLING = 2


@dataclass(frozen=True, slots=True)
class Stock:
    """What all plates of one scale share. A sheet is SHEET_HEIGHT x SHEET_WIDTH times scale.

    `plates` are BGR, without screws, black where no metal is; `metal` is 255 a little inside the metal's edge;
    `passing` is how much of what lies below is seen: 0 on metal, less than 255 in the plate's shadow;
    `cloud` is an even mottle with values around 0.
    """

    plates: tuple[Bytes, ...]
    screws: tuple[Bytes, ...]
    screw_cover: Floats
    metal: Bytes
    passing: Bytes
    cloud: Floats


def set_screw(pixels: Bytes, stock: Stock, place: Point, turn: int, scale: float) -> None:
    """Put a screw, turned by `turn` of SCREW_TURNS, into the hole at `place` of SCREW_PLACES."""
    screw = stock.screws[turn]
    side = screw.shape[0]
    left, top = (round(center * scale - side / 2) for center in place)
    hole = pixels[top : top + side, left : left + side]
    hole[:] = cv2.blendLinear(screw, hole.copy(), stock.screw_cover, 1.0 - stock.screw_cover)


@lru_cache(maxsize=4)
def stock_of_plates(scale: float) -> Stock:
    """Return the stock for a scale; scale 1 belongs to pictures of 640x480."""
    rng = np.random.default_rng(20240917)
    fine = scale * _OVERSAMPLING
    outline = _outline(fine)
    cover = _smaller(outline) / np.float32(255)
    metal = np.asarray(cv2.erode(_smaller(outline), np.ones((3, 3), np.uint8), iterations=round(3 * scale)), np.uint8)
    shift = np.array([[1, 0, 7 * scale], [0, 1, 9 * scale]], np.float64)
    cast = cv2.warpAffine(cover, shift, (cover.shape[1], cover.shape[0]))
    shadow = cv2.GaussianBlur(cast, (0, 0), 6 * scale) * 0.65
    passing = np.asarray((1 - cover) * (1 - shadow) * 255, np.uint8)
    bare = (_smaller(_bare_plate(rng, outline, fine)) for _ in range(_FINISHES))
    plates = tuple(np.asarray(plate * cover[..., None], np.uint8) for plate in bare)
    screws = tuple(_smaller(_screw(turn / SCREW_TURNS, fine)) for turn in range(SCREW_TURNS))
    disc = np.zeros(_screw_shape(fine), np.uint8)
    cv2.circle(disc, (disc.shape[1] // 2, disc.shape[0] // 2), round(_SCREW_RADIUS * fine), 255, -1, cv2.LINE_AA)
    cloud = cv2.GaussianBlur(rng.normal(0, 1, cover.shape).astype(np.float32), (0, 0), 3.5 * scale)
    cloud = cloud * (0.13 / np.std(cloud))
    return Stock(
        plates, screws, (_smaller(disc) / 255).astype(np.float32), metal, passing, np.asarray(cloud, np.float32)
    )


def _outline(fine: float) -> Bytes:
    """Return 255 where there is metal: a rounded rectangle with a bore."""
    sheet = np.zeros((round(SHEET_HEIGHT * fine), round(SHEET_WIDTH * fine)), np.uint8)
    left, top = (SHEET_WIDTH - PLATE_WIDTH) / 2, (SHEET_HEIGHT - PLATE_HEIGHT) / 2
    inset = _CORNER_RADIUS
    corner_a = (round((left + inset) * fine), round((top + inset) * fine))
    corner_b = (round((left + PLATE_WIDTH - inset) * fine), round((top + PLATE_HEIGHT - inset) * fine))
    cv2.rectangle(sheet, corner_a, corner_b, 255, round(2 * inset * fine), cv2.LINE_AA)
    cv2.rectangle(sheet, corner_a, corner_b, 255, -1)
    cv2.circle(sheet, _at(BORE_CENTER, fine), round(BORE_RADIUS * fine), 0, -1, cv2.LINE_AA)
    return sheet


def _bare_plate(rng: np.random.Generator, outline: Bytes, fine: float) -> Bytes:
    """Return a brushed plate with bevels, a milled pocket, a serial number and four empty screw holes."""
    height = np.minimum(cv2.distanceTransform(outline, cv2.DIST_L2, 5), 6 * fine)
    pocket = np.zeros_like(outline)
    ends = (_at((250, 122), fine), _at((250, 168), fine))
    cv2.line(pocket, *ends, 255, round(30 * fine), cv2.LINE_AA)
    height -= np.minimum(cv2.distanceTransform(pocket, cv2.DIST_L2, 5), 4 * fine)
    engraved = np.zeros_like(outline)
    text = f"MR-{rng.integers(1000, 9999)}"
    cv2.putText(
        engraved, text, _at((124, 84), fine), cv2.FONT_HERSHEY_DUPLEX, 0.62 * fine, 255, _thick(fine), cv2.LINE_AA
    )
    height -= np.asarray(cv2.GaussianBlur(engraved, (0, 0), 0.6 * fine), np.float32) / 255 * 1.6 * fine
    holes = np.zeros_like(outline)
    for place in SCREW_PLACES:
        cv2.circle(holes, _at(place, fine), round((_SCREW_RADIUS - 1) * fine), 255, -1, cv2.LINE_AA)
    height -= np.minimum(cv2.distanceTransform(holes, cv2.DIST_L2, 5), 5 * fine)
    rows, columns = outline.shape
    brushed = cv2.GaussianBlur(rng.normal(0, 1, outline.shape).astype(np.float32), (0, 0), 34 * fine, sigmaY=0.6 * fine)
    brushed = brushed * (5.0 / np.std(brushed))
    sheen = 14 * np.cos((np.mgrid[:rows, :columns][1] / columns - rng.uniform(0.2, 0.8)) * 5)
    gray = 158 + brushed + sheen + _relief(height.astype(np.float32), 62)
    for place in SCREW_PLACES:
        _bore_thread(gray, _at(place, fine), fine)
    gray[pocket > 0] -= 14
    return _colored(gray, (1.02, 1.0, 0.975))


def _bore_thread(gray: Floats, center: tuple[int, int], fine: float) -> None:
    """Draw the dark threaded hole that a screw leaves when it is missing."""
    cv2.circle(gray, center, round(11.5 * fine), 22, -1, cv2.LINE_AA)
    for radius, start in ((10.4, 10), (8.6, 25)):
        size = (round(radius * fine), round(radius * fine))
        cv2.ellipse(gray, center, size, 0, start, start + 80, 74, _thick(0.8 * fine), cv2.LINE_AA)


def _screw_shape(fine: float) -> tuple[int, int]:
    side = round((2 * _SCREW_RADIUS + 4) * fine / _OVERSAMPLING) * _OVERSAMPLING
    return side, side


def _screw(turn: float, fine: float) -> Bytes:
    """Return a domed screw head with a hexagon socket, turned by `turn` of a sixth of a circle."""
    shape = _screw_shape(fine)
    center = (shape[1] // 2, shape[0] // 2)
    head = np.zeros(shape, np.uint8)
    cv2.circle(head, center, round(_SCREW_RADIUS * fine), 255, -1, cv2.LINE_AA)
    inward = cv2.distanceTransform(head, cv2.DIST_L2, 5)
    dome = 7 * fine * np.sqrt(np.clip(inward / (9 * fine), 0, 1))
    angles = (np.arange(6) + turn) * np.pi / 3
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * 8.2 * fine + center
    socket = np.zeros(shape, np.uint8)
    cv2.fillPoly(socket, [np.round(corners * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    deep = cv2.GaussianBlur(socket, (0, 0), 0.7 * fine).astype(np.float32) / 255
    gray = 176 + _relief((dome - 5 * fine * deep).astype(np.float32), 58)
    gray *= 1 - np.float32(0.62) * deep
    cv2.circle(gray, center, round(_SCREW_RADIUS * fine), 48, _thick(1.4 * fine), cv2.LINE_AA)
    return _colored(gray, (0.96, 1.0, 1.02))


def _relief(height: Floats, strength: float) -> Floats:
    """Return how much lighter or darker each slope is under a lamp at the upper left."""
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=0.125)
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=0.125)
    return np.asarray(np.clip(0.6 * slope_x + 0.8 * slope_y, -1.2, 1.2) * strength, np.float32)


def _colored(gray: Floats, tone: tuple[float, float, float]) -> Bytes:
    return np.asarray(np.clip(gray[..., None] * np.array(tone, np.float32), 0, 255), np.uint8)


def _smaller(picture: Bytes) -> Bytes:
    size = (round(picture.shape[1] / _OVERSAMPLING), round(picture.shape[0] / _OVERSAMPLING))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _at(place: Point, fine: float) -> tuple[int, int]:
    return round(place[0] * fine), round(place[1] * fine)


def _thick(width: float) -> int:
    return max(1, round(width))
