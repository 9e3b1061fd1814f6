"""The process of an isolated engine: opens it, answers one question after the other, and ends with whoever started it.

Started as `python -m edge_gateway.engines.child SOCKET OPENING PARENT`: two descriptors, and the process it serves.
OPENING holds a pickled function without arguments that returns the engine.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from edge_gateway.engines.engine import Engine, EngineFailed, Tensor
from edge_gateway.engines.exchange import Packet, Word, described, mapped, receive, send

_PR_SET_PDEATHSIG = 1  # sys/prctl.h


def main(words: socket.socket, opening: int, parent: int) -> None:
    """Serve until the other side is gone."""
    end_with(parent)
    with os.fdopen(opening, "rb") as file:
        open_engine: Callable[[], Engine] = pickle.load(file)  # noqa: S301  (it comes from the process that we serve)
    try:
        engine = open_engine()
    except EngineFailed as error:
        send(words, Packet(Word.REFUSED, 0, str(error)))
        return
    del open_engine  # the model's bytes
    send(words, Packet(Word.OPENED, 0, described(engine.input, engine.outputs)))
    _, descriptors, _, _ = socket.recv_fds(words, 1, 1)
    if descriptors:
        _serve(words, engine, descriptors[0])
    engine.close()


def end_with(parent: int) -> None:
    """Have the kernel end this process with the thread that started it, though a driver hangs; signals are its own."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("millrace: the process to serve is gone")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _serve(words: socket.socket, engine: Engine, memory: int) -> None:
    given, *places = mapped(memory, engine.input, engine.outputs)
    os.close(memory)
    while (asked := receive(words)) is not None:
        word, text = Word.DONE, ""
        if asked.word is Word.INFER:
            try:
                word, text = _share(places, engine.infer(given))
            except EngineFailed as error:
                word, text = Word.RAISED, str(error)
        send(words, Packet(word, asked.number, text))


def _share(places: list[Tensor], outputs: tuple[Tensor, ...]) -> tuple[Word, str]:
    """Put outputs where they belong; what is not of that shape and type goes nowhere."""
    found = [(output.shape, output.dtype) for output in outputs]
    wanted = [(place.shape, place.dtype) for place in places]
    if found != wanted:
        return Word.GARBAGE, f"gave {found}, not {wanted}"
    for place, output in zip(places, outputs, strict=True):
        np.copyto(place, output)
    return Word.DONE, ""


if __name__ == "__main__":
    with suppress(ConnectionError):  # nobody is left to hear the answer
        main(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3]))
