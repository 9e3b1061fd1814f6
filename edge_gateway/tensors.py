"""From a picture's bytes to a model's input: size checked first, decoded no larger than needed, scaled, quantized."""

from __future__ import annotations

import cv2
import numpy as np

from edge_gateway.bundle import InputSettings
from edge_gateway.engines.engine import EngineFailed, Tensor, TensorInfo
from millrace.images import BadPicture, read_header

_REDUCED_COLOR = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}


class Preparation:
    """Turns pictures into one model's input tensors of shape (1, height, width, channels)."""

    def __init__(self, wanted: InputSettings, tensor: TensorInfo, max_pixels: int, name: str) -> None:
        """Check that manifest and model agree; EngineFailed if they do not."""
        channels = 1 if wanted.color == "GRAY" else 3
        shape = (1, wanted.height, wanted.width, channels)
        if tensor.shape != shape:
            raise EngineFailed(f"model {name}: takes {tensor.shape}, but its manifest says {shape}: mend the manifest")
        self._wanted, self._max_pixels = wanted, max_pixels
        self._table = _quantization_table(wanted, tensor, name)

    def tensor(self, picture: bytes) -> Tensor:
        """Return the input for one JPEG, PNG or WebP; BadPicture if it is none, is cut short, or is too large."""
        pixels = self._decode(picture)
        pixels = self._scale(pixels)
        if self._wanted.color == "GRAY":
            pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)[..., np.newaxis]
        elif self._wanted.color == "RGB":
            pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        quantized = pixels if self._table is None else self._table[pixels]
        return quantized[np.newaxis]

    def _decode(self, picture: bytes) -> Tensor:
        header = read_header(picture)
        if header.width_px * header.height_px > self._max_pixels:
            raise BadPicture(
                f"{header.width_px}x{header.height_px} pixels;"
                f" at most {self._max_pixels} are decoded (limits.max_pixels)"
            )
        flag = cv2.IMREAD_COLOR
        if header.content_type == "image/jpeg":
            spare = min(header.width_px // self._wanted.width, header.height_px // self._wanted.height)
            flag = next((flag for factor, flag in _REDUCED_COLOR.items() if spare >= factor), flag)
        try:
            pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error as error:
            raise BadPicture(f"cannot be decoded: {error.err}") from None
        if pixels is None:
            raise BadPicture(f"cannot be decoded: cut short or damaged ({len(picture)} bytes)")
        return pixels

    def _scale(self, pixels: Tensor) -> Tensor:
        wanted = self._wanted
        height, width = pixels.shape[:2]
        if wanted.resize == "center_crop":
            ratio = min(height / wanted.height, width / wanted.width)
            crop_height, crop_width = max(1, round(wanted.height * ratio)), max(1, round(wanted.width * ratio))
            top, left = (height - crop_height) // 2, (width - crop_width) // 2
            pixels = pixels[top : top + crop_height, left : left + crop_width]
        if pixels.shape[:2] == (wanted.height, wanted.width):
            return pixels
        return cv2.resize(pixels, (wanted.width, wanted.height), interpolation=cv2.INTER_LINEAR)


def _quantization_table(wanted: InputSettings, tensor: TensorInfo, name: str) -> Tensor | None:
    """Return what each pixel value 0..255 becomes, or None where it stays as it is."""
    real = (np.arange(256, dtype=np.float64) - wanted.mean) / wanted.std
    if tensor.dtype == np.float32:
        return real.astype(np.float32)
    if tensor.dtype not in (np.uint8, np.int8) or tensor.scale <= 0:
        raise EngineFailed(f"model {name}: input of type {tensor.dtype} is not run; uint8, int8 or float32 are")
    limits = np.iinfo(tensor.dtype)
    table = np.clip(np.round(real / tensor.scale) + tensor.zero_point, limits.min, limits.max).astype(tensor.dtype)
    return None if tensor.dtype == np.uint8 and bool((table == np.arange(256)).all()) else table
