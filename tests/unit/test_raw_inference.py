"""Bare inference: a tensor in, all outputs out, on the threads of the workers."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_gateway.engines.engine import Tensor
from edge_gateway.metrics import Metrics
from edge_gateway.models import Models, Replaced
from edge_gateway.settings import ModelSettings
from edge_gateway.web.raw_inference import RawInference, UnknownModel
from edge_gateway.web.room import Share
from edge_gateway.workers import Workers
from millrace.images import BadPicture
from millrace_models import bundle_path

PICTURE = bytes(cv2.imencode(".png", np.full((96, 96, 3), 128, np.uint8))[1].tobytes())


class Watched(Models):
    """Models that remember which threads inferred."""

    threads: set[str]

    def infer_raw(self, place: int, name: str, given: Tensor | bytes) -> tuple[Tensor, ...]:
        self.threads.add(threading.current_thread().name)
        return super().infer_raw(place, name, given)


@pytest.fixture(scope="module")
def models() -> Watched:
    models = Watched([ModelSettings(bundle=bundle_path("parts"))], 1_000_000)
    models.threads = set()
    return models


@pytest.fixture(scope="module")
def workers(models: Models) -> Iterator[Workers]:
    workers = Workers(models, 1)
    yield workers
    workers.close()


def test_a_model_says_what_goes_in_and_what_comes_out(models: Models) -> None:
    (said,) = models.describe()
    assert said.bundle.name == "parts@1"
    assert (said.input.shape, said.input.dtype) == ((1, 96, 96, 3), np.uint8)
    assert [output.shape for output in said.outputs] == [(1, len(said.bundle.labels))]


def test_a_model_is_described_with_every_version_that_serves(tmp_path: Path) -> None:
    shutil.copytree(bundle_path("parts"), tmp_path / "parts-10")
    manifest = tmp_path / "parts-10" / "manifest.yaml"
    manifest.write_text(manifest.read_text().replace("version: 1\n", "version: 10\n"))
    bound = [ModelSettings(bundle=tmp_path / "parts-10"), *[ModelSettings(bundle=bundle_path("parts"))] * 2]
    models = Models(bound, 1_000_000)
    inference = RawInference(models, Workers(models, 1), Share(1), Metrics(), lambda: True)
    assert [inference.describe("parts", version)["versions"] for version in (None, "1", "10")] == [["1", "10"]] * 3
    assert [inference.find("parts", version)[0] for version in (None, "1", "10")] == [0, 1, 0]
    with pytest.raises(UnknownModel, match="model 'parts' has the versions"):
        inference.describe("parts", "2")


def test_a_tensor_and_its_picture_give_the_same_on_a_thread_of_the_workers(models: Watched, workers: Workers) -> None:
    (from_picture,) = workers.ask(0, "parts@1", PICTURE).result(60)
    (said,) = models.describe()
    tensor = np.full(said.input.shape, 128, np.uint8)  # this model takes the pixels as they are
    (from_tensor,) = workers.ask(0, "parts@1", tensor).result(60)
    assert (from_picture.dtype, from_picture.shape) == (said.outputs[0].dtype, said.outputs[0].shape)
    assert (from_picture == from_tensor).all()
    assert {name.rpartition("_")[0] for name in models.threads} == {"worker"}


def test_what_is_no_picture_is_said_to_who_asked(workers: Workers) -> None:
    with pytest.raises(BadPicture, match="not a JPEG, PNG or WebP"):
        workers.ask(0, "parts@1", b"hello").result(60)


def test_who_asks_for_a_model_that_serves_no_more_is_told_so(models: Models, workers: Workers) -> None:
    tensor = np.zeros(models.describe()[0].input.shape, np.uint8)
    with pytest.raises(Replaced, match="model parts@0 was replaced meanwhile"):
        workers.ask(0, "parts@0", tensor).result(60)
