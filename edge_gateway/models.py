"""The models that serve a channel: checked and warmed before the first frame, one interpreter for each worker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_gateway.admission import Outcome
from edge_gateway.bundle import Bundle, load_bundle
from edge_gateway.engines.engine import Engine, EngineFailed, Tensor, TensorInfo
from edge_gateway.engines.litert import LiteRtEngine
from edge_gateway.prediction import check_outputs, check_quantization, classify
from edge_gateway.settings import ModelSettings
from edge_gateway.tensors import Preparation
from millrace.images import BadPicture

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """One model on one worker's thread."""

    bundle: Bundle
    engine: Engine
    preparation: Preparation
    threshold: float


@dataclass(frozen=True, slots=True)
class Description:
    """What somebody with tensors of his own has to know of a model."""

    bundle: Bundle
    input: TensorInfo
    outputs: tuple[TensorInfo, ...]


class Models:
    """All bound models. `infer` may be called from any worker thread; each thread has interpreters of its own."""

    def __init__(self, settings: Sequence[ModelSettings], max_pixels: int) -> None:
        """Read and check every bundle, and load each once; ConfigError or EngineFailed says what does not fit."""
        self._settings = list(settings)
        self._max_pixels = max_pixels
        self.bundles = [load_bundle(model.bundle) for model in settings]
        self._local = threading.local()
        self._described = [
            Description(model.bundle, model.engine.input, model.engine.outputs) for model in self._loaded()
        ]

    def serving(self, device: str, channel: str) -> list[int]:
        """Return which models serve a channel, by their place in the settings."""
        return [place for place, model in enumerate(self._settings) if model.serves(device, channel)]

    def describe(self) -> list[Description]:
        """Return what goes into each model and what comes out, by their place in the settings."""
        return self._described

    def infer(self, picture: bytes, places: Sequence[int]) -> Outcome:
        """Return what each of these models says of a picture; a picture that cannot be decoded is malformed."""
        outcome = Outcome()
        loaded = self._loaded()
        try:
            for place in places:
                model = loaded[place]
                tensor = model.preparation.tensor(picture)
                begun_s = time.perf_counter()
                outputs = model.engine.infer(tensor)
                infer_ms = (time.perf_counter() - begun_s) * 1000
                outcome.predictions.append(
                    (classify(model.bundle, model.engine.outputs[0], outputs[0]), model.threshold, infer_ms)
                )
        except BadPicture as error:
            outcome.malformed = str(error)
        except EngineFailed as error:
            outcome.malformed = f"inference failed: {error}"
        return outcome

    def infer_raw(self, place: int, given: Tensor | bytes) -> tuple[Tensor, ...]:
        """Return all outputs of the model at `place` for one tensor of its input's shape and type, or for a picture.

        Errors: BadPicture, EngineFailed.
        """
        model = self._loaded()[place]
        return model.engine.infer(model.preparation.tensor(given) if isinstance(given, bytes) else given)

    def warm_up(self) -> None:
        """Load this thread's interpreters and run each once."""
        for model in self._loaded():
            shape = model.engine.input
            model.engine.infer(np.zeros(shape.shape, shape.dtype))

    def _loaded(self) -> list[_Loaded]:
        found: list[_Loaded] | None = getattr(self._local, "models", None)
        if found is None:
            found = [self._load(bundle, model) for bundle, model in zip(self.bundles, self._settings, strict=True)]
            self._local.models = found
        return found

    def _load(self, bundle: Bundle, settings: ModelSettings) -> _Loaded:
        engine = LiteRtEngine(bundle.model, bundle.name)
        check_outputs(bundle, engine.outputs)
        check_quantization(bundle, engine.input, engine.outputs)
        preparation = Preparation(bundle.manifest.input, engine.input, self._max_pixels, bundle.name)
        threshold = bundle.manifest.threshold if settings.threshold is None else settings.threshold
        return _Loaded(bundle, engine, preparation, threshold)
