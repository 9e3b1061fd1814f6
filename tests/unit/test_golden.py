"""Golden inputs: who answers them as the trusted engine does, and who does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from unit.odd_engines import GIVEN, SQUARES, Odd

from edge_gateway.engines.engine import Tensor, TensorInfo
from edge_gateway.engines.golden import Golden, derived, golden, real

U8 = TensorInfo((1, 4, 4, 3), np.dtype(np.uint8), 1 / 255, 0)


def said_of(answers: Callable[[Tensor], tuple[Tensor, ...]]) -> str:
    """Return what the golden inputs say of an engine, all of them together."""
    known: Golden = golden(Odd(), 0.1)
    return " ".join(known.mismatch(place, answers(given), Odd.outputs) for place, given in enumerate(known.inputs))


def test_the_same_answers_are_right() -> None:
    assert said_of(Odd().infer).strip() == ""


def test_answers_a_little_off_are_right_and_answers_far_off_are_not() -> None:
    assert said_of(lambda given: tuple(x * np.float32(1.02) for x in Odd().infer(given))).strip() == ""
    assert "output 1 is 1 away" in said_of(Odd("wrong").infer)


@pytest.mark.parametrize("place", [0, 1])
def test_an_engine_that_repeats_one_answer_for_ever_is_found(place: int) -> None:
    stale = Odd().infer(derived(GIVEN)[place])
    assert "away from its twin's" in said_of(lambda given: stale)


def test_inputs_of_a_bundle_are_asked_beside_the_derived_ones() -> None:
    own = np.full(GIVEN.shape, 3, np.float32)
    known = golden(Odd(), 0.1, [own])
    assert [len(known.inputs), len(known.answers)] == [3, 3]
    assert known.inputs[2] is own
    assert known.mismatch(2, Odd().infer(own), Odd.outputs) == ""
    assert "for golden input 2" in known.mismatch(2, Odd().infer(own + 1), Odd.outputs)


def test_an_answer_that_is_no_number_is_no_match() -> None:
    assert "away from its twin's" in said_of(Odd("no number").infer)


def test_an_output_that_jumps_in_the_trusted_engine_is_not_compared() -> None:
    class Order(Odd):
        """Its second output is which number is the largest bit pattern away: another one at the slightest change."""

        def infer(self, tensor: Tensor) -> tuple[Tensor, ...]:
            total, squares = super().infer(tensor)
            return total, np.roll(squares, int(tensor.view(np.uint32).sum()) % 8)

    known = golden(Order(), 0.1)
    assert np.isfinite(known.allowed[0])
    assert np.isinf(known.allowed[1])


def test_quantized_answers_are_compared_as_what_they_stand_for() -> None:
    info = replace(SQUARES, dtype=np.dtype(np.uint8), scale=0.5, zero_point=10)
    assert real([np.array([[10, 12]], np.uint8)], [info])[0].tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("info", [GIVEN, U8, replace(U8, dtype=np.dtype(np.int8), zero_point=-128)])
def test_derived_inputs_are_always_the_same_and_use_the_whole_range(info: TensorInfo) -> None:
    first, second = derived(info), derived(info)
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))
    assert {(x.shape, x.dtype) for x in first} == {(info.shape, info.dtype)}
    assert not np.array_equal(*first)
    spans = [float(x.max()) - float(x.min()) for x in first]
    assert min(spans) > (0.5 if info.dtype.kind == "f" else 100)
