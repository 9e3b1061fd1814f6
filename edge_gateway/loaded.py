"""One model on one interpreter: it makes an input of a picture or window, runs, and makes an answer of the outputs."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import numpy as np

from edge_gateway.bundle import Bundle
from edge_gateway.engines.choice import Plan, choose
from edge_gateway.engines.engine import Engine, EngineFailed, Tensor
from edge_gateway.engines.guard import Guard
from edge_gateway.engines.machine import look
from edge_gateway.engines.opening import Choice
from edge_gateway.prediction import Prediction, check_quantization
from edge_gateway.settings import ModelSettings
from edge_gateway.task import Task, task_of
from edge_gateway.tensors import WHOLE, Preparation, View
from edge_gateway.window_input import WindowSettings
from edge_gateway.window_tensors import WindowPreparation
from millrace.images import BadPicture

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A bundle's model, loaded and warm; used by one thread at a time."""

    bundle: Bundle
    engine: Engine
    preparation: Preparation | WindowPreparation
    task: Task
    threshold: float
    """Score below which an answer is not sure."""

    def answer(self, given: bytes | Tensor) -> tuple[Prediction, float]:
        """Return what the model says of a picture or a window of readings, and the milliseconds in the engine.

        Errors: BadPicture, EngineFailed.
        """
        tensor, view = self.prepared(given)
        begun_s = time.perf_counter()
        outputs = self.engine.infer(tensor)
        infer_ms = (time.perf_counter() - begun_s) * 1000
        try:
            return self.task.answer(outputs, view), infer_ms
        except (ValueError, IndexError) as error:  # shapes that depend on the picture
            shapes = ", ".join(str(output.shape) for output in outputs)
            raise EngineFailed(
                f"model {self.bundle.name}: gave {shapes}, which nothing can be read of: {error}"
            ) from None

    def prepared(self, given: bytes | Tensor) -> tuple[Tensor, View]:
        """Return the input for a picture or a window, and what of it the model sees.

        Errors: BadPicture; also if the model takes the other of the two.
        """
        preparation = self.preparation
        if isinstance(preparation, Preparation) and isinstance(given, bytes):
            return preparation.tensor(given), preparation.view(given)
        if isinstance(preparation, WindowPreparation) and not isinstance(given, bytes):
            return preparation.tensor(given), WHOLE
        kind = self.bundle.manifest.input.kind
        raise BadPicture(f"model {self.bundle.name} takes a {kind}, and was given something else")


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
        preparation = _preparation(bundle, engine, max_pixels)
        engine.infer(np.zeros(engine.input.shape, engine.input.dtype))
        threshold = bundle.manifest.threshold if settings.threshold is None else settings.threshold
        loaded = Loaded(bundle, engine, preparation, task, threshold)
        _check_golden(loaded)
    except EngineFailed:
        engine.close()
        raise
    return loaded


def _preparation(bundle: Bundle, engine: Engine, max_pixels: int) -> Preparation | WindowPreparation:
    wanted = bundle.manifest.input
    if isinstance(wanted, WindowSettings):
        return WindowPreparation(wanted, engine.input, bundle.name)
    return Preparation(wanted, engine.input, max_pixels, bundle.name)


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
