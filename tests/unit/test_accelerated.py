"""A bad accelerator beside a good twin: each input is answered once and rightly, whatever the accelerator does."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from integration.brokers import wait_until
from pydantic import ValidationError
from unit.odd_engines import Odd, opening
from unit.test_isolated import is_gone, process_of, same

from edge_gateway.engines.accelerated import Accelerator, Care, Served
from edge_gateway.engines.engine import Tensor
from edge_gateway.engines.golden import golden
from edge_gateway.engines.isolated import Deadlines
from edge_gateway.engines.standby import Pauses, Reason, State
from edge_gateway.metrics import Metrics
from edge_gateway.settings import AcceleratorSettings
from millrace.clock import SystemClock

CARE = Care(Deadlines(open_s=120.0, answer_s=0.5), Pauses(first_s=0.05, longest_s=0.1), 3600.0, 0.1)
ONCE = replace(CARE, pauses=Pauses(3600.0, 3600.0))
OFTEN = replace(ONCE, check_every_s=0.0)
GOLDEN = 2


class Counting(Odd):
    """A twin that remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float] = []

    def infer(self, tensor: Tensor) -> tuple[Tensor, ...]:
        self.asked.append(float(tensor[0, 0]))
        return super().infer(tensor)


@contextmanager
def accelerator(what: str = "", after: int = 0, file: Path | None = None, care: Care = CARE) -> Iterator[Accelerator]:
    found = Accelerator(opening(what, after, file), "odd@1", "a box", care, SystemClock())
    with closing(found.beside(Odd())):
        found.begin(golden(Odd(), care.tolerance_ratio), (Odd.input, *Odd.outputs))
        yield found
    wait_until(lambda: not found._keeper.is_alive(), "its process has ended")


def serves(found: Accelerator) -> None:
    wait_until(lambda: found.served().state is State.SERVING, "the accelerator serves")


def has_failed(found: Accelerator) -> None:
    wait_until(lambda: found.served().state is State.FAILED, "the accelerator has failed")


def test_the_twin_answers_until_the_accelerator_has_given_the_golden_answers() -> None:
    with accelerator() as found:
        twin, five = Counting(), np.full((1, 8), 5, np.float32)
        with closing(found.beside(twin)) as engine:
            assert twin.asked == [0.0]
            serves(found)
            assert same(engine.infer(five), Odd().infer(five))
        assert twin.asked == [0.0]


@pytest.mark.parametrize(
    ("what", "reason"),
    [("hang", Reason.HUNG), ("no number", Reason.GARBAGE)],
)
def test_the_twin_answers_what_the_accelerator_did_not_and_it_serves_again_once_it_is_well(
    tmp_path: Path, what: str, reason: Reason, caplog: pytest.LogCaptureFixture
) -> None:
    ill, tensors = tmp_path / "ill", [np.full((1, 8), number, np.float32) for number in range(1, 6)]
    with accelerator(what, file=ill) as found, caplog.at_level(logging.INFO):
        serves(found)
        with closing(found.beside(twin := Counting())) as engine:
            assert all(same(engine.infer(tensor), Odd().infer(tensor)) for tensor in tensors[:3])
            ill.touch()
            assert all(same(engine.infer(tensor), Odd().infer(tensor)) for tensor in tensors[3:])
        assert twin.asked == [0.0, 4.0, 5.0]
        assert found.doubted == 3
        assert found.served().fallbacks == {reason: 1}
        ill.unlink()
        serves(found)
        assert (found.served().reason, found.served().fallbacks) == ("", {reason: 1})
    assert f"accelerator_failed model=odd@1 accelerator=a box reason={reason}" in caplog.text


@pytest.mark.parametrize(
    ("what", "reason", "said"),
    [
        ("refuse", Reason.REFUSED, "no accelerator is plugged in"),
        ("wrong", Reason.MISMATCH, "output 1 is 1 away from its twin's for golden input 0"),
        ("other tensors", Reason.MISMATCH, "its tensors are not those of its twin"),
    ],
)
def test_an_accelerator_that_never_was_right_never_serves(what: str, reason: Reason, said: str) -> None:
    with accelerator(what, care=ONCE) as found:
        has_failed(found)
        assert found.served().reason.startswith(reason)
        assert said in found.served().reason
        assert found.infer(np.zeros((1, 8), np.float32)) is None


def test_one_whose_answers_go_wrong_later_is_found_by_the_next_golden_check() -> None:
    with accelerator("wrong", GOLDEN, care=OFTEN) as found:
        serves(found)
        has_failed(found)
        assert found.served().fallbacks == {Reason.MISMATCH: 1}


def test_no_load_puts_the_golden_check_off() -> None:
    with accelerator("wrong", GOLDEN, care=OFTEN) as found:
        serves(found)
        five = np.full((1, 8), 5, np.float32)
        with closing(found.beside(Odd())) as engine:
            assert same(engine.infer(five), Odd().infer(five))
        assert found.served().fallbacks == {Reason.MISMATCH: 1}


def test_an_idle_accelerator_whose_process_is_killed_is_noticed_before_the_next_frame() -> None:
    with accelerator(care=ONCE) as found:
        serves(found)
        found._engine._kill()
        has_failed(found)
        assert found.served().fallbacks == {Reason.DIED: 1}


def test_closing_does_not_wait_for_one_that_hangs_at_its_start() -> None:
    with accelerator("hang") as found:
        wait_until(lambda: found._engine._process is not None, "its process was started")
        pid = process_of(found._engine)
    assert is_gone(pid)


def test_no_pause_before_the_next_trial_is_longer_than_a_thread_can_wait() -> None:
    for name in ("retry_first_s", "retry_longest_s"):
        with pytest.raises(ValidationError, match="less than or equal to 31536000"):
            AcceleratorSettings.model_validate({name: threading.TIMEOUT_MAX + 1})


def test_a_model_that_is_bound_twice_has_one_series_among_the_metrics_and_the_worse_state_counts() -> None:
    well = Served("odd@1", "a box", State.SERVING, "", 1.0, 0.0, {Reason.HUNG: 2})
    ill = Served("odd@1", "a box", State.FAILED, "hung", 1.0, 1.0, {Reason.HUNG: 1, Reason.DIED: 1})
    metrics = Metrics()
    metrics.watch(lambda: [[well], [ill]])
    shown = [line for line in metrics.text().decode().splitlines() if line.startswith("millrace_engine_")]
    assert shown == [
        'millrace_engine_primary{accelerator="a box",model="odd@1"} 0.0',
        'millrace_engine_fallbacks_total{accelerator="a box",model="odd@1",reason="hung"} 3.0',
        'millrace_engine_fallbacks_total{accelerator="a box",model="odd@1",reason="died"} 1.0',
    ]
