"""What models say of pictures: equal ones cost one inference, and what is no picture is forgotten at once."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge_gateway.admission import Outcome
from edge_gateway.metrics import Metrics
from edge_gateway.models import Models
from edge_gateway.settings import ModelSettings
from millrace import images
from millrace_models import bundle_path

ATTRIBUTES = b'{"specversion":"1.0","id":"k3v9x0pa-%d"}'
NO_PICTURE = b"\xff\xd8\xff no picture"


def picture(shade: int) -> bytes:
    return bytes(cv2.imencode(".jpg", np.full((48, 64, 3), shade, np.uint8))[1].tobytes())


def asked(models: Models, payload: bytes, digest: str | None = None) -> Outcome:
    return models.infer(payload, [0], images.digest(payload) if digest is None else digest)


@pytest.fixture
def models() -> Models:
    return Models([ModelSettings(bundle=bundle_path("parts"))], 1_000_000, cache_bytes=1 << 20)


def test_an_equal_picture_costs_no_inference_whatever_attributes_it_carries(models: Models) -> None:
    first, again = (asked(models, images.embed(picture(90), ATTRIBUTES % number)) for number in (1, 2))
    ((prediction, threshold, infer_ms),) = first.predictions
    assert infer_ms is not None
    assert again.predictions == [(prediction, threshold, None)]
    assert (models.cache.hits, models.cache.misses) == (1, 1)


def test_what_the_cache_counts_is_among_the_metrics(models: Models) -> None:
    metrics = Metrics()
    metrics.show(models.cache)
    for _ in range(3):
        asked(models, picture(90))
    shown = metrics.text().decode().splitlines()
    assert {"millrace_cache_hits_total 2.0", "millrace_cache_misses_total 1.0"} <= set(shown)
    assert f"millrace_cache_bytes {models.cache.held_bytes:.1f}" in shown


def test_an_equal_picture_is_not_even_decoded(models: Models) -> None:
    first = asked(models, picture(90), "d1")
    assert asked(models, NO_PICTURE, "d1").predictions[0][0] == first.predictions[0][0]


def test_what_cannot_be_decoded_is_not_remembered(models: Models) -> None:
    assert asked(models, NO_PICTURE, "d1").malformed is not None
    (answer,) = asked(models, picture(90), "d1").predictions
    assert answer[2] is not None


def test_each_model_and_each_setting_of_it_has_answers_of_its_own() -> None:
    bundle = bundle_path("parts")
    settings = [ModelSettings(bundle=bundle, threshold=threshold) for threshold in (0.5, 0.9)]
    models = Models([*settings, ModelSettings(bundle=bundle, channels=["a/b"], threshold=0.5)], 1_000_000, 1, 1 << 20)
    outcome = models.infer(picture(90), [0, 1, 2], "d1")
    assert [infer_ms is None for _, _, infer_ms in outcome.predictions] == [False, False, True]
    assert [threshold for _, threshold, _ in outcome.predictions] == [0.5, 0.9, 0.5]
