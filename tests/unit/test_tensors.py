"""From picture to tensor: colours, shape, scale and quantization right, and no picture that ends the process."""

from __future__ import annotations

import itertools
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.bundle import InputSettings
from edge_gateway.engines.engine import EngineFailed, TensorInfo
from edge_gateway.tensors import Preparation
from millrace.images import BadPicture

UINT8, INT8, FLOAT32 = np.dtype(np.uint8), np.dtype(np.int8), np.dtype(np.float32)


def preparation(
    dtype: np.dtype[Any] = FLOAT32, scale: float = 0.0, zero_point: int = 0, max_pixels: int = 10**6, **wanted: Any
) -> Preparation:
    settings = InputSettings(**{"width": 8, "height": 8, "std": 1.0} | wanted)
    sides = (settings.height, settings.width)
    shape = (*sides, settings.colors) if settings.layout == "NHWC" else (settings.colors, *sides)
    info = TensorInfo((1, *shape), dtype, scale, zero_point)
    return Preparation(settings, info, max_pixels, "parts@1")


def picture(pixels: Any, suffix: str = ".png", *parameters: int) -> bytes:
    """Encode BGR pixels."""
    done, encoded = cv2.imencode(suffix, np.asarray(pixels, np.uint8), parameters)
    assert done
    return encoded.tobytes()


def plain(bgr: tuple[int, int, int], height: int = 8, width: int = 8) -> Any:
    return np.full((height, width, 3), bgr, np.uint8)


@pytest.mark.parametrize(("color", "first"), [("RGB", [200, 100, 10]), ("BGR", [10, 100, 200])])
def test_colours_come_in_the_order_that_the_manifest_names(color: str, first: list[int]) -> None:
    tensor = preparation(color=color).tensor(picture(plain((10, 100, 200))))
    assert tensor.shape == (1, 8, 8, 3)
    assert tensor.dtype == np.float32
    assert tensor[0, 0, 0].tolist() == first


def test_grey_has_one_channel() -> None:
    tensor = preparation(color="GRAY").tensor(picture(plain((50, 50, 50))))
    assert tensor.shape == (1, 8, 8, 1)
    assert (tensor == 50).all()


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_a_jpegs_grey_is_that_of_its_colours(factor: int) -> None:
    """Four plain fields, compared in every pixel, so that nothing is blurred that need not be."""
    fields = np.repeat(np.repeat(np.array([[[200, 30, 20], [20, 180, 60]], [[40, 40, 210], [90, 90, 90]]]), 8, 0), 8, 1)
    jpeg = picture(np.repeat(np.repeat(fields, factor, 0), factor, 1), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 100)
    tensor = preparation(width=16, height=16, color="GRAY").tensor(jpeg)
    assert tensor.shape == (1, 16, 16, 1)
    expected = cv2.cvtColor(fields.astype(np.uint8), cv2.COLOR_BGR2GRAY)
    assert np.abs(tensor[0, ..., 0] - expected).max() <= 2


def test_width_and_height_are_not_mixed_up() -> None:
    assert preparation(width=12, height=5).tensor(picture(plain((1, 2, 3), 20, 30))).shape == (1, 5, 12, 3)


@pytest.mark.parametrize(
    ("dtype", "scale", "zero_point", "mean", "std", "expected"),
    [
        (FLOAT32, 0.0, 0, 127.5, 127.5, [-1.0, 1.0]),
        (FLOAT32, 0.0, 0, 0.0, 255.0, [0.0, 1.0]),
        (UINT8, 1 / 255, 0, 0.0, 255.0, [0, 255]),
        (UINT8, 1 / 128, 128, 127.5, 127.5, [0, 255]),  # 256 is cut off to what the type holds
        (INT8, 1 / 255, -128, 0.0, 255.0, [-128, 127]),
        (INT8, 1.0, 0, 0.0, 1.0, [0, 127]),
    ],
)
def test_black_and_white_are_quantized_by_the_models_own_numbers(
    dtype: np.dtype[Any], scale: float, zero_point: int, mean: float, std: float, expected: list[float]
) -> None:
    made = preparation(dtype, scale, zero_point, mean=mean, std=std)
    tensors = [made.tensor(picture(plain(bgr))) for bgr in ((0, 0, 0), (255, 255, 255))]
    assert [float(tensor.min()) for tensor in tensors] == pytest.approx(expected)
    assert [float(tensor.max()) for tensor in tensors] == pytest.approx(expected)
    assert tensors[0].dtype == dtype


