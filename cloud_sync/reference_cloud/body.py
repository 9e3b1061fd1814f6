"""A request's body, read within its bounds: as many bytes as allowed, decompressed to no more than that, or refused."""

from __future__ import annotations

import asyncio
import zlib

import zstandard
from starlette.exceptions import HTTPException
from starlette.requests import Request

MAX_WINDOW_BYTES = 8 << 20  # zstd's own bound for what every decoder must take


async def read_body(request: Request, max_bytes: int, silence_s: float) -> bytes:
    """Return the body as sent.

    HTTPException: 413 as soon as it is longer than `max_bytes`, 408 after `silence_s` without a byte.
    """
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    chunks = request.stream()
    try:
        while True:
            async with asyncio.timeout(silence_s):
                chunk = await anext(chunks, None)
            if chunk is None:
                return bytes(body)
            body += chunk
            if len(body) > max_bytes:
                raise _too_large(max_bytes)
    except TimeoutError:
        gone = {"Connection": "close"}
        raise HTTPException(408, f"no byte of the body came for {silence_s:g} s", gone) from None


def decompress(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Return the content of a body in its Content-Encoding: none, gzip or zstd.

    HTTPException: 413 if it is longer than `max_bytes`, 415 for another encoding, 400 if it is damaged.
    """
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "zstd"):
        raise HTTPException(415, f"Content-Encoding {encoding[:40]!r} is neither zstd nor gzip")
    try:
        content = _gunzip(body, max_bytes + 1) if encoding == "gzip" else _unzstd(body, max_bytes + 1)
    except (zlib.error, zstandard.ZstdError, EOFError) as error:
        raise HTTPException(400, f"the body is not {encoding}: {error}") from None
    if len(content) > max_bytes:
        raise _too_large(max_bytes)
    return content


def _gunzip(body: bytes, max_bytes: int) -> bytes:
    stream = zlib.decompressobj(wbits=31)
    content = stream.decompress(body, max_bytes)
    if len(content) < max_bytes and (not stream.eof or stream.unused_data):
        raise EOFError("it ends too early or too late")
    return content


def _unzstd(body: bytes, max_bytes: int) -> bytes:
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    with decompressor.stream_reader(body, read_across_frames=True) as reader:
        return reader.read(max_bytes)


def _too_large(max_bytes: int) -> HTTPException:
    return HTTPException(413, f"the body is longer than {max_bytes} bytes; send less at a time")
