"""Rendered parts as the gateway's model gets them: through the JPEG codec, scaled, RGB, each with its class."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from device_agent.sources.parts import LABELS, Light, render_part

SIDE_PX = 96
_QUALITIES = (60, 95)
_REDUCED_DECODING = (
    (8, cv2.IMREAD_REDUCED_COLOR_8),
    (4, cv2.IMREAD_REDUCED_COLOR_4),
    (2, cv2.IMREAD_REDUCED_COLOR_2),
)


@dataclass(frozen=True, slots=True)
class Pictures:
    """Model inputs (count, SIDE_PX, SIDE_PX, 3) uint8 RGB, and the index in LABELS of each."""

    pixels: NDArray[np.uint8]
    classes: NDArray[np.int64]


def draw_pictures(seed: int, count: int, processes: int = 2) -> Pictures:
    """Return `count` pictures, as many of each class; other seeds give other pictures."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pixels = pool.map(partial(draw_picture, seed), range(count), chunksize=64)
    return Pictures(np.stack(pixels), np.arange(count) % len(LABELS))


def draw_picture(seed: int, index: int) -> NDArray[np.uint8]:
    """Return picture `index` of a seed, of class LABELS[index % 4], as the model gets it."""
    rng = np.random.default_rng((seed, index))
    light = Light(rng.uniform(0.8, 1.2), rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2))
    frame = render_part(rng, LABELS[index % len(LABELS)], light)
    quality = int(rng.integers(_QUALITIES[0], _QUALITIES[1] + 1))
    _, jpeg = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return as_model_input(np.asarray(jpeg, np.uint8), frame.shape[1], frame.shape[0])


def as_model_input(jpeg: NDArray[np.uint8], width_px: int, height_px: int) -> NDArray[np.uint8]:
    """Decode a JPEG of this size at the largest reduction that still covers the model's input, then stretch it."""
    fitting = (flag for k, flag in _REDUCED_DECODING if min(width_px, height_px) >= k * SIDE_PX)
    decoded = cv2.imdecode(jpeg, next(fitting, cv2.IMREAD_COLOR))
    if decoded is None:
        raise ValueError("not a JPEG picture")
    scaled = cv2.resize(decoded, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.cvtColor(scaled, cv2.COLOR_BGR2RGB), np.uint8)
