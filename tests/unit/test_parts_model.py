from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import yaml

from device_agent.sources.parts import LABELS
from millrace_models import UnknownBundle, bundle_path
from millrace_models.parts_pictures import SIDE_PX, Pictures, draw_picture
from millrace_models.parts_recipe import SPLITS
from millrace_models.parts_scores import score, wilson_interval

FRESH_SEED = 77001
FRESH_COUNT = 400


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((bundle_path("parts") / "manifest.yaml").read_text(encoding="utf-8"))
    return parsed


@pytest.fixture(scope="module")
def model(manifest: dict[str, Any]) -> bytes:
    return (bundle_path("parts") / manifest["file"]).read_bytes()


def test_the_file_is_the_one_that_the_manifest_and_the_card_name(manifest: dict[str, Any], model: bytes) -> None:
    digest = hashlib.sha256(model).hexdigest()
    assert manifest["sha256"] == digest
    assert digest in (bundle_path("parts") / "CARD.md").read_text(encoding="utf-8")


def test_the_model_is_small(model: bytes) -> None:
    assert len(model) <= 500_000


def test_the_manifest_tells_what_the_pictures_were_made_for(manifest: dict[str, Any]) -> None:
    assert manifest["labels"] == list(LABELS)
    assert manifest["ok_labels"] == ["ok"]
    assert (manifest["input"]["width"], manifest["input"]["height"]) == (SIDE_PX, SIDE_PX)


def test_fresh_parts_through_jpeg_get_the_right_class(manifest: dict[str, Any], model: bytes) -> None:
    assert FRESH_SEED not in {seed for seed, _ in SPLITS.values()}
    pixels = np.stack([draw_picture(FRESH_SEED, index) for index in range(FRESH_COUNT)])
    fresh = Pictures(pixels, np.arange(FRESH_COUNT) % len(LABELS))
    scores = score(model, fresh, manifest["threshold"])
    assert scores.count == FRESH_COUNT
    assert scores.accuracy >= 0.97
    assert min(scores.recalls) >= 0.93


def test_the_splits_share_no_seed() -> None:
    seeds = [seed for seed, _ in SPLITS.values()]
    assert len(set(seeds)) == len(seeds)


def test_a_picture_is_the_same_each_time_it_is_drawn() -> None:
    assert np.array_equal(draw_picture(FRESH_SEED, 3), draw_picture(FRESH_SEED, 3))
    assert not np.array_equal(draw_picture(FRESH_SEED, 3), draw_picture(FRESH_SEED, 7))


def test_wilson_interval_is_the_known_one() -> None:
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(10, 10)[1] == pytest.approx(1.0)


def test_an_unknown_bundle_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownBundle, match=r"'gears'; known are: .*parts"):
        bundle_path("gears")
