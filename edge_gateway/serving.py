"""One bundle as it serves: a few interpreters, each lent to one thread at a time, and let go of once another serves."""

from __future__ import annotations

import threading
from collections.abc import Callable

from edge_gateway.bundle import Bundle
from edge_gateway.engines.choice import Plan
from edge_gateway.engines.opening import Choice
from edge_gateway.loaded import Loaded


class Serving:
    """A bundle and its interpreters. Any thread may borrow."""

    def __init__(self, bundle: Bundle, plan: Plan, load: Callable[[Bundle, Choice], Loaded], engines: int) -> None:
        """Load the bundle `engines` times, as many as may be at work at once, on the plan's choices in turn.

        Errors: EngineFailed.
        """
        self.bundle, self.plan, self.engines = bundle, plan, engines
        self._idle = [load(bundle, plan.choices[turn % len(plan.choices)]) for turn in range(engines)]
        self._changed = threading.Condition()
        self._retired = False
        model = self._idle[0].engine
        self.input, self.outputs = model.input, model.outputs

    def borrow(self) -> Loaded | None:
        """Return an interpreter, once one is idle; it is to be given back. None: another bundle serves now."""
        with self._changed:
            self._changed.wait_for(lambda: self._idle or self._retired)
            return None if self._retired else self._idle.pop()

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
