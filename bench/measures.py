"""One measurement beside what it is compared with, and the table and JSON file that every long run ends in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

BUILD = Path(__file__).resolve().parents[1] / "build"


@dataclass(frozen=True, slots=True)
class Measure:
    """`ratio` is value by against, measured in the same run; `bar` is what is wanted, and `ok` whether it holds."""

    measure: str
    value: float
    against: float | None
    ratio: float | None
    bar: str
    ok: bool


def at_least(measure: str, value: float, against: float, bar: float) -> Measure:
    """Return a measure whose ratio must reach the bar."""
    ratio = value / against
    return Measure(measure, round(value, 3), round(against, 3), round(ratio, 3), f">= {bar}", ratio >= bar)


def at_most(measure: str, value: float, limit: float) -> Measure:
    """Return a measure that must not pass a limit."""
    return Measure(
        measure, round(value, 3), limit, round(value / limit, 3) if limit else None, f"<= {limit}", value <= limit
    )


def equal(measure: str, value: float, wanted: float) -> Measure:
    """Return a measure that must be exactly what is wanted."""
    return Measure(measure, value, wanted, None, f"= {wanted}", value == wanted)


def report(name: str, measures: Sequence[Measure]) -> bool:
    """Print the table, write build/NAME.json, and say whether every bar holds."""
    BUILD.mkdir(exist_ok=True)
    file = BUILD / f"{name}.json"
    file.write_text(json.dumps([asdict(measure) for measure in measures], indent=1, ensure_ascii=False) + "\n")
    width = max(len(measure.measure) for measure in measures)
    print(f"\n{'measure':{width}}  {'value':>12}  {'against':>12}  {'ratio':>7}  {'bar':>9}  ok")
    for m in measures:
        against = "" if m.against is None else f"{m.against:,.3f}"
        ratio = "" if m.ratio is None else f"{m.ratio:.3f}"
        print(
            f"{m.measure:{width}}  {m.value:>12,.3f}  {against:>12}  {ratio:>7}  {m.bar:>9}  {'yes' if m.ok else 'NO'}"
        )
    print(f"written to {file.relative_to(BUILD.parent)}")
    return all(measure.ok for measure in measures)
