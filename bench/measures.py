"""One measurement beside what it is compared with, and the table and JSON file that every long run ends in."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

BUILD = Path(__file__).resolve().parents[1] / "build"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Measure:
    """What was found, beside what; `ok` says whether `judged` holds the `bar`.

    `judged` is the ratio of both in one round, their difference, or the value itself, as the bar says; the median over
    `rounds`, between the two numbers of `spread`. Without a bar it is there to be known.
    """

    measure: str
    value: float
    against: float | None
    ratio: float | None
    bar: str
    ok: bool
    what: str = ""
    """What `against` is."""
    judged: float | None = None
    spread: tuple[float, float] | None = None
    rounds: int = 1


def at_least(measure: str, value: float, against: float, bar: float) -> Measure:
    """Return a measure whose ratio must reach the bar."""
    ratio = value / against
    return Measure(
        measure, round(value, 3), round(against, 3), round(ratio, 3), f">= {bar}", ratio >= bar, judged=round(ratio, 3)
    )


def at_most(measure: str, value: float, limit: float) -> Measure:
    """Return a measure that must not pass a limit."""
    ratio = round(value / limit, 3) if limit else None
    return Measure(measure, round(value, 3), limit, ratio, f"<= {limit}", value <= limit, judged=round(value, 3))


def equal(measure: str, value: float, wanted: float) -> Measure:
    """Return a measure that must be exactly what is wanted."""
    return Measure(measure, value, wanted, None, f"= {wanted}", value == wanted, judged=value)


def ratio_at_least(measure: str, what: str, ours: Sequence[float], against: Sequence[float], bar: float) -> Measure:
    """Return a measure of rounds, whose median ratio within a round must reach the bar."""
    ratios = [mine / theirs for mine, theirs in zip(ours, against, strict=True)]
    return _of_rounds(measure, what, ours, against, ratios, f">= {bar:g} x", lambda judged: judged >= bar)


def ratio_at_most(measure: str, what: str, ours: Sequence[float], against: Sequence[float], bar: float) -> Measure:
    """Return a measure of rounds, whose median ratio within a round must not pass the bar."""
    ratios = [mine / theirs for mine, theirs in zip(ours, against, strict=True)]
    return _of_rounds(measure, what, ours, against, ratios, f"<= {bar:g} x", lambda judged: judged <= bar)


def excess_at_most(measure: str, what: str, ours: Sequence[float], against: Sequence[float], bar: float) -> Measure:
    """Return a measure of rounds, whose median difference within a round must not pass the bar."""
    excesses = [mine - theirs for mine, theirs in zip(ours, against, strict=True)]
    return _of_rounds(measure, what, ours, against, excesses, f"<= +{bar:g}", lambda judged: judged <= bar)


def value_at_least(measure: str, values: Sequence[float], bar: float) -> Measure:
    """Return a measure of rounds, whose median itself must reach the bar."""
    return _of_values(measure, values, f">= {bar:g}", lambda judged: judged >= bar)


def value_at_most(measure: str, values: Sequence[float], bar: float) -> Measure:
    """Return a measure of rounds, whose median itself must not pass the bar."""
    return _of_values(measure, values, f"<= {bar:g}", lambda judged: judged <= bar)


def known(measure: str, values: Sequence[float]) -> Measure:
    """Return a measure that has no bar."""
    return _of_values(measure, values, "", lambda _: True)


def interleaved(rounds: int, *sides: Callable[[], T]) -> list[list[T]]:
    """Call each side once a round, every second round in the other order; return what each gave, round by round.

    Whatever else the machine does meanwhile, and a machine that grows warm, then hurts all alike.
    """
    found: list[list[T]] = [[] for _ in sides]
    for number in range(rounds):
        order = range(len(sides)) if number % 2 == 0 else reversed(range(len(sides)))
        for place in order:
            found[place].append(sides[place]())
    return found


def table(measures: Sequence[Measure]) -> str:
    """Return the measures as lines of text."""
    width = max(len(measure.measure) for measure in measures)
    head = f"{'measure':{width}}  {'value':>12}  {'against':>12}  {'judged':>9}  {'spread':>15}  {'bar':>9}"
    lines = [f"{head}  ok   against what"]
    for m in measures:
        against = "" if m.against is None else f"{m.against:,.3f}"
        judged = "" if m.judged is None else f"{m.judged:,.3f}"
        spread = "" if m.spread is None else f"{m.spread[0]:.3f}..{m.spread[1]:.3f}"
        ok = "" if not m.bar else "yes" if m.ok else "NO"
        lines.append(
            f"{m.measure:{width}}  {m.value:>12,.3f}  {against:>12}  {judged:>9}  {spread:>15}  {m.bar:>9}"
            f"  {ok:3}  {m.what}".rstrip()
        )
    return "\n".join(lines)


def report(name: str, measures: Sequence[Measure]) -> bool:
    """Print the table, write build/NAME.json, and say whether every bar holds."""
    BUILD.mkdir(exist_ok=True)
    file = BUILD / f"{name}.json"
    file.write_text(json.dumps([asdict(measure) for measure in measures], indent=1, ensure_ascii=False) + "\n")
    print(f"\n{table(measures)}\nwritten to {file.relative_to(BUILD.parent)}")
    return all(measure.ok for measure in measures)


def _of_rounds(
    measure: str,
    what: str,
    ours: Sequence[float],
    against: Sequence[float],
    judged: Sequence[float],
    bar: str,
    holds: Callable[[float], bool],
) -> Measure:
    mine, theirs, median = statistics.median(ours), statistics.median(against), statistics.median(judged)
    return Measure(
        measure,
        round(mine, 3),
        round(theirs, 3),
        round(mine / theirs, 3),
        bar,
        holds(median),
        what,
        round(median, 3),
        (round(min(judged), 3), round(max(judged), 3)),
        len(judged),
    )


def _of_values(measure: str, values: Sequence[float], bar: str, holds: Callable[[float], bool]) -> Measure:
    median, spread = statistics.median(values), (round(min(values), 3), round(max(values), 3))
    return Measure(measure, round(median, 3), None, None, bar, holds(median), "", round(median, 3), spread, len(values))
