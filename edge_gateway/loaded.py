"""One model on one interpreter: it makes an input of a picture, runs, and makes an answer of the outputs."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import numpy as np

from edge_gateway.bundle import Bundle
from edge_gateway.engines.choice import Plan, choose
from edge_gateway.engines.engine import Engine, EngineFailed
from edge_gateway.engines.guard import Guard
from edge_gateway.engines.machine import look
from edge_gateway.engines.opening import Choice
from edge_gateway.prediction import Prediction, check_quantization
from edge_gateway.settings import ModelSettings
from edge_gateway.task import Task, task_of
from edge_gateway.tensors import Preparation
from millrace.images import BadPicture

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A bundle's model, loaded and warm; used by one thread at a time."""

    bundle: Bundle
    engine: Engine
    preparation: Preparation
    task: Task
    threshold: float
    """Score below which an answer is not sure."""

    def answer(self, picture: bytes) -> tuple[Prediction, float]:
        """Return what the model says of a picture, and the milliseconds in the engine.

        Errors: BadPicture, EngineFailed.
        """
        tensor = self.preparation.tensor(picture)
        begun_s = time.perf_counter()
        outputs = self.engine.infer(tensor)
        infer_ms = (time.perf_counter() - begun_s) * 1000
        view = self.preparation.view(picture)
        try:
            return self.task.answer(outputs, view), infer_ms
        except (ValueError, IndexError) as error:  # shapes that depend on the picture
            shapes = ", ".join(str(output.shape) for output in outputs)
            raise EngineFailed(
                f"model {self.bundle.name}: gave {shapes}, which nothing can be read of: {error}"
            ) from None


def plan_for(bundle: Bundle, settings: ModelSettings) -> Plan:
    """Return on what a bundle is run here, and log why; EngineFailed if nothing fits."""
    plan = choose(settings, bundle.manifest, look(bundle.manifest))
    log.info('engine_chosen model=%s engine="%s" reason="%s"', bundle.name, plan, plan.reason)
    return plan


def load(bundle: Bundle, choice: Choice, guard: Guard, settings: ModelSettings, max_pixels: int) -> Loaded:
    """Load a bundle's model, check it against its manifest and run it once; EngineFailed says what does not fit."""
    engine = guard.open(choice)
    try:
        task = task_of(bundle, engine.outputs)
        check_quantization(bundle, engine.input, engine.outputs)
        preparation = Preparation(bundle.manifest.input, engine.input, max_pixels, bundle.name)
        engine.infer(np.zeros(engine.input.shape, engine.input.dtype))
        threshold = bundle.manifest.threshold if settings.threshold is None else settings.threshold
        loaded = Loaded(bundle, engine, preparation, task, threshold)
        _check_golden(loaded)
    except EngineFailed:
        engine.close()
        raise
    return loaded


def _check_golden(loaded: Loaded) -> None:
    """Raise EngineFailed if the model says anything else of the bundle's own pictures than it must."""
    name = loaded.bundle.name
    for golden, picture in loaded.bundle.golden:
        try:
            said, _ = loaded.answer(picture)
        except BadPicture as error:
            raise EngineFailed(f"model {name}: golden {golden.file}: {error}") from None
        if said.label != golden.label:
            raise EngineFailed(
                f"model {name}: calls golden {golden.file} {said.label} ({said.score:.2f}), and it is {golden.label}"
            )
