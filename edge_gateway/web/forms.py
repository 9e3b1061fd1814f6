"""The files of a form (multipart/form-data, RFC 7578), cut out of a body that is all here. No I/O here."""

from __future__ import annotations

from collections.abc import Iterator

from python_multipart.multipart import parse_options_header

MAX_FIELDS = 8
MAX_HEAD_BYTES = 8 << 10
MAX_BOUNDARY_BYTES = 200


class BadForm(ValueError):
    """A body that is not the form that it says it is; the message says what is wrong."""


def is_form(content_type: str) -> bool:
    """Say whether a body of that type is a form with files."""
    return parse_options_header(content_type)[0] == b"multipart/form-data"


def files(content_type: str, body: bytes, max_files: int) -> list[tuple[str, bytes]]:
    """Return name and content of each file, in their order; fields are left aside. Errors: BadForm."""
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not 0 < len(boundary) <= MAX_BOUNDARY_BYTES:
        raise BadForm("the form names no boundary")
    found: list[tuple[str, bytes]] = []
    fields = 0
    for part in _parts(body, b"--" + boundary):
        name, content = _file(part)
        if name is None:
            fields += 1
        else:
            found.append((name, content))
        if len(found) > max_files or fields > MAX_FIELDS:
            raise BadForm(f"a form has at most {max_files} files and {MAX_FIELDS} fields here")
    return found


def _parts(body: bytes, boundary: bytes) -> Iterator[bytes]:
    """Yield each part, its head included; what stands before the first and behind the last is nobody's."""
    next_line = b"\r\n" + boundary
    place = 0 if body.startswith(boundary) else body.find(next_line) + 2
    if not body.startswith(boundary, place):
        raise BadForm("the form holds no boundary")
    place += len(boundary)
    while not body.startswith(b"--", place):
        begin, end = body.find(b"\r\n", place), body.find(next_line, place)
        if begin < 0 or end < 0:
            raise BadForm("the form is cut short: its last boundary is missing")
        if body[place:begin].strip(b" \t"):
            raise BadForm("a boundary does not end its line")
        yield body[begin + 2 : end]
        place = end + len(next_line)


def _file(part: bytes) -> tuple[str | None, bytes]:
    """Return a part's file name and content; None for the name of a field's."""
    head, blank, content = part.partition(b"\r\n\r\n")
    if not blank or len(head) > MAX_HEAD_BYTES:
        raise BadForm("a part of the form has no head")
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-disposition":
            said = parse_options_header(value.strip())[1]
            return said[b"filename"].decode("utf-8", "replace") if b"filename" in said else None, content
    raise BadForm("a part of the form has no Content-Disposition")
