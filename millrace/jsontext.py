"""JSON read strictly: no NaN, no duplicate keys, no bombs; what is refused is refused with the reason."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any

MAX_DEPTH = 16
MAX_INTEGER_DIGITS = 19
# Strings, and whatever else is no bracket; possessive, so that no text makes it slow.
_NOT_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[^"\[\]{}]++', re.DOTALL)

Json = None | bool | int | float | str | list[Any] | dict[str, Any]


class BadJson(ValueError):
    """Text that is not the JSON that we accept; the message says what and where."""


def parse(text: bytes | str, max_bytes: int = 1 << 20) -> Json:
    """Return the value of one JSON text of at most `max_bytes`; BadJson for all else.

    Refused: NaN and infinities (1e999 too), duplicate keys, more than 16 levels, integers of more than 19
    digits, invalid UTF-8, lone surrogates.
    """
    try:
        encoded = text if isinstance(text, bytes) else text.encode("utf-8")
        if len(encoded) > max_bytes:
            raise BadJson(f"{len(encoded)} bytes; at most {max_bytes} are read")
        string = encoded.decode("utf-8")
    except UnicodeEncodeError as error:
        raise BadJson(f"a lone surrogate at character {error.start}") from None
    except UnicodeDecodeError as error:
        raise BadJson(f"not UTF-8 at byte {error.start}") from None
    if string.startswith("\ufeff"):
        raise BadJson("a byte order mark (BOM) at its begin")
    if _depth(string) > MAX_DEPTH:
        raise BadJson(f"nested deeper than {MAX_DEPTH} levels")
    try:
        value: Json = _DECODER.decode(string)
    except json.JSONDecodeError as error:
        raise BadJson(f"{error.msg} at line {error.lineno} column {error.colno}") from None
    if "\\u" in string:
        _no_lone_surrogates(string, value)
    return value


def dump(value: object) -> bytes:
    """Return `value` as compact JSON in UTF-8; ValueError for NaN and infinities."""
    return _ENCODER.encode(value).encode("utf-8")


def _depth(string: str) -> int:
    if string.count("[") + string.count("{") <= MAX_DEPTH:
        return 0
    depth = deepest = 0
    for bracket in _NOT_BRACKETS.sub("", string):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise BadJson(f"key {twice[:40]!r} stands twice")
    return found


def _no_constant(name: str) -> float:
    raise BadJson(f"{name} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise BadJson(f"number {digits[:20]} is too large")
    return value


def _bounded(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_INTEGER_DIGITS:
        raise BadJson(f"integer of {len(digits)} digits; at most {MAX_INTEGER_DIGITS}")
    return int(digits)


def _no_lone_surrogates(string: str, value: Json) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise BadJson(f"a lone surrogate in {string[:40]!r}") from None


# Made once: json.loads and json.dumps make such an object at each call.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite, parse_int=_bounded
)
_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)
