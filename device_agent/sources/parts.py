"""Renders what a camera above a conveyor sees: one machined part on the belt, its class known and exact."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from device_agent.sources.defects import scratch, stain
from device_agent.sources.plate import (
    SCREW_PLACES,
    SCREW_TURNS,
    SHEET_HEIGHT,
    SHEET_WIDTH,
    Bytes,
    Floats,
    Stock,
    set_screw,
    stock_of_plates,
)

LABELS = ("ok", "scratch", "missing_screw", "stain")
_LARGEST_TURN_DEG = 12.0
_NOISE_MARGIN_PX = 64


@dataclass(frozen=True, slots=True)
class Light:
    """The lamps: `level` 1.0 is nominal; a tilt of 0.2 makes the right or lower edge 20 % brighter."""

    level: float = 1.0
    tilt_x: float = 0.0
    tilt_y: float = 0.0


def drifting_light(frame_number: int, phase: float) -> Light:
    """Return the light at one frame: it wanders slowly, over some hundreds of frames."""
    return Light(
        level=1.0 + 0.14 * math.sin(frame_number / 97 + phase),
        tilt_x=0.14 * math.sin(frame_number / 61 + 2 * phase),
        tilt_y=0.10 * math.cos(frame_number / 143 + 3 * phase),
    )


def render_part(
    rng: np.random.Generator, label: str, light: Light, width_px: int = 640, height_px: int = 480
) -> NDArray[np.uint8]:
    """Return a picture (height_px, width_px, 3) uint8 BGR of a part of class `label`.

    The same state of `rng` gives the same picture. ValueError: the label is none of LABELS.
    """
    if label not in LABELS:
        raise ValueError(f"no part class {label!r}; known are {', '.join(LABELS)}")
    scale = min(width_px / 640, height_px / 480)
    frame = _belt_view(rng, width_px, height_px)
    stock = stock_of_plates(scale)
    _lay(rng, frame, _plate(rng, label, stock, scale), stock.passing, scale)
    return _seen_by_camera(rng, frame, light)


def _belt_view(rng: np.random.Generator, width_px: int, height_px: int) -> Bytes:
    """Return the belt where it stands now, between its two rails."""
    belt, rails, rail_px = _belt(width_px, height_px)
    offset = int(rng.integers(width_px))
    frame = belt[:, offset : offset + width_px].copy()
    frame[:rail_px] = rails[:rail_px]
    frame[-rail_px:] = rails[rail_px:]
    return frame


def _plate(rng: np.random.Generator, label: str, stock: Stock, scale: float) -> Bytes:
    """Return one plate of class `label` on its sheet, in a finish of its own."""
    finish = stock.plates[rng.integers(len(stock.plates))]
    gains = rng.uniform(0.88, 1.1) * np.append(rng.uniform(0.985, 1.015, 3), 0.0)
    pixels: Bytes = np.asarray(cv2.multiply(finish, gains), np.uint8)
    missing = int(rng.integers(len(SCREW_PLACES))) if label == "missing_screw" else None
    for index, place in enumerate(SCREW_PLACES):
        turn = int(rng.integers(SCREW_TURNS))
        if index != missing:
            set_screw(pixels, stock, place, turn, scale)
    if label == "scratch":
        scratch(rng, pixels, stock.metal, scale)
    elif label == "stain":
        stain(rng, pixels, stock, scale)
    return pixels


def _lay(rng: np.random.Generator, frame: Bytes, pixels: Bytes, passing: Bytes, scale: float) -> None:
    """Put the plate and its shadow on the frame, moved and turned a little as parts on belts are."""
    height_px, width_px = frame.shape[:2]
    size = (round(444 * scale), round(372 * scale))
    center_x = width_px / 2 + rng.uniform(-60, 60) * scale
    center_y = height_px / 2 + rng.uniform(-26, 26) * scale
    turn_deg = rng.uniform(-_LARGEST_TURN_DEG, _LARGEST_TURN_DEG)
    left, top = int(center_x - size[0] / 2), int(center_y - size[1] / 2)
    turning = cv2.getRotationMatrix2D(
        (SHEET_WIDTH * scale / 2, SHEET_HEIGHT * scale / 2), turn_deg, rng.uniform(0.95, 1.04)
    )
    turning[:, 2] += (center_x - left - SHEET_WIDTH * scale / 2, center_y - top - SHEET_HEIGHT * scale / 2)
    area = frame[top : top + size[1], left : left + size[0]]
    plate = cv2.warpAffine(pixels, turning, size)
    opening = cv2.warpAffine(passing, turning, size, borderValue=255)
    below = cv2.multiply(area, cv2.cvtColor(opening, cv2.COLOR_GRAY2BGR), scale=1 / 255)
    area[:] = cv2.add(plate, below)


def _seen_by_camera(rng: np.random.Generator, frame: Bytes, light: Light) -> Bytes:
    """Return the frame under this light, through a slightly soft lens, with the sensor's noise."""
    height_px, width_px = frame.shape[:2]
    corners = [[light.level * (1 + light.tilt_x * x + light.tilt_y * y) for x in (-0.5, 0.5)] for y in (-0.5, 0.5)]
    small = np.repeat(np.array(corners, np.float32)[..., None], 3, axis=2)
    field = cv2.resize(small, (width_px, height_px), interpolation=cv2.INTER_LINEAR)
    lit = cv2.multiply(frame, field, dtype=cv2.CV_8U)
    soft = cv2.GaussianBlur(lit, (3, 3), rng.uniform(0.3, 0.9))
    top, left = rng.integers(_NOISE_MARGIN_PX, size=2)
    noise = _noise(width_px, height_px)[top : top + height_px, left : left + width_px]
    return np.asarray(cv2.add(soft, noise, dtype=cv2.CV_8U), np.uint8)


