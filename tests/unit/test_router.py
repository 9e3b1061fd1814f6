"""Whose answer counts, and which frames go up or stay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.router import Decision, decide, frame_goes
from edge_gateway.settings import PolicySettings

SURE, UNSURE = Decision("edge", ""), Decision("escalate", "")


@pytest.mark.parametrize("frames", ["none", "escalated", "defects", "sample", "all"])
@pytest.mark.parametrize("score", [0.8, 0.81, 1.0])
def test_an_answer_at_the_threshold_or_above_stands_whatever_goes_up(score: float, frames: str) -> None:
    policy = PolicySettings.model_validate({"frames": frames})
    assert decide(score, 0.8, policy) == Decision("edge", f"score {score:.2f} >= 0.80")


@pytest.mark.parametrize(
    ("frames", "decision", "reason"),
    [
        ("escalated", "escalate", "score 0.79 < 0.80"),
        ("all", "escalate", "score 0.79 < 0.80"),
        ("none", "fall_back", "score 0.79 < 0.80, frames: none"),
        ("defects", "fall_back", "score 0.79 < 0.80, frames: defects"),
        ("sample", "fall_back", "score 0.79 < 0.80, frames: sample"),
    ],
)
def test_an_unsure_answer_is_sent_up_only_if_its_frame_is(frames: str, decision: str, reason: str) -> None:
    assert decide(0.79, 0.8, PolicySettings.model_validate({"frames": frames})) == Decision(decision, reason)


def test_a_score_that_is_no_number_is_never_sure() -> None:
    assert decide(float("nan"), 0.0, PolicySettings(frames="all")).decision == "escalate"


@pytest.mark.parametrize(
    ("which", "decisions", "defect", "goes"),
    [
        ("all", [], False, True),
        ("none", [UNSURE], True, False),
        ("defects", [SURE], True, True),
        ("defects", [UNSURE], False, False),
        ("escalated", [SURE, UNSURE], False, True),
        ("escalated", [SURE], True, False),
        ("escalated", [], True, False),
    ],
)
def test_which_frames_go(which: str, decisions: list[Decision], defect: bool, goes: bool) -> None:
    assert frame_goes(which, decisions, defect, "k3v9x0pa-1", 0.5) is goes


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_sample_holds_the_smaller_one(key: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert frame_goes("sample", [], False, key, large) or not frame_goes("sample", [], False, key, small)
    assert frame_goes("sample", [], False, key, 1.0)
    assert not frame_goes("sample", [], False, key, 0.0)


def test_a_sample_has_about_its_share() -> None:
    taken = sum(frame_goes("sample", [], False, f"k3v9x0pa-{seq}", 0.1) for seq in range(10_000))
    assert 900 < taken < 1100
