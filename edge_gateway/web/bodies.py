"""A request's body, read within its limits of bytes and time; and the files of a form."""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.requests import Request

from edge_gateway.web import forms
from edge_gateway.web.room import Visit

PART_BYTES = 16 << 10  # what a form adds to a file: boundaries, names, a few fields


def is_form(request: Request) -> bool:
    """Say whether the body is a form with files."""
    return forms.is_form(request.headers.get("content-type", ""))


async def read(request: Request, visit: Visit, max_bytes: int, patience_s: float) -> bytes:
    """Return the whole body. Errors: HTTPException 408, 413 or 415, and Full."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise HTTPException(415, "send the body as it is, without Content-Encoding", {"Connection": "close"})
    body = bytearray()
    try:
        async with asyncio.timeout(patience_s):
            async for chunk in request.stream():
                if len(body) + len(chunk) > max_bytes:
                    raise too_large(max_bytes)
                visit.hold(len(chunk))
                body += chunk
    except TimeoutError:
        raise HTTPException(408, f"the body did not come within {patience_s} s", {"Connection": "close"}) from None
    return bytes(body)


def files(request: Request, body: bytes, max_files: int) -> list[tuple[str, bytes]]:
    """Return name and content of each file of a form that was read. Errors: HTTPException 400 for what is no form."""
    try:
        return forms.files(request.headers["content-type"], body, max_files)
    except forms.BadForm as error:
        raise HTTPException(400, str(error)) from None


def too_large(max_bytes: int) -> HTTPException:
    """Return the refusal of what has more bytes than may come."""
    return HTTPException(413, f"at most {max_bytes} bytes are taken here", {"Connection": "close"})
