"""Any engine in a process of its own: what breaks, hangs or kills there is an error here, and within a deadline.

Tensors lie in memory that both map and that has no name, so that no death of either leaves anything behind. While the
process works, this one waits in a system call and holds no lock of the interpreter.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edge_gateway.engines.engine import Engine, EngineFailed, Tensor, TensorInfo
from edge_gateway.engines.exchange import BadPacket, Packet, Word, mapped, receive, send, share, understood
from edge_gateway.engines.standby import Reason

log = logging.getLogger(__name__)

FAREWELL_S = 1.0
"""For so long a process may let go of its device when it is not needed any more."""
KILLED_S = 2.0
"""For so long a killed process may take to be gone before another is started."""
SAID_CHARACTERS = 500
"""Of what a process says of its failure so much goes into the log and the status, on one line."""
_STDERR = 2
_REASONS = {Word.REFUSED: Reason.REFUSED, Word.RAISED: Reason.RAISED, Word.GARBAGE: Reason.GARBAGE}


class IsolatedFailed(EngineFailed):
    """The engine in its process cannot be used; the next question starts another process."""

    def __init__(self, reason: Reason, said: str) -> None:
        super().__init__(" ".join(said.split())[:SAID_CHARACTERS])
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds for an engine to be open and give its first answer, and for each answer after that."""

    open_s: float
    answer_s: float


