"""Pictures as containers: attributes inside a JPEG or PNG, the picture untouched; format and size from the header.

A JPEG carries them in a COM segment after the leading APPn segments, a PNG in an iTXt chunk after IHDR; decoders skip
both. Nothing here decodes pixels.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass

MARK = b'{"specversion"'
MAX_ATTRIBUTES_BYTES = 8192
MAX_MARKERS = 256
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_AFTER_IHDR = 33
_PNG_KEYWORD = b"cloudevents\x00\x00\x00\x00\x00"
_SOF = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
# The segments with a length that may stand before the frame header. Skipping any other by a length that decoders do not
# read would let a picture show us a small frame header and the decoder a huge one.
_BEFORE_SOF = frozenset({0xC4, 0xCC, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)})


class BadPicture(ValueError):
    """Bytes that are no picture which we accept; the message says why."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a picture's header says: `content_type` (image/jpeg, image/png, image/webp), width and height in pixels."""

    content_type: str
    width_px: int
    height_px: int


def read_header(picture: bytes) -> Header:
    """Return format and size without decoding; BadPicture for anything but a JPEG, PNG or WebP with pixels."""
    try:
        if picture[:3] == b"\xff\xd8\xff":
            header = Header("image/jpeg", *_jpeg_size(picture))
        elif picture[:8] == _PNG_MAGIC:
            header = Header("image/png", *_png_size(picture))
        elif picture[:4] == b"RIFF" and picture[8:12] == b"WEBP":
            header = Header("image/webp", *_webp_size(picture))
        else:
            raise BadPicture(f"not a JPEG, PNG or WebP (begins {picture[:8].hex()})")
    except (struct.error, IndexError):
        raise BadPicture(f"picture header cut short at {len(picture)} bytes") from None
    if not (header.width_px and header.height_px):
        raise BadPicture(f"a picture of {header.width_px} x {header.height_px} pixels")
    return header


def embed(picture: bytes, attributes: bytes) -> bytes:
    """Return the JPEG or PNG with `attributes` (JSON that begins `{"specversion"`) inside; an older set is replaced.

    Errors: BadPicture if the bytes are neither or cut short, ValueError if the attributes are not ours or over 8 KB.
    """
    if not attributes.startswith(MARK) or len(attributes) > MAX_ATTRIBUTES_BYTES:
        raise ValueError(f"attributes must begin {MARK!r} and take at most {MAX_ATTRIBUTES_BYTES} bytes")
    picture = bare(picture)
    if picture[:3] == b"\xff\xd8\xff":
        place = _after_leading_app_segments(picture)
        carrier = b"\xff\xfe" + struct.pack(">H", len(attributes) + 2) + attributes
    elif picture[:8] == _PNG_MAGIC:
        place = _PNG_AFTER_IHDR
        body = b"iTXt" + _PNG_KEYWORD + attributes
        carrier = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    else:
        raise BadPicture("attributes fit into a JPEG or a PNG only")
    full = picture[:place] + carrier + picture[place:]
    if _span(full) != (place, place + len(carrier)):
        raise BadPicture(f"no place for attributes in these {len(picture)} bytes: cut short, or no picture")
    return full


def extract(picture: bytes) -> bytes | None:
    """Return the attributes inside the picture, or None if it carries none."""
    span = _span(picture)
    if span is None:
        return None
    first, last = span
    return picture[first + 4 : last] if picture[:2] == b"\xff\xd8" else picture[first + 24 : last - 4]


def bare(picture: bytes) -> bytes:
    """Return the picture without our attributes; the same object if it carries none."""
    span = _span(picture)
    return picture if span is None else picture[: span[0]] + picture[span[1] :]


def digest(picture: bytes) -> str:
    """Return the SHA-256 (hex) of the picture's bytes without our attributes: equal pictures are equal."""
    span = _span(picture)
    if span is None:
        return hashlib.sha256(picture).hexdigest()
    view = memoryview(picture)
    state = hashlib.sha256(view[: span[0]])
    state.update(view[span[1] :])
    return state.hexdigest()


def _span(picture: bytes) -> tuple[int, int] | None:
    """Return where our segment or chunk begins and ends."""
    if picture[:2] == b"\xff\xd8":
        place = 2
        for _ in range(MAX_MARKERS):
            if len(picture) < place + 4 or picture[place] != 0xFF or picture[place + 1] in (0xDA, 0xD9):
                return None
            end = place + 2 + int.from_bytes(picture[place + 2 : place + 4])
            ours = picture[place + 1] == 0xFE and picture.startswith(MARK, place + 4, end)
            if ours and end <= len(picture):
                return place, end
            place = end
    elif picture[:8] == _PNG_MAGIC and picture[12:16] == b"IHDR" and picture[37:41] == b"iTXt":
        end = _PNG_AFTER_IHDR + 12 + int.from_bytes(picture[33:37])
        if picture.startswith(_PNG_KEYWORD + MARK, 41, end - 4) and end <= len(picture):
            return _PNG_AFTER_IHDR, end
    return None


def _after_leading_app_segments(picture: bytes) -> int:
    place = 2
    while len(picture) >= place + 4 and picture[place] == 0xFF and 0xE0 <= picture[place + 1] <= 0xEF:
        place += 2 + int.from_bytes(picture[place + 2 : place + 4])
    return place


def _jpeg_size(picture: bytes) -> tuple[int, int]:
    place = 2
    for _ in range(MAX_MARKERS):
        marker = picture[place + 1]
        if picture[place] != 0xFF:
            break
        if marker in _SOF:
            height, width = struct.unpack(">HH", picture[place + 5 : place + 9])
            return width, height
        if marker in _BEFORE_SOF:
            place += 2 + struct.unpack(">H", picture[place + 2 : place + 4])[0]
        elif marker == 0xFF:
            place += 1
        else:
            break
    raise BadPicture("JPEG without a frame header where one must be")


def _png_size(picture: bytes) -> tuple[int, int]:
    if picture[12:16] != b"IHDR":
        raise BadPicture("PNG without IHDR")
    width, height = struct.unpack(">II", picture[16:24])
    return width, height


def _webp_size(picture: bytes) -> tuple[int, int]:
    form = picture[12:16]
    if form == b"VP8X":
        canvas = struct.unpack("<HBHB", picture[24:30])
        return 1 + canvas[0] + (canvas[1] << 16), 1 + canvas[2] + (canvas[3] << 16)
    if form == b"VP8L":
        bits = struct.unpack("<I", picture[21:25])[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if form == b"VP8 ":
        width, height = struct.unpack("<HH", picture[26:30])
        return width & 0x3FFF, height & 0x3FFF
    raise BadPicture(f"WebP of unknown form {form!r}")