@lru_cache(maxsize=4)
def _noise(width_px: int, height_px: int) -> NDArray[np.int8]:
    shape = (height_px + _NOISE_MARGIN_PX, width_px + _NOISE_MARGIN_PX, 3)
    return np.round(np.random.default_rng(7).normal(0, 2.2, shape)).astype(np.int8)


@lru_cache(maxsize=4)
def _belt(width_px: int, height_px: int) -> tuple[Bytes, Bytes, int]:
    """Return the woven belt (twice as wide as the view), the two rails, one below the other, and their height."""
    rng = np.random.default_rng(11)
    scale = min(width_px / 640, height_px / 480)
    rows, columns = np.mgrid[:height_px, : 2 * width_px].astype(np.float32) / np.float32(scale)
    weave = 4 * np.sin(rows * 1.05) * np.sin(columns * 1.05)
    grain = cv2.GaussianBlur(rng.normal(0, 1, rows.shape).astype(np.float32), (0, 0), 1.2 * scale) * 12
    wear = cv2.GaussianBlur(rng.normal(0, 1, rows.shape).astype(np.float32), (0, 0), 40 * scale, sigmaY=9 * scale)
    gray = 62 + weave + grain + wear * (5 / float(np.std(wear)))
    gray += 9 * (np.abs((columns % 213) - 40) < 1.6) - 12 * (np.abs((columns % 213) - 43) < 1.6)
    belt = _toned(gray, (1.03, 1.02, 0.93))
    rail_px = round(26 * scale)
    across = np.linspace(0, 1, rail_px, dtype=np.float32)[:, None]
    profile = 112 + 70 * np.exp(-(((across - 0.35) / 0.16) ** 2)) - 60 * across**6
    streaks = cv2.GaussianBlur(
        rng.normal(0, 60, (rail_px, width_px)).astype(np.float32), (0, 0), 30 * scale, sigmaY=0.5
    )
    upper = profile + streaks
    return belt, np.vstack([_toned(upper, (1.0, 1.0, 0.98)), _toned(upper[::-1], (1.0, 1.0, 0.98))]), rail_px


def _toned(gray: Floats, tone: tuple[float, float, float]) -> Bytes:
    return np.asarray(np.clip(gray[..., None] * np.array(tone, np.float32), 0, 255), np.uint8)
