"""JPEGs out of a stream of bytes: whole, untouched, however it is cut, and bounded."""

from __future__ import annotations

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from device_agent.sources.jpegs import JpegSplitter, first_jpeg


def pixels(level: int = 128, height_px: int = 48, width_px: int = 64) -> NDArray[np.uint8]:
    return np.full((height_px, width_px, 3), level, np.uint8)


def noisy(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def jpeg(picture: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".jpg", picture)[1].tobytes()


def with_thumbnail(picture: bytes, thumbnail: bytes) -> bytes:
    """Return the JPEG with another one, end marker and all, in an APP1 segment."""
    inside = b"Exif\0\0" + thumbnail
    return picture[:2] + b"\xff\xe1" + (len(inside) + 2).to_bytes(2) + inside + picture[2:]


@settings(deadline=None)
@given(
    order=st.lists(st.integers(0, 3), min_size=1, max_size=6),
    cuts=st.lists(st.integers(1, 4000), min_size=1, max_size=8),
    padding_bytes=st.integers(0, 40),
)
def test_jpegs_come_out_whole_however_the_pipe_cuts_them(order: list[int], cuts: list[int], padding_bytes: int) -> None:
    kinds = [jpeg(noisy(1)), jpeg(pixels()), with_thumbnail(jpeg(noisy(2)), jpeg(pixels())), jpeg(noisy(3))]
    sent = [kinds[number] for number in order]
    stream = b"".join(picture + bytes(padding_bytes) for picture in sent)
    splitter = JpegSplitter(1 << 20)
    received, place, turn = [], 0, 0
    while place < len(stream):
        received += splitter.feed(stream[place : place + cuts[turn % len(cuts)]])
        place, turn = place + cuts[turn % len(cuts)], turn + 1
    assert received == sent
    assert splitter.broken == 0


def test_progressive_jpeg_with_restarts_comes_out_whole() -> None:
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
    picture = cv2.imencode(".jpg", noisy(), options)[1].tobytes()
    assert JpegSplitter(1 << 20).feed(picture + picture) == [picture, picture]


def test_cut_off_jpeg_costs_only_itself() -> None:
    whole = jpeg(noisy())
    splitter = JpegSplitter(1 << 20)
    assert splitter.feed(whole[: len(whole) // 2] + whole + whole) == [whole, whole]
    assert splitter.broken == 1


def test_splitter_holds_no_more_than_its_bound() -> None:
    endless = jpeg(noisy())[:-2]
    splitter = JpegSplitter(64 << 10)
    for _ in range(40):
        assert splitter.feed(endless[:700] + b"\x11" * 8000) == []
    assert splitter.broken > 0
    assert splitter.feed(b"\x11" * (64 << 10) + jpeg(noisy())) == [jpeg(noisy())]


@given(st.binary(max_size=400))
def test_splitter_survives_any_bytes(noise: bytes) -> None:
    whole = jpeg(pixels())
    splitter = JpegSplitter(1 << 20)
    got = splitter.feed(noise)
    for _ in range(3):
        got += splitter.feed(whole)
    got += splitter.feed(bytes(200_000) + whole)
    assert whole in got


def test_padding_of_a_camera_buffer_is_cut_off() -> None:
    whole = with_thumbnail(jpeg(noisy()), jpeg(pixels()))
    assert first_jpeg(whole + bytes(5000)) == whole
    assert first_jpeg(whole[:-10]) is None
    assert first_jpeg(bytes(100)) is None
