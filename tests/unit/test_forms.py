"""Forms with files: what a client's library writes is read, and what is cut short, vast or odd is refused in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3.filepost import encode_multipart_formdata

from edge_gateway.web.forms import MAX_FIELDS, BadForm, files, is_form

TYPE = "multipart/form-data; boundary=b"
HEAD = b'Content-Disposition: form-data; name="p"; filename="%s"'


def form(*parts: tuple[bytes, bytes]) -> bytes:
    """Return a form of these heads and contents."""
    return b"".join(b"--b\r\n" + head + b"\r\n\r\n" + content + b"\r\n" for head, content in parts) + b"--b--\r\n"


@given(st.lists(st.tuples(st.text("aé 日.", min_size=1), st.binary()), max_size=4), st.booleans())
def test_what_a_library_writes_is_read_as_it_was(wanted: list[tuple[str, bytes]], with_field: bool) -> None:
    fields: list[tuple[str, str | tuple[str, bytes]]] = [("note", "x")] if with_field else []
    body, content_type = encode_multipart_formdata(fields + [("p", (name, content)) for name, content in wanted])
    assert is_form(content_type)
    assert files(content_type, body, 4) == wanted


def test_lines_that_look_nearly_like_its_boundary_are_content() -> None:
    odd = b"\r\n--\r\n--\xff\r\n-b\r\n --b--\r\n"
    assert files(TYPE, b"preamble\r\n" + form((HEAD % b"x", odd), (HEAD % b"", b"")) + b"--b epilogue", 2) == [
        ("x", odd),
        ("", b""),
    ]


@pytest.mark.parametrize("charset", ["unicode_escape", "undefined", "utf-7", "punycode", "no such"])
def test_a_file_is_named_in_utf_8_whatever_the_caller_says_of_it(charset: str) -> None:
    body = form((HEAD % rb"\ud800+2AA-", b""), (HEAD % "ü".encode(), b""), (HEAD % b"\xff", b""))
    found = [name for name, _ in files(f"{TYPE}; charset={charset}", body, 3)]
    assert found == [r"\ud800+2AA-", "ü", "\ufffd"]


def test_a_type_is_the_same_in_any_case() -> None:
    assert is_form('Multipart/Form-Data; boundary="b"')
    assert not is_form("multipart/form-database; boundary=b")
    assert not is_form("")


WHOLE = form((HEAD % b"a", b"1"), (HEAD % b"b", b"2"))
WRONG: dict[str, tuple[str, bytes, str]] = {
    "nothing": (TYPE, b"", "holds no boundary"),
    "no boundary named": ("multipart/form-data", WHOLE, "names no boundary"),
    "an endless boundary": (f"multipart/form-data; boundary={'b' * 201}", WHOLE, "names no boundary"),
    "another boundary": ("multipart/form-data; boundary=c", WHOLE, "holds no boundary"),
    "no last boundary": (TYPE, WHOLE[: WHOLE.rindex(b"\r\n--b--")], "cut short"),
    "cut in its boundary": (TYPE, WHOLE[:-5], "does not end its line|cut short"),
    "a boundary within a line": (TYPE, WHOLE.replace(b"--b\r\n", b"--bc\r\n"), "does not end its line"),
    "a part without a head": (TYPE, b"--b\r\nhello\r\n--b--", "has no head"),
    "a part with an endless head": (TYPE, form((b"x: " + b"y" * 9000, b"")), "has no head"),
    "a part of nobody": (TYPE, form((b"Content-Type: image/png", b"")), "no Content-Disposition"),
    "too many files": (TYPE, form(*[(HEAD % b"x", b"")] * 3), "at most 2 files"),
    "too many fields": (
        TYPE,
        form(*[(b'Content-Disposition: form-data; name="x"', b"")] * (MAX_FIELDS + 1)),
        "at most 2 files and 8 fields",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_form_is_refused_in_words(what: str) -> None:
    content_type, body, said = WRONG[what]
    with pytest.raises(BadForm, match=said):
        files(content_type, body, 2)


@given(cut=st.integers(0, len(WHOLE)), flip=st.integers(0, len(WHOLE) - 1), bit=st.integers(0, 7))
def test_a_form_that_is_cut_or_damaged_is_read_or_refused(cut: int, flip: int, bit: int) -> None:
    damaged = bytearray(WHOLE[:cut])
    if flip < len(damaged):
        damaged[flip] ^= 1 << bit
    try:
        found = files(TYPE, bytes(damaged), 2)
    except BadForm:
        return
    assert cut >= len(WHOLE) - 2  # all but the last line's end is needed
    assert len(found) <= 2
