"""A TensorFlow Lite delegate that refuses, breaks, hangs, dies or lies: models go on answering, and answer rightly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from faults.bad_delegate import build
from integration.brokers import wait_until

from edge_gateway.admission import Outcome
from edge_gateway.bundle import load_bundle
from edge_gateway.engines.accelerated import Served
from edge_gateway.engines.isolated import AskedTwice
from edge_gateway.engines.standby import State
from edge_gateway.hot_swap import swap
from edge_gateway.models import Models
from edge_gateway.serving import GOLDEN_PICTURES
from edge_gateway.settings import AcceleratorSettings, DelegateSettings, ModelSettings
from edge_gateway.swaps import Swaps
from edge_gateway.workers import Workers
from millrace_models import bundle_path

PARTS = bundle_path("parts")
MAX_PIXELS = 1_000_000
GOLDEN = 2
FRAMES = 12
CARE = AcceleratorSettings(deadline_s=0.5, open_s=120, retry_first_s=0.2, retry_longest_s=0.4, check_every_s=3600)

ONCE = CARE.model_copy(update={"retry_first_s": 3600.0, "retry_longest_s": 3600.0})


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("delegate"))


def pictures() -> list[bytes]:
    rng = np.random.default_rng(7)
    return [bytes(cv2.imencode(".png", rng.integers(0, 255, (96, 128, 3), np.uint8))[1]) for _ in range(FRAMES)]


def said(outcome: Outcome) -> tuple[str, float]:
    assert outcome.malformed is None
    ((prediction, _, _),) = outcome.predictions
    return prediction.label, prediction.score


@contextmanager
def on_delegate(
    library: Path, care: AcceleratorSettings = CARE, bundle: Path = PARTS, **options: str
) -> Iterator[Models]:
    delegate = DelegateSettings(library=str(library), options=options)
    models = Models([ModelSettings(bundle=bundle, delegates=[delegate])], MAX_PIXELS, 2, 1 << 20, care)
    yield models
    models._serving[0].retire()


def only(models: Models) -> Served:
    ((served,),) = models.accelerators
    return served


def is_in(models: Models, state: State) -> None:
    wait_until(lambda: only(models).state is state, f"the delegate is {state}")


def test_a_delegate_that_works_answers_as_the_cpu_does(library: Path) -> None:
    cpu = Models([ModelSettings(bundle=PARTS)], MAX_PIXELS)
    with on_delegate(library) as models:
        is_in(models, State.SERVING)
        assert [said(models.infer(one, [0])) for one in pictures()] == [said(cpu.infer(one, [0])) for one in pictures()]
        assert (only(models).fallbacks, only(models).accelerator) == ({}, "bad_delegate.so")


@pytest.mark.parametrize(("mode", "reason"), [("raise", "raised"), ("hang", "hung"), ("abort", "died")])
def test_each_frame_is_answered_once_and_rightly_when_a_delegate_fails_between_them(
    library: Path, tmp_path: Path, mode: str, reason: str
) -> None:
    ill, frames = tmp_path / "ill", pictures()
    cpu = Models([ModelSettings(bundle=PARTS)], MAX_PIXELS)
    right = [cpu.infer_raw(0, "parts@1", one)[0].tolist() for one in frames]
    with on_delegate(library, mode=mode, **{"while": str(ill)}) as models, closing(Workers(models, 2)) as workers:
        is_in(models, State.SERVING)
        assert [workers.ask(0, "parts@1", one).result()[0].tolist() for one in frames[:3]] == right[:3]
        ill.touch()
        asked = [workers.ask(0, "parts@1", one) for one in frames[3:]]
        assert [future.result()[0].tolist() for future in asked] == right[3:]
        assert (only(models).state, only(models).fallbacks) == (State.FAILED, {reason: 1})
        ill.unlink()
        is_in(models, State.SERVING)
        assert models.infer_raw(0, "parts@1", frames[0])[0].tolist() == right[0]


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("refuse", "no accelerator is plugged in"),
        ("prepare", "the accelerator is too hot"),
        ("nonsense", "away from its twin's"),
        ("stale", "away from its twin's"),
    ],
)
def test_a_delegate_that_is_no_good_from_the_start_never_answers(library: Path, mode: str, words: str) -> None:
    with on_delegate(library, ONCE, mode=mode) as models:
        is_in(models, State.FAILED)
        assert words in only(models).reason
        assert said(models.infer(pictures()[0], [0])) is not None


@pytest.mark.parametrize("mode", ["nonsense", "stale"])
def test_a_delegate_that_begins_to_lie_is_found_by_the_next_golden_check(library: Path, mode: str) -> None:
    often = ONCE.model_copy(update={"check_every_s": 0.01})
    with on_delegate(library, often, mode=mode, after=str(GOLDEN)) as models:
        is_in(models, State.FAILED)
        assert only(models).fallbacks == {"mismatch": 1}


def test_a_bundles_own_golden_pictures_are_asked_of_the_cpu_at_the_start_and_then_of_the_delegate(
    library: Path, tmp_path: Path
) -> None:
    bundle, cpu = shutil.copytree(PARTS, tmp_path / "parts"), Models([ModelSettings(bundle=PARTS)], MAX_PIXELS)
    own = pictures()[:6]
    for number, one in enumerate(own):
        (bundle / f"{number}.png").write_bytes(one)
    labels = [{"file": f"{number}.png", "label": said(cpu.infer(one, [0]))[0]} for number, one in enumerate(own)]
    (bundle / "manifest.yaml").write_text((PARTS / "manifest.yaml").read_text() + f"golden: {json.dumps(labels)}\n")
    with on_delegate(library, ONCE, bundle, mode="nonsense") as models:
        is_in(models, State.FAILED)
        assert only(models).fallbacks == {"mismatch": 1}
        (accelerator,) = models._serving[0].guard._accelerators.values()
        assert len(accelerator._golden.inputs) == GOLDEN + GOLDEN_PICTURES


def test_what_a_lying_delegate_said_is_in_doubt_and_not_remembered(library: Path, tmp_path: Path) -> None:
    ill, picture = tmp_path / "ill", pictures()[0]
    cpu = Models([ModelSettings(bundle=PARTS)], MAX_PIXELS)
    with on_delegate(library, ONCE, mode="nonsense", **{"while": str(ill)}) as models:
        is_in(models, State.SERVING)
        ill.touch()
        lie = said(models.infer(picture, [0], "d1"))
        assert said(models.infer(picture, [0], "d1")) == lie != said(cpu.infer(picture, [0]))
        (accelerator,) = models._serving[0].guard._accelerators.values()
        accelerator._checked_s = float("-inf")
        is_in(models, State.FAILED)
        assert "; answers in doubt: 1" in only(models).reason
        assert said(models.infer(picture, [0], "d1")) == said(cpu.infer(picture, [0]))
        models.exchange(0, models.open(0, load_bundle(PARTS)))  # it has no doubts of its own
        assert said(models.infer(picture, [0], "d1")) == said(cpu.infer(picture, [0]))
        wait_until(lambda: not accelerator._keeper.is_alive(), "the old one waits no more for its next trial")


@pytest.mark.parametrize(("mode", "state"), [("", State.SERVING), ("refuse", State.FAILED)])
def test_a_swap_waits_until_the_new_ones_delegate_serves_or_has_failed(
    library: Path, tmp_path: Path, mode: str, state: State
) -> None:
    """While it is opened the old one's delegate serves, and not the new one's CPU."""
    second = shutil.copytree(PARTS, tmp_path / "parts-2")
    (second / "manifest.yaml").write_text((PARTS / "manifest.yaml").read_text().replace("version: 1", "version: 2"))
    with on_delegate(library, ONCE, mode=mode) as models:
        assert swap(models, 0, second, Swaps(tmp_path)) == "parts@2"
        assert (only(models).model, only(models).state) == ("parts@2", state)


def test_a_model_that_may_crash_its_runtime_is_kept_apart_on_the_cpu_too() -> None:
    cpu = Models([ModelSettings(bundle=PARTS)], MAX_PIXELS)
    apart = Models([ModelSettings(bundle=PARTS, isolate="always")], MAX_PIXELS)
    assert [said(apart.infer(one, [0])) for one in pictures()] == [said(cpu.infer(one, [0])) for one in pictures()]
    assert isinstance(apart._serving[0]._idle[0].engine, AskedTwice)
    apart._serving[0].retire()
