"""An engine in a process of its own: what it does there is an answer or a named failure here, and nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from integration.brokers import wait_until
from unit.odd_engines import GIVEN, Odd, opening

from edge_gateway.engines.engine import Tensor
from edge_gateway.engines.exchange import BadPacket, described, understood
from edge_gateway.engines.isolated import SAID_CHARACTERS, AskedTwice, Deadlines, IsolatedEngine, IsolatedFailed
from edge_gateway.engines.standby import Reason

PATIENT = Deadlines(open_s=120.0, answer_s=120.0)
SHORT = Deadlines(open_s=120.0, answer_s=0.3)
MEMORY = Path("/dev/shm")
EIGHT = np.arange(8, dtype=np.float32).reshape(1, 8)


@contextmanager
def isolated(
    what: str = "", after: int = 0, file: Path | None = None, deadlines: Deadlines = PATIENT
) -> Iterator[IsolatedEngine]:
    with closing(IsolatedEngine(opening(what, after, file), "odd@1", deadlines)) as engine:
        yield engine


def process_of(engine: IsolatedEngine) -> int:
    assert engine._process is not None
    return engine._process.pid


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has asked after yet has ended too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def same(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_it_answers_what_the_engine_itself_answers() -> None:
    with isolated() as engine:
        first = engine.infer(EIGHT)
        assert same(engine.infer(EIGHT + 1), Odd().infer(EIGHT + 1))
        engine.beat()
        assert same(first, Odd().infer(EIGHT))
        assert (engine.input, engine.outputs) == (Odd.input, Odd.outputs)
        pid = process_of(engine)
    assert is_gone(pid)


@pytest.mark.parametrize(
    ("what", "reason", "said"),
    [
        ("raise", Reason.RAISED, "the accelerator lost its mind"),
        ("abort", Reason.DIED, "Aborted"),
        ("half a shape", Reason.GARBAGE, "(1, 4)"),
        ("hang", Reason.HUNG, "no answer in 0.3 s"),
    ],
)
def test_what_goes_wrong_in_the_process_is_named_and_the_next_question_goes_to_another(
    tmp_path: Path, what: str, reason: Reason, said: str
) -> None:
    (file := tmp_path / "odd").touch()
    with isolated(what, 1, file, SHORT) as engine:
        assert same(engine.infer(EIGHT), Odd().infer(EIGHT))
        pid = process_of(engine)
        with pytest.raises(IsolatedFailed, match=said.replace("(", r"\(").replace(")", r"\)")) as failed:
            engine.infer(EIGHT)
        assert failed.value.reason is reason
        file.unlink()
        assert same(engine.infer(EIGHT), Odd().infer(EIGHT))
        assert is_gone(pid)


def test_an_engine_that_cannot_be_opened_says_why() -> None:
    with isolated("refuse") as engine, pytest.raises(IsolatedFailed, match="no accelerator is plugged in") as failed:
        engine.open()
    assert failed.value.reason is Reason.REFUSED


def test_while_the_process_works_other_threads_of_ours_do_too() -> None:
    with isolated("hang", 1) as engine, ThreadPoolExecutor(1) as pool:
        engine.infer(EIGHT)
        answer = pool.submit(engine.infer, EIGHT)
        while not answer.running():
            pass
        engine.abandon()
        assert isinstance(answer.exception(60), IsolatedFailed)


def test_without_a_twin_another_process_is_asked_once_more() -> None:
    with isolated("abort", 2) as engine:
        twice = AskedTwice(engine)
        assert all(same(twice.infer(EIGHT + n), Odd().infer(EIGHT + n)) for n in range(4))


def test_an_input_that_hangs_every_process_holds_nobody_up_for_as_long_as_opening_may_take() -> None:
    with isolated("hang", 1, deadlines=SHORT) as engine:
        twice = AskedTwice(engine)
        twice.infer(EIGHT)
        for _ in range(2):
            with pytest.raises(IsolatedFailed, match=r"no answer in 0.3 s"):
                twice.infer(EIGHT)


def test_another_process_with_other_tensors_is_not_asked() -> None:
    with isolated("abort", 1) as engine:
        twice = AskedTwice(engine)
        twice.infer(EIGHT)
        engine._opening = opening("other tensors")
        with pytest.raises(IsolatedFailed, match="its tensors are not those that it had") as failed:
            twice.infer(EIGHT)
    assert failed.value.reason is Reason.GARBAGE


def test_what_a_process_says_at_length_is_one_short_line() -> None:
    said = str(IsolatedFailed(Reason.REFUSED, "no accelerator\n  is plugged in " * 10_000))
    assert said.startswith("no accelerator is plugged in no")
    assert len(said) == SAID_CHARACTERS


PARENT = """
import sys, numpy
from unit.odd_engines import opening
from edge_gateway.engines.isolated import Deadlines, IsolatedEngine
engine = IsolatedEngine(opening("hang", 1), "odd@1", Deadlines(120.0, 120.0))
engine.infer(numpy.zeros((1, 8), numpy.float32))
print(engine._process.pid, flush=True)
engine.infer(numpy.zeros((1, 8), numpy.float32))
"""


def test_a_kill_of_the_gateway_ends_a_process_that_hangs_and_leaves_nothing_behind() -> None:
    before = set(MEMORY.iterdir())
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not is_gone(pid)
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: is_gone(pid), "its process has ended")
    left = set(MEMORY.iterdir()) - before
    assert not [path for path in left if "tensors" in path.name or "psm" in path.name]


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "[]",
        described(GIVEN, ()),
        '[[[1, 8], "<f4", 0, 0, ""], [[1, 0], "<f4", 0, 0, ""]]',
        '[[[1, 8], "<f4", 0, 0, ""], [[1, 8], "O", 0, 0, ""]]',
        '[[[1, 8], "<f4", 0, 0, ""], [[1000000, 1000000], "<f4", 0, 0, ""]]',
        '[[[1, 8], "<f4", 0, 0, ""], [[1e999], "<f4", 0, 0, ""]]',
        '[[[1, 8], "<f4", 0, 0, ""], [[Infinity], "<f4", 0, 0, ""]]',
        f'[[[1, 8], "<f4", 0, 0, ""], [[1, 8], "<f4", 1{"0" * 400}, 0, ""]]',
        '[[[1, 8], "<f4", 0, 0, ""], [[1, 8], "(1,,2)f4", 0, 0, ""]]',
        f'[[[1, 8], "<f4", 0, 0, ""], [{[1] * 65}, "<f4", 0, 0, ""]]',
        "[" * 60_000,
    ],
)
def test_tensors_that_cannot_be_shared_are_refused(text: str) -> None:
    with pytest.raises(BadPacket):
        understood(text)