@pytest.mark.parametrize(
    ("dtype", "scale", "std"),
    [(UINT8, 0.0, 255.0), (INT8, 0.0, 1.0), (np.dtype(np.float16), 0.0, 1.0), (np.dtype(np.int32), 1.0, 1.0)],
)
def test_an_input_that_we_cannot_fill_is_refused_before_the_first_frame(
    dtype: np.dtype[Any], scale: float, std: float
) -> None:
    with pytest.raises(EngineFailed, match="input of type"):
        preparation(dtype, scale, std=std)


def test_a_model_that_takes_plain_pixels_gets_them() -> None:
    assert preparation(UINT8).tensor(picture(plain((10, 100, 200))))[0, 0, 0].tolist() == [200, 100, 10]


@pytest.mark.parametrize("dtype", [FLOAT32, UINT8, INT8])
@pytest.mark.parametrize("color", ["RGB", "BGR", "GRAY"])
@pytest.mark.parametrize("each", [False, True])
def test_both_layouts_hold_what_the_formula_says_of_every_pixel(dtype: np.dtype[Any], color: str, each: bool) -> None:
    """Every value of every colour, against plain NumPy: (pixel - mean) / std, then the model's own steps."""
    pixels = np.random.default_rng(7).permutation(256 * 3).reshape(16, 16, 3) % 256
    colors = 1 if color == "GRAY" else 3
    mean, std = ([123.7, 116.3, 103.5][:colors], [58.4, 57.1, 57.4][:colors]) if each else (127.5, 127.5)
    scale, zero_point = (0.0, 0) if dtype == FLOAT32 else (1 / 64, 128 if dtype == UINT8 else 0)
    wanted = {"width": 16, "height": 16, "color": color, "mean": mean, "std": std}
    seen = pixels[..., ::-1] if color == "RGB" else pixels
    if color == "GRAY":
        seen = cv2.cvtColor(pixels.astype(np.uint8), cv2.COLOR_BGR2GRAY)[..., np.newaxis]
    expected = (seen - np.asarray(mean)) / np.asarray(std)
    if scale:
        expected = np.clip(np.round(expected / scale) + zero_point, np.iinfo(dtype).min, np.iinfo(dtype).max)
    rows = preparation(dtype, scale, zero_point, **wanted).tensor(picture(pixels))
    planes = preparation(dtype, scale, zero_point, layout="NCHW", **wanted).tensor(picture(pixels))
    assert (rows[0] == expected.astype(dtype)).all()
    assert planes.shape == (1, colors, 16, 16)
    assert planes.flags.c_contiguous
    assert planes.dtype == dtype
    assert (planes[0].transpose(1, 2, 0) == rows[0]).all()


def test_a_layout_that_is_not_the_models_is_refused() -> None:
    settings = InputSettings(width=8, height=8, layout="NCHW")
    with pytest.raises(EngineFailed, match=r"takes \(1, 8, 8, 3\), but its manifest says \(1, 3, 8, 8\)"):
        Preparation(settings, TensorInfo((1, 8, 8, 3), FLOAT32, 0.0, 0), 100, "parts@1")


