"""JSON read strictly: everything within the limits comes back equal, everything else is BadJson."""

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace import jsontext

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**19) + 1, 10**19 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | st.text(alphabet='[]{}"\\,:u', max_size=20)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=20
)


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@given(VALUES, st.booleans(), st.sampled_from([None, 2]))
def test_what_python_writes_within_the_limits_comes_back(value: object, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    depth = max((len(word) for word in _open_brackets(value)), default=0)
    if depth > jsontext.MAX_DEPTH:
        with pytest.raises(jsontext.BadJson, match="deeper"):
            jsontext.parse(text)
    else:
        assert jsontext.parse(text.encode()) == value == jsontext.parse(text)


def _open_brackets(value: object, above: str = "") -> list[str]:
    if isinstance(value, list | dict):
        members = value.values() if isinstance(value, dict) else value
        return [above + "[", *(word for member in members for word in _open_brackets(member, above + "["))]
    return []


@given(VALUES)
def test_what_we_dump_we_parse(value: object) -> None:
    if len(max(_open_brackets(value), key=len, default="")) <= jsontext.MAX_DEPTH:
        assert jsontext.parse(jsontext.dump(value)) == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "Expecting value"),
        (b"NaN", "NaN is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b'{"a": Infinity}', "Infinity is not JSON"),
        (b"1e999", "too large"),
        (b"-1e999", "too large"),
        (b"1" * 400 + b".0", "too large"),
        (b"1" * 20, "20 digits"),
        (b"-" + b"9" * 5000, "digits; at most 19"),
        (b'{"a": 1, "a": 1}', "'a' stands twice"),
        (b'{"a": 1, "\\u0061": 2}', "'a' stands twice"),
        (b'[{"b": {"c": 1, "c": 2}}]', "'c' stands twice"),
        (nested(17).encode(), "deeper than 16"),
        (nested(100_000).encode(), "deeper than 16"),
        (b"[" * 100_000, "deeper than 16"),
        (b'{"a":' * 100_000, "deeper than 16"),
        (b"]" * 100 + b"[" * 100_000, "deeper than 16"),
        (b"]" * 100, "Expecting value"),
        (b'"\xff"', "not UTF-8 at byte 1"),
        (b'"\xc0\x80"', "not UTF-8 at byte 1"),
        (b'"\xed\xa0\x80"', "not UTF-8 at byte 1"),
        (b'"\\ud800"', "lone surrogate"),
        (b'{"\\udfff": 1}', "lone surrogate"),
        (b'["\\ude00\\ud83d"]', "lone surrogate"),
        ('"\ud800"', "lone surrogate"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'"a\nb"', "control character"),
        (b"{'a': 1}", "line 1 column 2"),
        (b"[1,]", "line 1 column"),
        (b"{} {}", "Extra data"),
        (b"01", "Extra data"),
        (b"\x00", "Expecting value"),
    ],
)
def test_what_is_refused_is_refused_with_the_reason(text: bytes | str, why: str) -> None:
    with pytest.raises(jsontext.BadJson, match=why) as refused:
        jsontext.parse(text)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (nested(16), json.loads(nested(16))),
        (json.dumps("[" * 1000), "[" * 1000),
        (json.dumps('\\"' + "[{" * 1000), '\\"' + "[{" * 1000),
        (json.dumps(["]"] * 50), ["]"] * 50),
        ("[" + "[]," * 1000 + "[]]", [[]] * 1001),
        ('"\\ud83d\\ude00"', "\N{GRINNING FACE}"),
        ('"\\\\ud800"', "\\ud800"),
        ("9999999999999999999", 9999999999999999999),
        ("-9999999999999999999", -9999999999999999999),
        ("5e-324", 5e-324),
        ("1e-999", 0.0),
        (' \t\r\n{"":null}\n', {"": None}),
    ],
)
def test_what_only_looks_dangerous_is_read(text: str, value: object) -> None:
    assert jsontext.parse(text) == value


def test_the_limit_counts_bytes_in_text_too() -> None:
    text = '"' + "\N{GRINNING FACE}" * 10 + '"'
    assert jsontext.parse(text, max_bytes=42) == text[1:-1]
    for oversize in (text, text.encode()):
        with pytest.raises(jsontext.BadJson, match="42 bytes; at most 41"):
            jsontext.parse(oversize, max_bytes=41)


@pytest.mark.timeout(20)
def test_a_double_key_after_a_hundred_thousand_others_does_not_hold_the_line() -> None:
    members = ",".join(f'"{number}":0' for number in range(90_000))
    with pytest.raises(jsontext.BadJson, match="'last' stands twice"):
        jsontext.parse("{" + members + ',"last":0,"last":0}')


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_what_is_no_json_is_not_written(value: object) -> None:
    with pytest.raises(ValueError, match=r"range|surrogates"):
        jsontext.dump({"value": value})


def test_what_is_written_is_compact_utf_8() -> None:
    assert jsontext.dump({"b": [1, "ä"], "a": None}) == '{"b":[1,"ä"],"a":null}'.encode()


@given(st.binary(max_size=200) | st.text(alphabet=string.digits + '{}[]",:\\u.eE+- tfn', max_size=100))
def test_garbage_is_read_or_bad_json(text: bytes | str) -> None:
    try:
        value = jsontext.parse(text)
    except jsontext.BadJson:
        return
    assert value == json.loads(text)
