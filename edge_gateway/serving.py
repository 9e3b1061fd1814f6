"""One bundle as it serves: a few interpreters, each lent to one thread at a time, and let go of once another serves."""

from __future__ import annotations

import threading
import time
from hashlib import sha256
from itertools import count, cycle, islice

from edge_gateway.bundle import Bundle
from edge_gateway.engines.choice import Plan
from edge_gateway.engines.engine import EngineFailed, Tensor
from edge_gateway.engines.guard import Guard
from edge_gateway.loaded import Loaded, load, plan_for
from edge_gateway.prediction import Prediction
from edge_gateway.settings import AcceleratorSettings, ModelSettings
from millrace import heap, jsontext
from millrace.clock import SystemClock

GOLDEN_PICTURES = 4
"""So many of a bundle's golden pictures are asked of an accelerator, again and again; more would hold frames up."""
_ELSEWHERE = {"bundle", "name", "channels", "workers_ratio"}
"""Settings that decide no answer."""
_NUMBERS = count(1)


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
        *,
        pause_s: float = 0.0,
        on_cpu: bool = False,
    ) -> None:
        """Load the bundle `engines` times, as many as may be at work at once, on its plan's choices in turn.

        `pause_s` is between two of them. `on_cpu` leaves accelerators alone. Errors: EngineFailed.
        """
        plan = plan_for(bundle, settings)
        self.bundle, self.engines = bundle, engines
        self.plan = Plan((plan.twin,), None, plan.reason) if on_cpu and plan.twin is not None else plan
        said = settings.model_dump(mode="json", exclude=_ELSEWHERE)
        # Doubts about an accelerator's answers are this one's own, so its answers are nobody else's.
        number = next(_NUMBERS) if self.plan.twin is not None else 0
        self._digest = sha256(jsontext.dump([bundle.digest, said, number])).hexdigest()
        self.guard = Guard(bundle, self.plan, settings.isolate, accelerators, SystemClock())
        before_bytes = heap.resident_bytes()
        self._idle: list[Loaded] = []
        try:
            for choice in islice(cycle(self.plan.choices), engines):
                time.sleep(pause_s if self._idle else 0.0)
                self._idle.append(load(bundle, choice, self.guard, settings, max_pixels))
            golden = [self._idle[0].prepared(picture)[0] for _, picture in bundle.golden[:GOLDEN_PICTURES]]
            self.guard.begin(golden)
        except EngineFailed:
            for loaded in self._idle:
                loaded.engine.close()
            raise
        self.memory_bytes = bundle.size_bytes + max(0, heap.resident_bytes() - before_bytes)
        """The bundle's own bytes, and by how much the process grew when they were loaded."""
        self._changed = threading.Condition()
        self._retired = False
        first = self._idle[0]
        self.input, self.outputs, self.threshold = first.engine.input, first.engine.outputs, first.threshold

    @property
    def digest(self) -> str:
        """What its answers are kept under: another one after an accelerator was found to give wrong answers."""
        return f"{self._digest}-{self.guard.doubted}"

    def answer(self, given: bytes | Tensor) -> tuple[Prediction, float]:
        """Return what the model says of a picture or a window of readings, and the milliseconds in the engine.

        Errors: BadPicture, EngineFailed, Retired.
        """
        loaded = self.borrow()
        try:
            return loaded.answer(given)
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
