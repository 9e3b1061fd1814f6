"""Workers are shared: oldest first, but a kind of work that has its share already leaves the others theirs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait

import pytest

from edge_gateway.crew import Crew

HEAVY, LIGHT = 0, 1
PATIENCE_S = 30


@pytest.fixture
def crew() -> Iterator[Crew]:
    crew = Crew(2, [1, 2])
    yield crew
    crew.close()


@pytest.fixture(params=[[1, 1], [1, 2]], ids=["every model has all workers", "one has less"])
def lone(request: pytest.FixtureRequest) -> Iterator[Crew]:
    """One thread or two, of which HEAVY has one either way."""
    crew = Crew(max(request.param), request.param)
    yield crew
    crew.close()


class Gate:
    """Work that says when it has begun and goes on when it is told to."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.may_end.wait(PATIENCE_S)
        return "done"


def saying(said: list[int], number: int) -> Callable[[], None]:
    return lambda: said.append(number)


def test_a_heavy_model_leaves_a_worker_to_the_light_one(crew: Crew) -> None:
    first, second = Gate(), Gate()
    heavy = [crew.submit([HEAVY], gate) for gate in (first, second)]
    assert first.begun.wait(PATIENCE_S)
    assert crew.submit([LIGHT], lambda: "light").result(PATIENCE_S) == "light"
    assert not second.begun.is_set()
    first.may_end.set()
    second.may_end.set()
    assert [future.result(PATIENCE_S) for future in heavy] == ["done", "done"]


def test_work_of_two_kinds_begins_only_where_both_have_room(crew: Crew) -> None:
    held, both = Gate(), Gate()
    crew.submit([HEAVY], held)
    future = crew.submit([LIGHT, HEAVY], both)
    assert crew.submit([LIGHT], lambda: 1).result(PATIENCE_S) == 1
    assert not both.begun.is_set()
    held.may_end.set()
    both.may_end.set()
    assert future.result(PATIENCE_S) == "done"


def test_what_may_begin_begins_in_order(crew: Crew) -> None:
    said: list[int] = []
    gates = [Gate(), Gate()]
    held = [crew.submit([LIGHT], gate) for gate in gates]
    waiting: list[Future[None]] = [crew.submit([HEAVY], saying(said, number)) for number in range(100)]
    for gate in gates:
        gate.may_end.set()
    wait([*held, *waiting], PATIENCE_S)
    assert said == list(range(100))


def test_an_error_is_handed_to_who_waits_and_the_thread_goes_on(lone: Crew) -> None:
    def fail() -> None:
        raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there"):
        lone.submit([HEAVY], fail).result(PATIENCE_S)
    assert lone.submit([HEAVY], lambda: 1).result(PATIENCE_S) == 1


def test_what_nobody_waits_for_any_more_is_not_begun_and_holds_nothing(lone: Crew) -> None:
    gate, given_up = Gate(), Gate()
    held = lone.submit([HEAVY], gate)
    future = lone.submit([HEAVY], given_up)
    assert future.cancel()
    gate.may_end.set()
    assert held.result(PATIENCE_S) == "done"
    assert lone.submit([HEAVY], lambda: 1).result(PATIENCE_S) == 1
    assert not given_up.begun.is_set()


def test_a_crew_that_ends_finishes_what_is_under_way_and_begins_nothing(lone: Crew) -> None:
    gate, never = Gate(), Gate()
    held, waiting = lone.submit([HEAVY], gate), lone.submit([HEAVY], never)
    assert gate.begun.wait(PATIENCE_S)
    lone.close()
    gate.may_end.set()
    assert held.result(PATIENCE_S) == "done"
    assert waiting.cancelled()
