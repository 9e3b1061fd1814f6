"""One bundle as it serves: a few interpreters, each lent to one thread at a time, and let go of once another serves."""

from __future__ import annotations

import threading
from hashlib import sha256
from itertools import cycle, islice

from edge_gateway.bundle import Bundle
from edge_gateway.engines.guard import Guard
from edge_gateway.loaded import Loaded, load, plan_for
from edge_gateway.prediction import Prediction
from edge_gateway.settings import AcceleratorSettings, ModelSettings
from millrace import jsontext
from millrace.clock import SystemClock


class Retired(Exception):
    """Another bundle serves now: ask that one."""


class Serving:
    """A bundle and its interpreters. Any thread may borrow."""

    def __init__(
        self,
        bundle: Bundle,
        settings: ModelSettings,
        max_pixels: int,
        engines: int,
        accelerators: AcceleratorSettings,
    ) -> None:
        """Load the bundle `engines` times, as many as may be at work at once, on its plan's choices in turn.

        Errors: EngineFailed.
        """
        self.bundle, self.plan, self.engines = bundle, plan_for(bundle, settings), engines
        self._digest = _digest(bundle, settings)
        self.guard = Guard(bundle, self.plan, settings.isolate, accelerators, SystemClock())
        choices = islice(cycle(self.plan.choices), engines)
        self._idle = [load(bundle, choice, self.guard, settings, max_pixels) for choice in choices]
        self._changed = threading.Condition()
        self._retired = False
        first = self._idle[0]
        self.input, self.outputs, self.threshold = first.engine.input, first.engine.outputs, first.threshold

    @property
    def digest(self) -> str:
        """What its answers are kept under: another one after an accelerator was found to give wrong answers."""
        return f"{self._digest}-{self.guard.doubted}"

    def answer(self, picture: bytes) -> tuple[Prediction, float]:
        """Return what the model says of a picture, and the milliseconds in the engine.

        Errors: BadPicture, EngineFailed, Retired.
        """
        loaded = self.borrow()
        try:
            return loaded.answer(picture)
        finally:
            self.give_back(loaded)

    def borrow(self) -> Loaded:
        """Return an interpreter, once one is idle; it is to be given back. Errors: Retired."""
        with self._changed:
            self._changed.wait_for(lambda: self._idle or self._retired)
            if self._retired:
                raise Retired
            return self._idle.pop()

    def give_back(self, loaded: Loaded) -> None:
        """Take an interpreter back; one of a retired bundle is let go of."""
        with self._changed:
            if not self._retired:
                self._idle.append(loaded)
                self._changed.notify()
                return
        loaded.engine.close()

    def retire(self) -> None:
        """Lend no more; let go of what is idle now, and of the rest as it comes back."""
        with self._changed:
            self._retired, idle = True, self._idle
            self._idle = []
            self._changed.notify_all()
        for loaded in idle:
            loaded.engine.close()


def _digest(bundle: Bundle, settings: ModelSettings) -> str:
    """Return the SHA-256 of all that decides an answer: the model, by its own digest, the manifest and the settings."""
    said = bundle.manifest.model_dump(mode="json")
    bound = settings.model_dump(mode="json", exclude={"bundle", "channels", "workers_ratio"})
    return sha256(jsontext.dump([said, list(bundle.labels), bound])).hexdigest()