class IsolatedEngine:
    """An engine in a process of its own, asked by one thread at a time; any failure ends the process.

    Start it from a thread that lives on: the kernel ends the process with the thread that started it.
    """

    def __init__(self, opening: Callable[[], Engine], name: str, deadlines: Deadlines) -> None:
        """Take a function that can be pickled; it is called in the process. `open` starts it."""
        self._opening, self._name, self._deadlines = opening, name, deadlines
        self._process: subprocess.Popen[bytes] | None = None
        self._words: socket.socket | None = None
        self._tensors: tuple[Tensor, ...] = ()
        self._asked = 0
        self._abandoned = threading.Event()
        self.input: TensorInfo
        self.outputs: tuple[TensorInfo, ...]

    @property
    def is_open(self) -> bool:
        """Whether a process runs that may be asked."""
        return self._words is not None

    def open(self) -> None:
        """Start the process if none runs, and wait until its engine is open. Errors: IsolatedFailed."""
        if self.is_open:
            return
        self._bury()
        self._asked = 0
        try:
            self._start()
            if self._abandoned.is_set():
                self._kill()
            opened = self._answer(Word.OPENED)
            self.input, self.outputs = understood(opened.text)
            self._share()
        except BadPacket as error:
            raise self.give_up(Reason.GARBAGE, str(error)) from None
        except OSError as error:
            raise self.give_up(Reason.REFUSED, f"its process cannot be started: {error.strerror}") from None

    def infer(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs for one input. Errors: IsolatedFailed, also if it takes longer than the deadline."""
        self.open()
        np.copyto(self._tensors[0], tensor)
        self._ask(Word.INFER)
        return tuple(place.copy() for place in self._tensors[1:])

    def beat(self) -> None:
        """Return once the process has said that it lives; IsolatedFailed if it does not."""
        self.open()
        self._ask(Word.BEAT)

    def give_up(self, reason: Reason, said: str) -> IsolatedFailed:
        """End the process for what it did; return the error to raise."""
        self._hang_up()
        return IsolatedFailed(reason, said if self._name in said else f"model {self._name}: {said}")

    def abandon(self) -> None:
        """End the process at once and start no other, from any thread; nobody waits for an answer any longer."""
        self._abandoned.set()
        self._kill()

    def close(self) -> None:
        """Let the engine go, and its process end; one that hangs in the kernel is left there."""
        self._hang_up()
        try:
            self._bury()
        except IsolatedFailed as error:
            log.error("process_left error=%s", error)

    def _kill(self) -> None:
        process = self._process
        if process is not None:
            process.kill()

    def _start(self) -> None:
        self._words, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._words.settimeout(self._deadlines.open_s)
        opening = os.memfd_create("millrace-opening")
        with theirs, os.fdopen(opening, "wb") as file:
            pickle.dump(self._opening, file)
            file.flush()
            file.seek(0)
            descriptors = (theirs.fileno(), opening)
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.child", *map(str, descriptors), str(os.getpid())],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=_STDERR,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )

    def _share(self) -> None:
        assert self._words is not None
        memory = share(self.input, self.outputs)
        try:
            socket.send_fds(self._words, [b"\0"], [memory])
            self._tensors = mapped(memory, self.input, self.outputs)
        finally:
            os.close(memory)

    def _ask(self, word: Word) -> None:
        assert self._words is not None
        self._asked += 1
        try:
            send(self._words, Packet(word, self._asked))
        except OSError:
            raise self._died() from None
        self._answer(Word.DONE)
        self._words.settimeout(self._deadlines.answer_s)

    def _answer(self, wanted: Word) -> Packet:
        assert self._words is not None
        try:
            answer = receive(self._words)
        except TimeoutError:
            self._kill()
            raise self.give_up(Reason.HUNG, f"no answer in {self._words.gettimeout():g} s") from None
        except BadPacket as error:
            raise self.give_up(Reason.GARBAGE, str(error)) from None
        if answer is None:
            raise self._died()
        if answer.number != self._asked or answer.word not in (wanted, *_REASONS):
            raise self.give_up(Reason.GARBAGE, f"an answer ({answer.word.name}) to what was not asked")
        if answer.word in _REASONS:
            raise self.give_up(_REASONS[answer.word], answer.text)
        return answer

    def _died(self) -> IsolatedFailed:
        assert self._process is not None
        try:
            status = self._process.wait(FAREWELL_S)
        except subprocess.TimeoutExpired:
            self._kill()
            return self.give_up(Reason.DIED, "its process hung up")
        how = signal.strsignal(-status) if status < 0 else f"status {status}"
        return self.give_up(Reason.DIED, f"its process ended: {how}")

    def _hang_up(self) -> None:
        """Speak no more to the process: it ends by itself unless it hangs."""
        if self._words is not None:
            self._words.close()
        self._words, self._tensors = None, ()

    def _bury(self) -> None:
        """Wait until a former process is gone; IsolatedFailed if not even a kill ends it."""
        if self._process is None:
            return
        try:
            self._process.wait(FAREWELL_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            try:
                self._process.wait(KILLED_S)
            except subprocess.TimeoutExpired:
                said = f"its process {self._process.pid} cannot be ended: it hangs in the kernel"
                raise IsolatedFailed(Reason.HUNG, f"model {self._name}: {said}") from None
        self._process = None


class AskedTwice:
    """An isolated engine without a twin: what ended its process is asked of another process, once.

    No frame is the first question to a new process: that answer may take as long as opening, and a frame's may not.
    """

    def __init__(self, engine: IsolatedEngine) -> None:
        """Open the engine. Errors: IsolatedFailed."""
        self._engine = engine
        try:
            engine.open()
        except IsolatedFailed:
            engine.close()
            raise
        self.input, self.outputs = engine.input, engine.outputs

    def infer(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs for one input. Errors: IsolatedFailed if it cannot be inferred twice in a row."""
        try:
            return self._once(tensor)
        except IsolatedFailed as error:
            log.warning("engine_failed reason=%s error=%s", error.reason, error)
            return self._once(tensor)

    def close(self) -> None:
        """Let the engine go."""
        self._engine.close()

    def _once(self, tensor: Tensor) -> tuple[Tensor, ...]:
        if not self._engine.is_open:
            self._engine.open()
            if (self._engine.input, self._engine.outputs) != (self.input, self.outputs):
                raise self._engine.give_up(Reason.GARBAGE, "its tensors are not those that it had")
            self._engine.infer(np.zeros(self.input.shape, self.input.dtype))
        return self._engine.infer(tensor)
