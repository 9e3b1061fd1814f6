"""Draws the defects of a plate onto its pixels: a scratch or a stain, no two alike."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from device_agent.sources.plate import (
    BORE_CENTER,
    BORE_RADIUS,
    PLATE_HEIGHT,
    PLATE_WIDTH,
    SHEET_HEIGHT,
    SHEET_WIDTH,
    Bytes,
    Floats,
    Stock,
)


def scratch(rng: np.random.Generator, pixels: Bytes, metal: Bytes, scale: float) -> None:
    """Draw a bright, slightly bent groove with a dark lip on its lower side."""
    length = rng.uniform(80, 190) * scale
    angle = rng.uniform(0, np.pi)
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    middle = _place_on_plate(rng, 50, scale)
    t = np.linspace(-0.5, 0.5, 16)[:, None]
    curve = middle + t * length * along + (t**2) * rng.uniform(-0.35, 0.35) * length * across
    width = max(2, round(rng.uniform(2.6, 4.4) * scale))
    lip = curve + np.array([0.5, 0.9]) * width
    _tint(pixels, _stroke(lip, width, metal), (38, 36, 36), rng.uniform(0.65, 0.9))
    _tint(pixels, _stroke(curve, width, metal), (246, 248, 250), rng.uniform(0.8, 1.0))


def _stroke(curve: NDArray[np.float64], width: int, metal: Bytes) -> Bytes:
    """Return a mask of a line which is thinner at both of its ends."""
    mask = np.zeros_like(metal)
    fixed = np.round(curve * 16).astype(np.int32)
    for line, thickness in ((fixed, width - 1), (fixed[3:-4], width)):
        cv2.polylines(mask, [line], False, 255, thickness, cv2.LINE_AA, 4)
    return np.asarray(cv2.min(mask, metal), np.uint8)


def stain(rng: np.random.Generator, pixels: Bytes, stock: Stock, scale: float) -> None:
    """Draw a blot of oil or rust with a ragged edge and a darker rim."""
    size = rng.uniform(17, 32) * scale
    reach = round(3 * size)
    blot = np.zeros((2 * reach, 2 * reach), np.float32)
    for center in reach + rng.normal(0, 0.6, (6, 2)) * size:
        radius = round(rng.uniform(0.35, 0.8) * size)
        cv2.circle(blot, (round(center[0]), round(center[1])), radius, 1.0, -1)
    blot = np.asarray(cv2.blur(cv2.blur(blot, (round(size * 0.5),) * 2), (round(size * 0.5),) * 2), np.float32)
    row, column = rng.integers(np.array(stock.cloud.shape) - 2 * reach)
    blot += stock.cloud[row : row + 2 * reach, column : column + 2 * reach] * np.sqrt(blot)
    body = np.clip((blot - 0.4) * 6, 0, 1)
    rim = np.clip(1 - np.abs(blot - 0.47) * 9, 0, 1) * 0.6
    x, y = (round(value) for value in _place_on_plate(rng, 45, scale))
    mask = _pasted(body, x - reach, y - reach, stock.metal)
    oil, rust = np.array([34.0, 44, 56]), np.array([36.0, 70, 122])
    color = oil + (rust - oil) * rng.uniform(0, 1)
    _tint(pixels, mask, (color[0], color[1], color[2]), rng.uniform(0.5, 0.8))
    _tint(pixels, _pasted(rim, x - reach, y - reach, stock.metal), (18, 26, 36), 0.7)


def _pasted(patch: Floats, left: int, top: int, metal: Bytes) -> Bytes:
    """Return the patch (0 to 1) as a mask (0 to 255) over the whole sheet, kept to the metal."""
    mask = np.zeros_like(metal)
    rows = slice(max(top, 0), min(top + patch.shape[0], metal.shape[0]))
    columns = slice(max(left, 0), min(left + patch.shape[1], metal.shape[1]))
    inner = patch[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    mask[rows, columns] = np.minimum(inner * 255, metal[rows, columns])
    return mask


def _place_on_plate(rng: np.random.Generator, margin: float, scale: float) -> NDArray[np.float64]:
    """Return a point on the metal, `margin` away from the plate's edge and clear of the bore."""
    half = np.array([PLATE_WIDTH, PLATE_HEIGHT]) / 2 - margin
    while True:
        point = np.array([SHEET_WIDTH, SHEET_HEIGHT]) / 2 + rng.uniform(-half, half)
        if np.hypot(*(point - BORE_CENTER)) > BORE_RADIUS + 14:
            return np.asarray(point * scale, np.float64)


def _tint(pixels: Bytes, mask: Bytes, color: tuple[float, float, float], strength: float) -> None:
    """Lay `color` (BGR) over the pixels, as much as mask (0 to 255) times strength says."""
    left, top, width, height = cv2.boundingRect(mask)
    if width == 0:
        return
    part = pixels[top : top + height, left : left + width]
    weight = mask[top : top + height, left : left + width].astype(np.float32) * (strength / 255)
    flat = np.empty_like(part)
    flat[:] = color
    part[:] = cv2.blendLinear(flat, part.copy(), weight, 1.0 - weight)
