"""What it costs to have an engine in a process of its own: one answer there, beside one in this process."""

from __future__ import annotations

import time
from functools import partial

import numpy as np

from bench.measures import Measure, interleaved, ratio_at_most
from bench.models import Bench
from bench.profile import Profile
from edge_gateway.engines.engine import Engine
from edge_gateway.engines.isolated import Deadlines, IsolatedEngine
from edge_gateway.engines.opening import Choice, open_engine

TIMES = 50
DEADLINES = Deadlines(60.0, 10.0)


def measures(profile: Profile, model: Bench) -> list[Measure]:
    """Return how many times as long an answer takes."""
    opening = partial(open_engine, Choice("litert", model.model.name), model.model.read_bytes(), "bench")
    here, apart = opening(), IsolatedEngine(opening, "bench", DEADLINES)
    apart.open()
    try:
        mine, theirs = interleaved(profile.rounds, partial(_ms, apart), partial(_ms, here))
    finally:
        apart.close()
        here.close()
    return [
        ratio_at_most(f"ms an answer of {model.name} in a process of its own", "in the gateway's", mine, theirs, 1.1)
    ]


def _ms(engine: Engine) -> float:
    """Return the median milliseconds of an answer."""
    tensor = np.zeros(engine.input.shape, engine.input.dtype)
    times_s = []
    for _ in range(TIMES):
        begun_s = time.perf_counter()
        engine.infer(tensor)
        times_s.append(time.perf_counter() - begun_s)
    return sorted(times_s)[TIMES // 2] * 1000
