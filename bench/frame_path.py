"""From a 720p JPEG to a model's input: processor time of the gateway's way, and of Pillow's usual one."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image

from bench.measures import Measure, interleaved, ratio_at_least
from bench.profile import Profile
from edge_gateway.bench import pictures
from edge_gateway.bundle import InputSettings
from edge_gateway.engines.engine import TensorInfo
from edge_gateway.settings import LimitSettings
from edge_gateway.tensors import Preparation

SIDE = 224
TIMES = 60


def measures(profile: Profile) -> list[Measure]:
    """Return how many times cheaper ours is."""
    frames = pictures.make(1280, 720, 8)
    tensor = TensorInfo((1, SIDE, SIDE, 3), np.dtype(np.uint8), 1 / 127.5, 127)
    wanted = InputSettings(width=SIDE, height=SIDE, mean=127.0, std=127.5)
    ours = Preparation(wanted, tensor, LimitSettings().max_pixels, "bench").tensor
    theirs, mine = interleaved(profile.rounds, partial(_cpu_ms, _by_pillow, frames), partial(_cpu_ms, ours, frames))
    label = "CPU ms, Pillow's decode + resize + /255 of a 720p JPEG to 224x224"
    return [ratio_at_least(label, "the gateway's frame path", theirs, mine, 3)]


def _by_pillow(picture: bytes) -> object:
    image = Image.open(io.BytesIO(picture)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return (np.asarray(image) / 255.0)[np.newaxis]


def _cpu_ms(prepare: Callable[[bytes], object], frames: list[bytes]) -> float:
    """Return milliseconds of processor time for each picture."""
    prepare(frames[0])
    begun_s = time.process_time()
    for number in range(TIMES):
        prepare(frames[number % len(frames)])
    return (time.process_time() - begun_s) / TIMES * 1000
