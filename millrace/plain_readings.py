"""A keyed reading that is spelled as we spell it: what it says, and its digest, without spelling it again.

Anything else, and all that is rare, is None here: `events.decode_json` takes it, or says what is wrong with it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha256

from millrace import clock
from millrace.events import READING, Event, Key, Scalar

VALUES_MAX = 256
_TEXT = r"[ !#-\[\]-~]"  # ASCII that JSON writes as it is
_NUMBER = r"(?:0|[1-9][0-9]{0,17})"
_READING = re.compile(
    r'\{"specversion":"1\.0","type":"io\.millrace\.reading\.v1",'
    rf'"source":"({_TEXT}{{1,256}})","id":"([a-z0-9]{{8}})-([1-9][0-9]{{0,17}})",'
    r'"time":"((?:19|20|21)[0-9]{2}-[0-9]{2}-[0-9]{2})(T(?:[01][0-9]|2[0-3])(?::[0-5][0-9]){2}(?:\.[0-9]{1,9})?Z)"'
    rf'(?:,"bootid":"({_TEXT}{{1,64}})")?(?:,"uptimens":"({_NUMBER})")?(,"base":"({_NUMBER})")?'
    r',"datacontenttype":"application/json"(,"data":\{)'
)
_VALUE = re.compile(
    r'"([A-Za-z_][A-Za-z0-9_.:-]{0,63})":'
    rf'(?:(-?[0-9]{{1,19}})|(-?[0-9][0-9.e+-]{{0,30}})|"({_TEXT}{{0,256}})"|(true|false))(,|\}}\}}\Z)'
)


def decode(payload: bytes) -> tuple[Event, str] | None:
    """Return the event of a payload, and its digest as `events.encode_and_digest` gives it; the payload is its body.

    None unless the payload is to the last byte what `events.encode_json` makes of such an event.
    """
    if not payload.isascii():
        return None
    text = payload.decode("ascii")
    found = _READING.match(text)
    if found is None:
        return None
    source, epoch, seq, date, time, bootid, uptimens, _, base, _ = found.groups()
    if not _is_date(date):
        return None
    data = _values(text, found.end())
    if data is None:
        return None
    event = Event(
        READING,
        Key(source, epoch, int(seq)),
        date + time,
        bootid,
        None if uptimens is None else int(uptimens),
        None if base is None else int(base),
        None,
        None,
        "application/json",
        data,
    )
    attributes_end, data_begin = found.start(10), found.end(10) - 1
    base_begin, base_end = found.span(8) if base is not None else (attributes_end, attributes_end)
    attributes = payload[:base_begin] + payload[base_end:attributes_end]
    return event, sha256(b"[%b},%b]" % (attributes, payload[data_begin:-1])).hexdigest()


def _values(text: str, at: int) -> dict[str, Scalar] | None:
    """Return the flat values that the text ends with from `at` on; None where one is spelled otherwise, or too many."""
    values: dict[str, Scalar] = {}
    while len(values) < VALUES_MAX and (found := _VALUE.match(text, at)) is not None:
        name, digits, number, string, word, end = found.groups()
        if name in values:
            return None
        if digits is not None:
            values[name] = value = int(digits)
            if str(value) != digits:
                return None
        elif number is not None:
            try:
                values[name] = real = float(number)
            except ValueError:
                return None
            if repr(real) != number:
                return None
        else:
            values[name] = string if string is not None else word == "true"
        if end != ",":
            return values
        at = found.end()
    return None


@lru_cache(8)
def _is_date(date: str) -> bool:
    try:
        clock.parse_rfc3339(f"{date}T00:00:00Z")
    except ValueError:
        return False
    return True
