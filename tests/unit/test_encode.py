"""Encoding: untouched where possible, within its budget always, and an error where there is no way."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from device_agent.encode import Unencodable, encode, thumbnail
from device_agent.settings import EncodeSettings
from device_agent.sources.source import Picture
from millrace import images

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "images"


def noise(height_px: int = 240, width_px: int = 320) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)


def smooth(height_px: int = 240, width_px: int = 320) -> NDArray[np.uint8]:
    ramp = np.linspace(0, 255, width_px)[None, :, None]
    return np.broadcast_to(ramp, (height_px, width_px, 3)).astype(np.uint8)


def decoded(payload: bytes) -> NDArray[np.uint8]:
    pixels = cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return np.asarray(pixels, np.uint8)


def jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def test_camera_pixels_become_a_jpeg_of_the_set_quality() -> None:
    result = encode(Picture(pixels=smooth()), EncodeSettings(quality=85))
    assert result == (jpeg(smooth(), 85), "image/jpeg", False)


def test_lossless_pixels_become_a_png_that_is_exact() -> None:
    result = encode(Picture(pixels=smooth(), lossless=True), EncodeSettings())
    assert result.content_type == "image/png"
    assert np.array_equal(decoded(result.payload), smooth())


def test_format_jpeg_holds_for_lossless_pixels_too() -> None:
    assert encode(Picture(pixels=smooth(), lossless=True), EncodeSettings(format="jpeg")).content_type == "image/jpeg"


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_encoded_bytes_pass_through_untouched(suffix: str) -> None:
    encoded = cv2.imencode(suffix, smooth())[1].tobytes()
    result = encode(Picture(encoded=encoded), EncodeSettings())
    assert result.payload is encoded
    assert not result.reencoded


def test_quality_steps_down_to_the_best_that_fits() -> None:
    budget = len(jpeg(noise(), 60))
    result = encode(Picture(pixels=noise()), EncodeSettings(max_bytes=budget))
    assert len(result.payload) <= budget
    assert result.payload == jpeg(noise(), 60)


def test_picture_shrinks_when_the_lowest_quality_is_too_big() -> None:
    budget = len(jpeg(noise(), 40)) // 4
    result = encode(Picture(pixels=noise()), EncodeSettings(max_bytes=budget))
    header = images.read_header(result.payload)
    assert budget // 3 < len(result.payload) <= budget
    assert header.width_px < 320
    assert header.width_px / header.height_px == pytest.approx(320 / 240, rel=0.05)


def test_encoded_bytes_over_the_budget_are_encoded_again_and_say_so() -> None:
    big = jpeg(noise(), 98)
    budget = len(jpeg(noise(), 85)) + 100
    result = encode(Picture(encoded=big), EncodeSettings(max_bytes=budget))
    assert result.reencoded
    assert result.content_type == "image/jpeg"
    assert len(result.payload) <= budget


def test_lossless_picture_too_big_as_png_becomes_a_jpeg_and_says_so() -> None:
    result = encode(Picture(pixels=noise(), lossless=True), EncodeSettings(max_bytes=100_000))
    assert (result.content_type, result.reencoded) == ("image/jpeg", True)


def test_png_over_the_budget_is_an_error_where_png_was_asked_for() -> None:
    with pytest.raises(Unencodable, match="use format auto or jpeg"):
        encode(Picture(pixels=noise(), lossless=True), EncodeSettings(format="png", max_bytes=100_000))


def test_picture_that_cannot_fit_is_an_error() -> None:
    with pytest.raises(Unencodable, match="do not fit"):
        encode(Picture(pixels=noise(20, 2000)), EncodeSettings(max_bytes=4096))


def test_webp_becomes_an_exact_png_because_it_cannot_carry_attributes() -> None:
    webp = cv2.imencode(".webp", smooth(), [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    result = encode(Picture(encoded=webp), EncodeSettings())
    assert (result.content_type, result.reencoded) == ("image/png", True)
    assert np.array_equal(decoded(result.payload), smooth())


@pytest.mark.parametrize("picture", [b"", b"no picture at all", jpeg(noise(), 90)[:100]])
def test_damaged_bytes_are_an_error(picture: bytes) -> None:
    with pytest.raises(Unencodable):
        encode(Picture(encoded=picture), EncodeSettings(max_bytes=4096))
    with pytest.raises(Unencodable):
        thumbnail(Picture(encoded=picture))


def test_sideways_exif_does_not_turn_the_pixels() -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    plain = jpeg(noise(), 98)
    turned = plain[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2) + exif + plain[2:]
    assert decoded(turned).shape == (320, 240, 3)
    header = images.read_header(encode(Picture(encoded=turned), EncodeSettings(max_bytes=80_000)).payload)
    assert (header.width_px, header.height_px) == (320, 240)


@pytest.mark.skipif(not DATA.is_dir(), reason="no shared pictures here")
@pytest.mark.parametrize("name", ["parrot.jpg", "cat_720p.jpg", "grace_hopper.bmp", "cat.bmp"])
@pytest.mark.parametrize("max_bytes", [16_384, 65_536, 524_288])
def test_real_pictures_keep_every_budget(name: str, max_bytes: int) -> None:
    content = (DATA / name).read_bytes()
    picture = Picture(pixels=decoded(content), lossless=True) if name.endswith(".bmp") else Picture(encoded=content)
    result = encode(picture, EncodeSettings(max_bytes=max_bytes))
    assert len(result.payload) <= max_bytes
    assert images.read_header(result.payload).content_type == result.content_type
    assert not (name.endswith(".jpg") and len(content) <= max_bytes and result.payload != content)
