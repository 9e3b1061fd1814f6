"""Readings without a key, as any sensor may send them: flat JSON, or SenML (RFC 8428), one reading for each moment."""

from __future__ import annotations

import re
from typing import Any

from millrace import jsontext
from millrace.events import MalformedEvent, Scalar, check_reading

ABSOLUTE_FROM_S = 2**28
_UNTIL_S = 2**33
_TYPES = {"bn": str, "bt": float, "bu": str, "bv": float, "bver": float, "n": str, "t": float, "u": str}
_VALUES = {"v": float, "vs": str, "vb": bool}


def parse(
    payload: bytes, max_bytes: int = 1 << 20, *, now_s: float | None = None
) -> list[tuple[float | None, dict[str, Scalar]]]:
    """Return the readings of a payload without a key: flat JSON, or SenML (RFC 8428), one reading for each moment.

    Each is (seconds since 1970 or None for "now", values); MalformedEvent for anything else. A SenML time relative to
    now counts from `now_s`; without it, each such moment is a reading of its own for "now".
    """
    try:
        value = jsontext.parse(payload, max_bytes)
        if isinstance(value, dict):
            return [(None, dict(check_reading(value)))]
        if isinstance(value, list):
            return _of_pack(value, now_s)
    except ValueError as error:
        raise MalformedEvent(str(error)) from None
    raise MalformedEvent('a reading is flat JSON such as {"temperature_c": 41.2}, or SenML')


def _of_pack(records: list[Any], now_s: float | None) -> list[tuple[float | None, dict[str, Scalar]]]:
    base: dict[str, Any] = {}
    moments: dict[float, dict[str, Scalar]] = {}
    for record in records:
        _check_record(record)
        base.update({name: record[name] for name in ("bn", "bt", "bu", "bv") if name in record})
        label = next((label for label in _VALUES if label in record), None)
        if label is None:
            if "s" in record:
                raise ValueError("SenML s is not understood without a value")
            continue
        value = record[label] + base.get("bv", 0) if label == "v" else record[label]
        name = re.sub(r"[^A-Za-z0-9_.:-]", "_", base.get("bn", "") + record.get("n", ""))
        unit = record.get("u", base.get("bu"))
        time_s = base.get("bt", 0) + record.get("t", 0)
        moment = moments.setdefault(time_s, {})
        for key, entry in ((name, value), (f"{name}_unit", unit)):
            if entry is None:
                continue
            if key in moment:
                raise ValueError(f"{key[:80]!r} stands twice for one moment")
            moment[key] = entry
    if not moments:
        raise ValueError("a SenML pack without a value")
    return [(_moment(time_s, now_s), dict(check_reading(values))) for time_s, values in moments.items()]


def _check_record(record: object) -> None:
    if not isinstance(record, dict):
        raise ValueError("a SenML pack is a list of objects")
    for label, type_ in (_TYPES | _VALUES).items():
        if label in record and not _is_a(record[label], type_):
            raise ValueError(f"SenML {label} is of the wrong type")
    if record.get("bver", 10) != 10:
        raise ValueError("SenML version is not 10")
    if sum(label in record for label in (*_VALUES, "vd")) > 1:
        raise ValueError("a SenML record has one value")
    strange = next((label for label in record if label.endswith("_") or label == "vd"), None)
    if strange is not None:
        raise ValueError(f"SenML {strange[:40]} is not understood")


def _is_a(value: object, type_: type) -> bool:
    if type_ is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, type_)


def _moment(time_s: float, now_s: float | None) -> float | None:
    """Return seconds since 1970 of a SenML time, which below 2**28 is relative to now."""
    if not -ABSOLUTE_FROM_S < time_s < _UNTIL_S:
        raise ValueError(f"time {time_s} is neither near now nor between 1978 and 2242")
    if time_s >= ABSOLUTE_FROM_S:
        return time_s
    return None if now_s is None else now_s + time_s
