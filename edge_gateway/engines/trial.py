"""One way to run a model, tried: opened, compared with the CPU's answers, timed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from statistics import median

from edge_gateway.bundle import Bundle
from edge_gateway.engines.engine import Engine, EngineFailed
from edge_gateway.engines.golden import Golden, derived, golden
from edge_gateway.engines.isolated import Deadlines, IsolatedEngine
from edge_gateway.engines.opening import Choice, open_engine

WARM_UP_RUNS = 3
LEAST_RUNS = 5


@dataclass(frozen=True, slots=True)
class Trial:
    """How it went: the median of one inference in milliseconds, or None and in words why it does not work here."""

    choice: Choice
    median_ms: float | None
    said: str = ""


def trials(
    bundle: Bundle, ways: tuple[Choice, ...], deadlines: Deadlines, tolerance_ratio: float, seconds: float
) -> list[Trial]:
    """Try each way for so many seconds; an accelerator in a process of its own, against the CPU if that comes first."""
    trusted: tuple[Golden, list[object]] | None = None
    done = []
    for choice in ways:
        try:
            engine = _open(bundle, choice, deadlines)
            try:
                if not choice.accelerator:
                    trusted = golden(engine, tolerance_ratio), _kinds(engine)
                wrong = _wrong(engine, *trusted) if choice.accelerator and trusted is not None else ""
                done.append(Trial(choice, None, wrong) if wrong else Trial(choice, _median_ms(engine, seconds)))
            finally:
                engine.close()
        except EngineFailed as error:
            done.append(Trial(choice, None, str(error).removeprefix(f"model {bundle.name}: ")))
    return done


def _open(bundle: Bundle, choice: Choice, deadlines: Deadlines) -> Engine:
    opening = partial(open_engine, choice, bundle.content(choice.file), bundle.name)
    if not choice.accelerator:
        return opening()
    isolated = IsolatedEngine(opening, bundle.name, deadlines)
    try:
        isolated.open()
    except EngineFailed:
        isolated.close()
        raise
    return isolated


def _kinds(engine: Engine) -> list[object]:
    return [info.kind for info in (engine.input, *engine.outputs)]


def _wrong(engine: Engine, trusted: Golden, kinds: list[object]) -> str:
    """Return how an engine's tensors and answers differ from the trusted ones; empty if they do not."""
    if _kinds(engine) != kinds:
        return "its tensors are not those of its twin on the CPU"
    found = (trusted.mismatch(at, engine.infer(given), engine.outputs) for at, given in enumerate(trusted.inputs))
    return next(filter(None, found), "")


def _median_ms(engine: Engine, seconds: float) -> float:
    given = derived(engine.input)[0]
    for _ in range(WARM_UP_RUNS):
        engine.infer(given)
    took_s: list[float] = []
    until_s = time.perf_counter() + seconds
    while len(took_s) < LEAST_RUNS or time.perf_counter() < until_s:
        begun_s = time.perf_counter()
        engine.infer(given)
        took_s.append(time.perf_counter() - begun_s)
    return median(took_s) * 1000
