"""A bundle's engines, each opened where it belongs: accelerators in processes of their own, the CPU in this one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from edge_gateway.bundle import Bundle
from edge_gateway.engines.accelerated import Accelerator, Care, Served
from edge_gateway.engines.choice import Plan
from edge_gateway.engines.engine import Engine, Tensor
from edge_gateway.engines.golden import golden
from edge_gateway.engines.isolated import AskedTwice, Deadlines, IsolatedEngine
from edge_gateway.engines.opening import Choice, open_engine
from edge_gateway.engines.standby import Pauses
from edge_gateway.settings import AcceleratorSettings, Isolate
from millrace.clock import Clock


class Guard:
    """Opens the engines of one bundle for its workers, who share an accelerator; used by one thread."""

    def __init__(
        self, bundle: Bundle, plan: Plan, isolate: Isolate, settings: AcceleratorSettings, clock: Clock
    ) -> None:
        self._bundle, self._plan, self._isolate, self._clock = bundle, plan, isolate, clock
        deadlines = Deadlines(settings.open_s, settings.deadline_s)
        pauses = Pauses(settings.retry_first_s, settings.retry_longest_s)
        self._care = Care(deadlines, pauses, settings.check_every_s, settings.tolerance_ratio)
        self._accelerators: dict[Choice, Accelerator] = {}
        self._twin: Engine | None = None

    def open(self, choice: Choice) -> Engine:
        """Return an engine for one of the plan's choices; until `begin` the CPU alone answers. Errors: EngineFailed."""
        twin = self._plan.twin
        if twin is None or self._isolate == "never":
            return self._alone(choice)
        if choice not in self._accelerators:
            self._accelerators[choice] = Accelerator(
                self._opening(choice), self._bundle.name, choice.accelerator, self._care, self._clock
            )
        self._twin = self._alone(twin)
        return self._accelerators[choice].beside(self._twin)

    def begin(self, inputs: Sequence[Tensor]) -> None:
        """Have the accelerators tried once all engines are open; `inputs` are checked beside derived ones.

        Errors: EngineFailed if the twin breaks.
        """
        if self._twin is None:
            return
        known = golden(self._twin, self._care.tolerance_ratio, inputs)
        for accelerator in self._accelerators.values():
            accelerator.begin(known, (self._twin.input, *self._twin.outputs))

    def wait_tried(self, timeout_s: float) -> None:
        """Return once each accelerator serves or has failed for the first time since `begin`, or after so long."""
        until_s = self._clock.uptime_s() + timeout_s
        for accelerator in self._accelerators.values():
            accelerator.wait_tried(max(0.0, until_s - self._clock.uptime_s()))

    @property
    def doubted(self) -> int:
        """How many answers of accelerators nobody vouches for; what was kept while there were fewer is no use."""
        return sum(accelerator.doubted for accelerator in list(self._accelerators.values()))

    def served(self) -> list[Served]:
        """Say of each accelerator whether it serves now."""
        return [accelerator.served() for accelerator in list(self._accelerators.values())]

    def _alone(self, choice: Choice) -> Engine:
        opening = self._opening(choice)
        if self._isolate != "always":
            return opening()
        return AskedTwice(IsolatedEngine(opening, self._bundle.name, self._care.deadlines))

    def _opening(self, choice: Choice) -> partial[Engine]:
        return partial(open_engine, choice, self._bundle.content(choice.file), self._bundle.name)
