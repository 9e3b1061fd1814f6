"""The models that serve a channel: checked and warm before the first frame, each with interpreters of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edge_gateway.admission import Outcome
from edge_gateway.bundle import Bundle, load_bundle
from edge_gateway.cache import Cache
from edge_gateway.engines.accelerated import Served
from edge_gateway.engines.choice import Plan
from edge_gateway.engines.engine import EngineFailed, Tensor, TensorInfo
from edge_gateway.loaded import Loaded
from edge_gateway.prediction import Prediction
from edge_gateway.serving import Retired, Serving
from edge_gateway.settings import AcceleratorSettings, ModelSettings
from edge_gateway.swaps import Swap, Swaps
from edge_gateway.window_input import WindowSettings
from millrace.images import BadPicture
from millrace.settings import ConfigError
from millrace.words import size

log = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 3  # one may be an odd picture's


@dataclass(frozen=True, slots=True)
class Description:
    """What somebody with tensors of his own has to know of a model."""

    bundle: Bundle
    input: TensorInfo
    outputs: tuple[TensorInfo, ...]


class Replaced(Exception):
    """Another model serves at that place than the one that was described."""


class Models:
    """All bound models. `infer` may be called from any thread."""

    def __init__(
        self,
        settings: Sequence[ModelSettings],
        max_pixels: int,
        workers: int = 1,
        cache_bytes: int = 0,
        accelerators: AcceleratorSettings | None = None,
        *,
        models_bytes: int = 1 << 30,
        swaps: Swaps | None = None,
    ) -> None:
        """Read, check and load every bundle for so many workers; ConfigError or EngineFailed says what does not fit.

        What `swaps` put in a bundle's place serves in its place.
        """
        self.settings, self.max_pixels = list(settings), max_pixels
        self._workers, self._models_bytes = workers, models_bytes
        self._accelerators = accelerators or AcceleratorSettings()
        self._serving: list[Serving] = []
        self._failures: dict[int, list[str]] = {}
        for place, model in enumerate(settings):
            swap = swaps.of(model) if swaps is not None else None
            serving = self._swapped(place, swap) or self.open(place, load_bundle(model.bundle))
            self._serving.append(serving)
            self.check_room("", 0)
        self._for_pictures = [place for place in range(len(settings)) if place not in self.windows()]
        self.cache: Cache[tuple[Prediction, float]] = Cache(cache_bytes)

    def _swapped(self, place: int, swap: Swap | None) -> Serving | None:
        """Load what was put in the place of a bundle; None if nothing was, or it cannot serve any more."""
        if swap is None:
            return None
        try:
            bundle = load_bundle(Path(swap.folder))
            if bundle.digest == swap.digest:
                return self.open(place, bundle)
            error = "it was changed since then"
        except (ConfigError, EngineFailed) as failed:
            error = str(failed)
        log.error(
            'swap_undone binding=%s folder=%s error="%s": the bundle in the settings serves',
            self.settings[place].binding,
            swap.folder,
            error,
        )
        return None

    def open(self, place: int, bundle: Bundle, pause_s: float = 0.0) -> Serving:
        """Load a bundle as it would serve at `place`, with a pause between two interpreters. Errors: EngineFailed."""
        settings = self.settings[place]
        engines = settings.engines(self._workers)
        return Serving(bundle, settings, self.max_pixels, engines, self._accelerators, pause_s=pause_s)

    def exchange(self, place: int, serving: Serving) -> None:
        """Have another bundle serve at `place` from the next frame on; the one before is let go of."""
        before, self._serving[place] = self._serving[place], serving
        self._failures.pop(place, None)
        before.retire()

    def check_room(self, name: str, memory_bytes: int) -> None:
        """Raise ConfigError if the models that serve, and one more that takes so much, take more than they may."""
        taken = [(serving.bundle.name, serving.memory_bytes) for serving in self._serving]
        taken += [(name, memory_bytes)] if name else []
        if sum(each_bytes for _, each_bytes in taken) > self._models_bytes:
            listed = ", ".join(f"{each} {size(each_bytes)}" for each, each_bytes in taken)
            raise ConfigError(
                [
                    f"limits.models_bytes: models take more than {size(self._models_bytes)} of memory: {listed};"
                    f" raise it, leave one out, or give one fewer interpreters by workers_ratio"
                ]
            )

    @property
    def memory_bytes(self) -> list[int]:
        """How much memory each model took when it was loaded, by its place in the settings."""
        return [serving.memory_bytes for serving in self._serving]

    @property
    def bundles(self) -> list[Bundle]:
        """The bundles that serve now, by their place in the settings."""
        return [serving.bundle for serving in self._serving]

    @property
    def plans(self) -> list[Plan]:
        """On what each model runs and why, by its place in the settings."""
        return [serving.plan for serving in self._serving]

    @property
    def accelerators(self) -> list[list[Served]]:
        """Of each model, by its place in the settings, its accelerators and whether they serve now."""
        return [serving.guard.served() for serving in self._serving]

    @property
    def failing(self) -> dict[str, str]:
        """Of each model that gave no answer FAILURES_IN_A_ROW times, and none since, why."""
        return {
            self._serving[place].bundle.name: whys[-1]
            for place, whys in list(self._failures.items())
            if len(whys) >= FAILURES_IN_A_ROW
        }

    @property
    def engines(self) -> list[int]:
        """On how many threads each model may work at once, by its place in the settings."""
        return [serving.engines for serving in self._serving]

    def serving(self, device: str, channel: str) -> list[int]:
        """Return which models look at the pictures of a channel, by their place in the settings."""
        return [place for place in self._for_pictures if self.settings[place].serves(device, channel)]

    def windows(self) -> dict[int, WindowSettings]:
        """Return what each model takes that takes windows of readings, by its place in the settings."""
        wanted = {place: serving.bundle.manifest.input for place, serving in enumerate(self._serving)}
        return {place: one for place, one in wanted.items() if isinstance(one, WindowSettings)}

    def describe(self) -> list[Description]:
        """Return what goes into each model and what comes out, by their place in the settings."""
        return [Description(serving.bundle, serving.input, serving.outputs) for serving in self._serving]

    def infer(self, given: bytes | Tensor, places: Sequence[int], digest: str | None = None) -> Outcome:
        """Return what each of these models says of a picture or window; what cannot be decoded is malformed.

        `digest` is that of the picture (millrace.images.digest): of an equal one a model need not be asked again.
        """
        outcome = Outcome()
        try:
            for place in places:
                outcome.predictions.append(self._answer(place, given, digest))
        except BadPicture as error:
            outcome.malformed = str(error)
        except EngineFailed as error:
            outcome.malformed, outcome.failed = f"inference failed: {error}", True
        return outcome

    def _answer(self, place: int, given: bytes | Tensor, digest: str | None) -> tuple[Prediction, float, float | None]:
        """Return the answer, the threshold, and the milliseconds in the engine: None if the answer was there."""
        while True:
            serving = self._serving[place]
            make = partial(self._ask, place, serving, given)
            with suppress(Retired):
                if digest is None:
                    prediction, infer_ms = make()
                    return prediction, serving.threshold, infer_ms
                (prediction, infer_ms), was_there = self.cache.get_or_make((digest, serving.digest), make)
                return prediction, serving.threshold, None if was_there else infer_ms

    def _ask(self, place: int, serving: Serving, given: bytes | Tensor) -> tuple[Prediction, float]:
        try:
            answer = serving.answer(given)
        except EngineFailed as error:
            self._failures[place] = [*self._failures.get(place, [])[1 - FAILURES_IN_A_ROW :], str(error)]
            raise
        self._failures.pop(place, None)
        return answer

    def infer_raw(self, place: int, name: str, given: Tensor | bytes) -> tuple[Tensor, ...]:
        """Return all outputs of the model at `place` for one tensor of its input's shape and type, or for a picture.

        Errors: Replaced if it is not the model of that name, BadPicture, EngineFailed.
        """
        with self.lent(place) as model:
            if model.bundle.name != name:
                raise Replaced(f"model {name} was replaced meanwhile")
            return model.engine.infer(model.prepared(given)[0] if isinstance(given, bytes) else given)

    @contextmanager
    def lent(self, place: int) -> Iterator[Loaded]:
        """Lend an interpreter of the model that serves at `place`, once one is idle; nobody else uses it meanwhile."""
        serving, loaded = self._borrow(place)
        try:
            yield loaded
        finally:
            serving.give_back(loaded)

    def _borrow(self, place: int) -> tuple[Serving, Loaded]:
        while True:
            serving = self._serving[place]
            with suppress(Retired):
                return serving, serving.borrow()
