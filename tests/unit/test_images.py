"""Attributes inside a picture leave the picture alone; headers are read without decoding, whatever the bytes."""

import hashlib
import io
import struct
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from millrace import images
from millrace.images import BadPicture, Header

ATTRIBUTES = b'{"specversion":"1.0","type":"io.millrace.frame.v1","id":"k3v9x0pa-1"}'
WIDTH_PX, HEIGHT_PX = 50, 30


def _pixels(channels: int = 3) -> np.ndarray:
    rows, columns = np.mgrid[0:HEIGHT_PX, 0:WIDTH_PX]
    planes = [(rows * (3 + plane) + columns * (5 - plane)) % 256 for plane in range(channels)]
    return np.dstack(planes).astype(np.uint8)


def _saved(mode: str, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(_pixels()).convert(mode).save(file, form, **options)
    return file.getvalue()


def _segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def _with_thumbnail() -> bytes:
    thumbnail = io.BytesIO()
    Image.new("RGB", (8, 8)).save(thumbnail, "JPEG")
    exif = b"Exif\0\0II*\0\x08\0\0\0\0\0" + thumbnail.getvalue()
    whole = _saved("RGB", "JPEG")
    return whole[:2] + _segment(0xE1, exif) + whole[2:]


def _without_dht(picture: bytes) -> bytes:
    """Leave out the standard Huffman tables, as motion JPEG cameras do."""
    place, parts = 2, [picture[:2]]
    while picture[place + 1] != 0xDA:
        end = place + 2 + int.from_bytes(picture[place + 2 : place + 4])
        if picture[place + 1] != 0xC4:
            parts.append(picture[place:end])
        place = end
    return b"".join(parts) + picture[place:]


def _jpegs() -> Iterator[tuple[str, bytes]]:
    exif = Image.Exif()
    exif[0x010E] = "a scratch"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    from_cv2 = cv2.imencode(".jpg", _pixels())[1].tobytes()
    yield "cv2", from_cv2
    yield "cv2 progressive", cv2.imencode(".jpg", _pixels(), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    yield "grey", cv2.imencode(".jpg", _pixels(1))[1].tobytes()
    yield "simplejpeg", simplejpeg.encode_jpeg(_pixels(), colorspace="RGB")
    yield "pillow", _saved("RGB", "JPEG")
    yield "exif and icc", _saved("RGB", "JPEG", exif=exif.tobytes(), icc_profile=icc)
    yield "progressive", _saved("RGB", "JPEG", progressive=True, optimize=True)
    yield "vendor comment", _saved("RGB", "JPEG", comment=b"ACME camera {not ours}")
    yield "thumbnail", _with_thumbnail()
    yield "no Huffman tables", _without_dht(from_cv2)
    yield "40 segments", from_cv2[:20] + _segment(0xE1, b"FLIR" + bytes(60)) * 40 + from_cv2[20:]
    yield "fill bytes", from_cv2[:20] + b"\xff" * 7 + from_cv2[20:]
    yield "no application segment", from_cv2[:2] + from_cv2[20:]


def _pngs() -> Iterator[tuple[str, bytes]]:
    for mode in ("RGB", "L", "RGBA", "P", "1"):
        yield f"png {mode}", _saved(mode, "PNG")
    yield "png cv2", cv2.imencode(".png", _pixels())[1].tobytes()
    yield "png 16 bit", cv2.imencode(".png", _pixels(1).astype(np.uint16) * 257)[1].tobytes()


JPEGS, PNGS = dict(_jpegs()), dict(_pngs())
WEBPS = {
    "lossy": _saved("RGB", "WEBP", quality=70),
    "lossless": _saved("RGB", "WEBP", lossless=True),
    "alpha": _saved("RGBA", "WEBP", quality=70, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
}
PICTURES = JPEGS | PNGS
ALL = PICTURES | WEBPS


def pictures(of: dict[str, bytes]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("picture", of.values(), ids=of.keys())


@pictures(PICTURES)
def test_every_decoder_sees_the_same_pixels_with_attributes_inside(picture: bytes) -> None:
    full = images.embed(picture, ATTRIBUTES)
    for flag in (cv2.IMREAD_UNCHANGED, cv2.IMREAD_COLOR, cv2.IMREAD_REDUCED_GRAYSCALE_2):
        before, after = (cv2.imdecode(np.frombuffer(each, np.uint8), flag) for each in (picture, full))
        assert before is not None
        assert np.array_equal(before, after)
    before, after = (Image.open(io.BytesIO(each)) for each in (picture, full))
    assert (after.format, after.mode, after.size) == (before.format, before.mode, before.size)
    assert after.getexif() == before.getexif()
    assert after.info.get("icc_profile") == before.info.get("icc_profile")
    assert after.tobytes() == before.tobytes()


@pictures(JPEGS)
def test_simplejpeg_sees_the_same_pixels_with_attributes_inside(picture: bytes) -> None:
    full = images.embed(picture, ATTRIBUTES)
    assert simplejpeg.is_jpeg(full)
    assert simplejpeg.decode_jpeg_header(full) == simplejpeg.decode_jpeg_header(picture)
    assert np.array_equal(simplejpeg.decode_jpeg(full), simplejpeg.decode_jpeg(picture))


@pictures(PICTURES)
def test_attributes_come_out_as_they_went_in_and_leave_no_trace(picture: bytes) -> None:
    assert images.extract(picture) is None
    assert images.bare(picture) is picture
    full = images.embed(picture, ATTRIBUTES)
    assert images.extract(full) == ATTRIBUTES
    assert images.bare(full) == picture
    assert images.digest(full) == images.digest(picture) == hashlib.sha256(picture).hexdigest()
    assert images.read_header(full) == images.read_header(picture)


@pictures(PICTURES)
def test_embedding_again_replaces(picture: bytes) -> None:
    newer = ATTRIBUTES[:-1] + b',"base":"7"}'
    again = images.embed(images.embed(picture, ATTRIBUTES), newer)
    assert again == images.embed(picture, newer)
    assert again.count(images.MARK) == 1


def test_sniffers_still_see_a_jpeg_that_begins_with_jfif() -> None:
    full = images.embed(JPEGS["cv2"], ATTRIBUTES)
    assert full[:4] == b"\xff\xd8\xff\xe0"
    assert full[6:11] == b"JFIF\0"


def test_a_vendor_comment_survives_beside_ours() -> None:
    full = images.embed(JPEGS["vendor comment"], ATTRIBUTES)
    assert b"ACME camera {not ours}" in full
    assert images.extract(full) == ATTRIBUTES


def test_the_png_chunk_is_one_that_pillow_reads_as_text() -> None:
    full = images.embed(PNGS["png RGB"], ATTRIBUTES)
    Image.open(io.BytesIO(full)).verify()
    assert Image.open(io.BytesIO(full)).text == {"cloudevents": ATTRIBUTES.decode()}


@pytest.mark.parametrize(
    "attributes", [b"", b"{}", b' {"specversion":"1.0"}', images.MARK + b" " * images.MAX_ATTRIBUTES_BYTES]
)
def test_attributes_that_are_not_ours_are_not_embedded(attributes: bytes) -> None:
    with pytest.raises(ValueError, match="attributes must begin"):
        images.embed(JPEGS["cv2"], attributes)


@pytest.mark.parametrize(
    "picture",
    [
        b"",
        b"GIF89a",
        WEBPS["lossy"],
        PNGS["png RGB"][:20],
        PNGS["png RGB"][:32],
        b"\x89PNG\r\n\x1a\n" + bytes(40),
        JPEGS["cv2"][:10],
        JPEGS["cv2"][:2] + _segment(0xE1, b"") * 300,
    ],
)
def test_attributes_are_refused_rather_than_lost_where_they_cannot_be_found_again(picture: bytes) -> None:
    with pytest.raises(BadPicture):
        images.embed(picture, ATTRIBUTES)


@pictures(ALL)
def test_the_header_has_format_and_size(picture: bytes) -> None:
    content_type = f"image/{Image.open(io.BytesIO(picture)).format.lower()}"
    assert images.read_header(picture) == Header(content_type, WIDTH_PX, HEIGHT_PX)


def test_the_three_forms_of_webp_are_all_tried() -> None:
    assert [WEBPS[name][12:16] for name in ("lossy", "lossless", "alpha")] == [b"VP8 ", b"VP8L", b"VP8X"]


def test_the_smallest_webp_of_26_bytes_has_a_size() -> None:
    smallest = b"RIFF\x12\0\0\0WEBPVP8L\x06\0\0\0\x2f\x41\x6c\x6f\x00\x6b"
    assert images.read_header(smallest) == Header("image/webp", *Image.open(io.BytesIO(smallest)).size)


@pictures(ALL)
def test_a_picture_cut_at_any_byte_is_read_or_bad(picture: bytes) -> None:
    whole = images.read_header(picture)
    full = images.embed(picture, ATTRIBUTES) if picture[:4] != b"RIFF" else picture
    for length in range(min(len(full), 1500)):
        cut = full[:length]
        assert images.extract(cut) in (None, ATTRIBUTES)
        assert cut.startswith(images.bare(cut)[:2])
        assert len(images.digest(cut)) == 64
        try:
            assert images.read_header(cut) == whole
        except BadPicture:
            pass


@pytest.mark.parametrize(("width_px", "height_px"), [(20_000, 20_000), (65_535, 65_535)])
def test_a_bomb_is_measured_without_decoding(width_px: int, height_px: int) -> None:
    jpeg = JPEGS["cv2"]
    sof = jpeg.index(b"\xff\xc0")
    bomb = jpeg[: sof + 5] + struct.pack(">HH", height_px, width_px) + jpeg[sof + 9 :]
    assert images.read_header(bomb) == Header("image/jpeg", width_px, height_px)
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    bomb = PNGS["png RGB"][:12] + ihdr + struct.pack(">I", zlib.crc32(ihdr)) + PNGS["png RGB"][33:]
    assert images.read_header(bomb) == Header("image/png", width_px, height_px)


@pytest.mark.parametrize("marker", [0x00, 0x01, 0x02, 0xC8, 0xD0, 0xD7, 0xD8, 0xD9, 0xDA, 0xF0])
def test_a_small_frame_header_cannot_hide_a_bomb_behind_a_marker_without_length(marker: int) -> None:
    """Decoders read the bytes after such a marker as the next marker; reading them as a length would skip the bomb."""
    bomb = _segment(0xC0, struct.pack(">BHHB", 8, 60_000, 60_000, 1) + b"\1\x11\0")
    picture = b"\xff\xd8\xff" + bytes((marker,)) + bomb
    decoy = _segment(0xC0, struct.pack(">BHHB", 8, 8, 8, 1) + b"\1\x11\0")
    picture = picture.ljust(4 + int.from_bytes(bomb[:2]), b"\0") + decoy
    with pytest.raises(BadPicture, match="without a frame header"):
        images.read_header(picture)


@pytest.mark.parametrize(
    "picture",
    [
        b"",
        b"\xff\xd8",
        b"BM" + bytes(60),
        b"GIF89a" + bytes(60),
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8" + b"\xff\xe0\0\0" * 100,
        JPEGS["cv2"].replace(b"\xff\xc0\0\x11\x08\0\x1e", b"\xff\xc0\0\x11\x08\0\0"),
        PNGS["png RGB"][:16] + bytes(8) + PNGS["png RGB"][24:],
        PNGS["png RGB"].replace(b"IHDR", b"IDAT"),
        WEBPS["lossy"].replace(b"VP8 ", b"VP9 "),
    ],
)
def test_what_is_no_picture_is_bad(picture: bytes) -> None:
    with pytest.raises(BadPicture):
        images.read_header(picture)


@pytest.mark.timeout(20)
def test_four_megabytes_of_fill_bytes_or_empty_segments_do_not_hold_the_line() -> None:
    for hostile in (b"\xff" * (4 << 20), b"\xff\xe0\0\2" * (1 << 20), b"\xff\xe0\0\0" * (1 << 20)):
        with pytest.raises(BadPicture):
            images.read_header(b"\xff\xd8" + hostile)
        assert images.extract(b"\xff\xd8" + hostile) is None


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A picture with attributes inside, some of whose first bytes are replaced, removed or doubled."""
    name = draw(st.sampled_from(sorted(ALL)))
    picture = ALL[name] if name in WEBPS else images.embed(ALL[name], ATTRIBUTES)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, min(len(picture), 400)))
        removed = draw(st.integers(0, 8))
        picture = picture[:place] + draw(st.binary(max_size=8)) + picture[place + removed :]
    return picture


MAGICS = [b"\xff\xd8\xff", b"\xff\xd8\xff\xfe\0\x20" + images.MARK, PNGS["png RGB"][:33], b"RIFF\0\0\0\0WEBPVP8X", b""]


@given(mutated() | st.tuples(st.sampled_from(MAGICS), st.binary(max_size=300)).map(b"".join))
def test_hostile_bytes_are_bad_pictures_and_nothing_worse(picture: bytes) -> None:
    try:
        header = images.read_header(picture)
        assert header.width_px > 0 < header.height_px
    except BadPicture:
        pass
    bare = images.bare(picture)
    inside = images.extract(picture)
    assert (inside is None) == (bare is picture)
    assert inside is None or inside.startswith(images.MARK)
    assert images.digest(picture) == hashlib.sha256(bare).hexdigest()
    try:
        full = images.embed(picture, ATTRIBUTES)
    except BadPicture:
        return
    assert images.extract(full) == ATTRIBUTES
    assert images.bare(full) == bare
