"""An accelerator that cannot take the line down: it runs in a process of its own, and a twin on the CPU stands by.

All workers share the accelerator, each has a twin of its own. What the accelerator breaks off, leaves unanswered or
answers with garbage is asked of the twin, once; it serves again after it gave the golden answers.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edge_gateway.engines.engine import Engine, Tensor, TensorInfo
from edge_gateway.engines.golden import Golden
from edge_gateway.engines.isolated import Deadlines, IsolatedEngine, IsolatedFailed
from edge_gateway.engines.standby import Pauses, Reason, Standby, State
from millrace.clock import Clock

log = logging.getLogger(__name__)

BEAT_S = 1.0
"""An accelerator that is not asked anything is asked this often whether its process lives."""


@dataclass(frozen=True, slots=True)
class Care:
    """How an accelerator is looked after; `tolerance_ratio` as golden.golden has it."""

    deadlines: Deadlines
    pauses: Pauses
    check_every_s: float
    tolerance_ratio: float


@dataclass(frozen=True, slots=True)
class Served:
    """Who serves a model now, for the status, /health and /metrics."""

    model: str
    accelerator: str
    state: State
    reason: str
    """Why the twin serves; empty while the accelerator does."""
    for_s: float
    """Seconds since this state began."""
    retry_s: float
    """Seconds until the accelerator is tried again; 0 while it serves."""
    fallbacks: dict[Reason, int]


class Accelerator:
    """One model on one accelerator, shared by all workers; a thread of its own opens it, watches it, tries it again."""

    def __init__(self, opening: Callable[[], Engine], model: str, accelerator: str, care: Care, clock: Clock) -> None:
        """Take how to open it: a function that can be pickled. Twins serve until some time after `begin`."""
        self._model, self._accelerator, self._care, self._clock = model, accelerator, care, clock
        self._golden: Golden
        self._infos: tuple[TensorInfo, ...]
        self._engine = IsolatedEngine(opening, model, care.deadlines)
        self._turn = threading.Lock()
        """Held while the accelerator, in service, is asked."""
        now_s = clock.uptime_s()
        self._standby = Standby(care.pauses, now_s)
        self._asked_s = self._checked_s = now_s
        self._unproven = 0
        """How many answers it gave since it last gave the golden ones."""
        self.doubted = 0
        """How many answers it gave before it failed, since it last had given the golden ones: nobody proves them."""
        self._users, self._count = 0, threading.Lock()
        self._tried, self._stop = threading.Event(), threading.Event()
        self._keeper = threading.Thread(target=self._keep, name=f"accelerator-{model}", daemon=True)

    def begin(self, known: Golden, infos: tuple[TensorInfo, ...]) -> None:
        """Have it opened and tried from now on, by a thread of its own; `infos` are its twin's input and outputs."""
        self._golden, self._infos = known, infos
        self._keeper.start()

    def wait_tried(self, timeout_s: float) -> None:
        """Return once it serves or has failed for the first time since `begin`, or after so long."""
        self._tried.wait(timeout_s)

    def beside(self, twin: Engine) -> Engine:
        """Return an engine for one worker: the accelerator, and this twin, warm, for when it does not serve.

        Errors: EngineFailed if the twin breaks.
        """
        twin.infer(np.zeros(twin.input.shape, twin.input.dtype))
        with self._count:
            self._users += 1
        return _Beside(self, twin)

    def infer(self, tensor: Tensor) -> tuple[Tensor, ...] | None:
        """Return the accelerator's outputs, or None if it does not serve: ask the twin."""
        if not self._standby.serves():
            return None
        with self._turn:
            if not self._standby.serves():  # it failed while this one waited for its turn
                return None
            try:
                self._asked_s = self._clock.uptime_s()
                self._check_if_due()
                outputs = self._outputs(tensor)
            except IsolatedFailed as error:
                self._fail(error)
                return None
            self._unproven += 1
            return outputs

    def served(self) -> Served:
        """Say who serves now."""
        standby, now_s = self._standby, self._clock.uptime_s()
        state = standby.state
        failed = state is State.FAILED
        return Served(
            model=self._model,
            accelerator=self._accelerator,
            state=state,
            reason=f"{standby.reason}: {standby.said}" if failed else "",
            for_s=now_s - standby.since_s,
            retry_s=standby.wait_s(now_s) if failed else 0.0,
            fallbacks=dict(standby.fallbacks),
        )

    def leave(self) -> None:
        """Be used by one worker less; after the last one the accelerator's process ends, by and by."""
        with self._count:
            self._users -= 1
            if self._users > 0:
                return
        self._stop.set()
        if not self._standby.serves():
            self._engine.abandon()  # it may be opening, for long

    def _keep(self) -> None:
        while not self._stop.wait(self._pause_s()):
            if not self._standby.serves():
                self._try()
                self._tried.set()
            elif self._turn.acquire(blocking=False):  # else it is asked by others, who notice what is wrong
                try:
                    self._look()
                finally:
                    self._turn.release()
        with self._turn:
            self._engine.close()

    def _pause_s(self) -> float:
        return BEAT_S if self._standby.serves() else self._standby.wait_s(self._clock.uptime_s())

    def _try(self) -> None:
        """Open it and compare its golden answers; nobody else asks it meanwhile."""
        try:
            self._check()
        except IsolatedFailed as error:
            self._fail(error)
        else:
            self._standby.passed(self._clock.uptime_s())
            log.info("accelerator_serves model=%s accelerator=%s", self._model, self._accelerator)

    def _look(self) -> None:
        try:
            if not self._check_if_due() and self._clock.uptime_s() - self._asked_s >= BEAT_S:
                self._engine.beat()
        except IsolatedFailed as error:
            self._fail(error)

    def _check_if_due(self) -> bool:
        """Compare its golden answers if it is time; whoever has the turn does it, so that no load puts it off."""
        if self._clock.uptime_s() - self._checked_s < self._care.check_every_s:
            return False
        self._check()
        return True

    def _check(self) -> None:
        self._engine.open()
        given, *outputs = (self._engine.input, *self._engine.outputs)
        if [info.kind for info in (given, *outputs)] != [info.kind for info in self._infos]:
            raise self._engine.give_up(Reason.MISMATCH, "its tensors are not those of its twin on the CPU")
        for place, tensor in enumerate(self._golden.inputs):
            wrong = self._golden.mismatch(place, self._outputs(tensor), outputs)
            if wrong:
                doubted = self.doubted + self._unproven
                raise self._engine.give_up(
                    Reason.MISMATCH, f"{wrong}; answers in doubt: {doubted}" if doubted else wrong
                )
        self._unproven = 0
        self._checked_s = self._asked_s = self._clock.uptime_s()

    def _outputs(self, tensor: Tensor) -> tuple[Tensor, ...]:
        outputs = self._engine.infer(tensor)
        if not all(output.dtype.kind != "f" or np.isfinite(output).all() for output in outputs):
            raise self._engine.give_up(Reason.GARBAGE, "its answer holds what is no number")
        return outputs

    def _fail(self, error: IsolatedFailed) -> None:
        if self._stop.is_set():
            return
        now_s = self._clock.uptime_s()
        self.doubted, self._unproven = self.doubted + self._unproven, 0
        self._standby.failed(error.reason, str(error), now_s)
        log.warning(
            "accelerator_failed model=%s accelerator=%s reason=%s retry_s=%.0f error=%s",
            self._model,
            self._accelerator,
            error.reason,
            self._standby.wait_s(now_s),
            error,
        )


class _Beside:
    """One worker's way to the accelerator and, when that does not serve, to its own twin."""

    def __init__(self, accelerator: Accelerator, twin: Engine) -> None:
        self._accelerator, self._twin = accelerator, twin
        self.input, self.outputs = twin.input, twin.outputs

    def infer(self, tensor: Tensor) -> tuple[Tensor, ...]:
        outputs = self._accelerator.infer(tensor)
        return self._twin.infer(tensor) if outputs is None else outputs

    def close(self) -> None:
        self._twin.close()
        self._accelerator.leave()