def test_a_centre_crop_keeps_the_middle_and_stretch_keeps_all() -> None:
    wide = plain((0, 0, 0), 16, 48)
    wide[:, 16:32] = 255
    assert (preparation(resize="center_crop").tensor(picture(wide)) == 255).all()
    stretched = preparation(resize="stretch").tensor(picture(wide))
    assert stretched[0, :, 0].max() == 0
    assert stretched[0, :, 4].min() == 255


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8, 9, 20])
def test_a_jpeg_that_is_decoded_small_shows_the_same_as_one_decoded_in_full(factor: int) -> None:
    halves = plain((0, 0, 0), 16 * factor, 16 * factor)
    halves[:, 8 * factor :] = 255
    tensor = preparation(width=16, height=16).tensor(picture(halves, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 95))
    assert tensor[0, :, 1].max() < 10
    assert tensor[0, :, 14].min() > 245


def test_a_picture_is_not_turned_whatever_its_exif_says() -> None:
    tall = plain((0, 0, 0), 16, 16)
    tall[:8] = 255
    jpeg = picture(tall, ".jpg")
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0) + b"\0\0\0\0"
    turned = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR)[0, 0].tolist() == [0, 0, 0]
    assert preparation().tensor(turned)[0, 0].min() > 245


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("color", ["RGB", "GRAY"])
def test_each_format_is_taken_and_each_that_is_cut_short_is_refused(suffix: str, color: str) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (64, 64, 3))
    whole = picture(noise, suffix)
    made = preparation(color=color)
    assert made.tensor(whole).shape == (1, 8, 8, 1 if color == "GRAY" else 3)
    for share in (0.3, 0.9):
        with pytest.raises(BadPicture, match=r"cannot be decoded|cut short"):
            made.tensor(whole[: int(len(whole) * share)])


def test_a_deep_or_see_through_png_becomes_plain_colours() -> None:
    deep = cv2.imencode(".png", np.full((8, 8, 3), 65535, np.uint16))[1].tobytes()
    clear = picture(np.full((8, 8, 4), (10, 100, 200, 0)))
    grey = cv2.imencode(".png", np.full((8, 8), 77, np.uint8))[1].tobytes()
    assert preparation().tensor(deep).max() == 255
    assert preparation().tensor(clear)[0, 0, 0].tolist() == [200, 100, 10]
    assert preparation().tensor(grey)[0, 0, 0].tolist() == [77, 77, 77]


def test_a_bomb_is_refused_by_its_header() -> None:
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    with pytest.raises(BadPicture, match=r"20000x20000 pixels; at most 1000000 are decoded \(limits.max_pixels\)"):
        preparation().tensor(bomb)


def test_the_limit_itself_is_allowed() -> None:
    assert preparation(max_pixels=64).tensor(picture(plain((0, 0, 0)))).shape == (1, 8, 8, 3)
    with pytest.raises(BadPicture):
        preparation(max_pixels=63).tensor(picture(plain((0, 0, 0))))


@pytest.mark.parametrize(
    ("size", "wanted", "resize"),
    list(
        itertools.product(
            [(1, 1), (1, 300), (300, 1)], [(224, 96), (96, 224), (1, 1), (300, 2)], ["stretch", "center_crop"]
        )
    ),
)
def test_a_picture_of_any_shape_fits_any_input(size: tuple[int, int], wanted: tuple[int, int], resize: str) -> None:
    height, width = wanted
    made = preparation(width=width, height=height, resize=resize)
    for suffix in (".png", ".jpg"):
        assert made.tensor(picture(plain((9, 9, 9), *size), suffix)).shape == (1, height, width, 3)


@given(st.binary(max_size=400), st.integers(0, 400), st.integers(0, 400))
def test_a_damaged_picture_is_bad_or_readable_and_nothing_else(noise: bytes, place: int, cut: int) -> None:
    whole = picture(np.arange(8 * 8 * 3).reshape(8, 8, 3) % 256, ".jpg")
    damaged = whole[:place] + noise + whole[place + cut :]
    try:
        tensor = preparation().tensor(damaged)
    except BadPicture:
        return
    assert tensor.shape == (1, 8, 8, 3)
