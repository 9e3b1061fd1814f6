"""`millrace engines` as a person or a script runs it: what is installed, and real ways to run real bundles."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unit import dense_models

from millrace_models import bundle_path

TESTS = Path(__file__).resolve().parents[1]


def engines(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "millrace", "engines", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def bundle(folder: Path, file: str, content: bytes, edgetpu: bytes | None = None) -> Path:
    """Write a bundle with a dense model, and with another one for the Edge TPU if that is given."""
    folder.mkdir()
    (folder / file).write_bytes(content)
    lines = ["name: dense", "version: 1", f"file: {file}", f"sha256: {hashlib.sha256(content).hexdigest()}"]
    if edgetpu is not None:
        (folder / "e.tflite").write_bytes(edgetpu)
        lines += ["edgetpu_file: e.tflite", f"edgetpu_sha256: {hashlib.sha256(edgetpu).hexdigest()}"]
    lines += ["input: {width: 2, height: 3}", "labels: [a, b, c, d, e]", "licence: Apache-2.0"]
    (folder / "manifest.yaml").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler here")
    built = tmp_path_factory.mktemp("delegate") / "libplain_delegate.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", built, TESTS / "unit" / "plain_delegate.c"], check=True)
    return built


def ways(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    (shown,) = json.loads(done.stdout)
    return {way["engine"]: way for way in shown["ways"]}


def test_without_a_bundle_it_says_what_is_installed_and_what_is_not() -> None:
    done = engines("--json")
    assert done.returncode == 0, done.stderr
    found = {one["engine"]: one for one in json.loads(done.stdout)}
    assert found["litert"]["works"]
    assert found["litert"]["said"].startswith("ai-edge-litert 2.")
    assert found["onnx"]["said"].endswith("on CPU") or "CUDA" in found["onnx"]["said"]
    assert found["reference"]["works"]
    assert found["edgetpu"]["works"] or "libedgetpu.so.1 is not installed" in found["edgetpu"]["said"]


def test_every_way_is_tried_and_timed_or_said_why_not(tmp_path: Path, library: Path) -> None:
    folder = bundle(tmp_path / "b", "dense.tflite", dense_models.tflite(), dense_models.tflite())
    refusing = f"{library},device=usb:7,refuse=yes"
    done = engines(folder, "--json", "--seconds", 0, "--delegate", library, "--delegate", refusing)
    assert done.returncode == 0, done.stderr
    found = ways(done)
    assert next(iter(found)) == "litert on CPU"
    assert found["litert on CPU"]["median_ms"] > 0
    assert found["litert on libplain_delegate.so"]["median_ms"] > 0
    refused = found["litert on libplain_delegate.so,device=usb:7,refuse=yes"]
    assert (refused["works"], refused["median_ms"]) == (False, None)
    assert refused["said"].endswith("refuses: asked for device=usb:7 refuse=yes")


def test_an_accelerator_that_does_not_give_what_the_cpu_gives_does_not_work(tmp_path: Path, library: Path) -> None:
    """`file` and `edgetpu_file` are two models here; the second goes through a delegate of our own."""
    program = f"""
from pathlib import Path
from edge_gateway.bundle import load_bundle
from edge_gateway.engines.isolated import Deadlines
from edge_gateway.engines.opening import Choice, Delegate
from edge_gateway.engines.trial import trials
ways = (Choice("litert", "dense.tflite"), Choice("litert", "e.tflite", delegate=Delegate({str(library)!r})))
for folder in ("b", "c"):
    for one in trials(load_bundle(Path(folder)), ways, Deadlines(30.0, 5.0), 0.1, 0.0):
        print(one.median_ms is not None, one.said)
"""
    other = dense_models.tflite(weights=dense_models.WEIGHTS + np.float32(1))
    bundle(tmp_path / "b", "dense.tflite", dense_models.tflite(), other)
    parts = (bundle_path("parts") / "model.tflite").read_bytes()
    bundle(tmp_path / "c", "dense.tflite", dense_models.tflite(), parts)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    right, wrong, right_too, unlike = done.stdout.splitlines()
    assert right.startswith("True"), done.stderr
    assert right_too.startswith("True")
    assert unlike == "False its tensors are not those of its twin on the CPU"
    assert wrong.startswith("False output 0 is ")
    assert "away from its twin's for golden input 0" in wrong


def test_a_bundle_that_runs_on_nothing_here_is_shown_and_ends_with_1(tmp_path: Path) -> None:
    good = bundle(tmp_path / "good", "dense.npz", dense_models.npz())
    bad = bundle(tmp_path / "bad", "dense.tflite", dense_models.tflite(custom="FlexErf"))
    done = engines(good, bad, "--seconds", 0)
    assert done.returncode == 1
    first, second = done.stdout.split("\n\n")
    assert first.splitlines()[0] == "dense@1: the bundle holds dense.npz"
    assert [line.split()[0] for line in first.splitlines()[1:]] == ["engine", "reference"]
    assert first.rstrip().endswith(" ms  chosen")
    assert "litert on CPU  no     -       chosen; LiteRT refuses it: Select TensorFlow op(s)" in second


def test_what_is_no_bundle_or_no_delegate_is_said_before_anything_is_tried(tmp_path: Path) -> None:
    done = engines(tmp_path)
    assert (done.returncode, done.stdout) == (78, "")
    assert "no manifest.yaml there" in done.stderr
    done = engines(bundle(tmp_path / "b", "dense.npz", dense_models.npz()), "--delegate", "libx.so,fast")
    assert done.returncode == 2
    assert "give LIBRARY, or LIBRARY,KEY=VALUE" in done.stderr
