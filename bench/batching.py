"""What it would buy to ask a model about eight pictures at once: the shipped model, on LiteRT, by threads."""

from __future__ import annotations

import time
from functools import partial

import numpy as np

from bench.measures import Measure, interleaved, known
from bench.profile import Profile
from edge_gateway.engines.litert import Interpreter
from millrace.demo.stage import shipped_bundle

BATCH = 8
THREADS = 2
TIMES = 20


def measures(profile: Profile) -> list[Measure]:
    """Return microseconds a picture; two interpreters of one thread each answer twice as many as one."""
    sides = {
        "one by one": partial(_us_a_picture, 1, 1),
        f"in batches of {BATCH}": partial(_us_a_picture, BATCH, 1),
        f"in batches of {BATCH}, on {THREADS} threads": partial(_us_a_picture, BATCH, THREADS),
    }
    found = interleaved(profile.rounds, *sides.values())
    return [
        known(f"us a picture of the model parts, {name}", values) for name, values in zip(sides, found, strict=True)
    ]


def _us_a_picture(batch: int, threads: int) -> float:
    """Return the shortest time of some, over the pictures of a batch."""
    model = (shipped_bundle("parts") / "model.tflite").read_bytes()
    interpreter = Interpreter(model_content=model, num_threads=threads)
    wanted = interpreter.get_input_details()[0]
    shape = [batch, *wanted["shape"][1:]]
    interpreter.resize_tensor_input(wanted["index"], shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(wanted["index"], np.zeros(shape, wanted["dtype"]))
    interpreter.invoke()
    times_s = []
    for _ in range(TIMES):
        begun_s = time.perf_counter()
        interpreter.invoke()
        times_s.append(time.perf_counter() - begun_s)
    return min(times_s) / batch * 1e6
