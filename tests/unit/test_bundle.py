"""A bundle is taken only if file, digest, labels and manifest agree, and what is wrong is said in one line."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_gateway.bundle import MAX_LABEL_CHARS, Bundle, load_bundle
from edge_gateway.engines.engine import EngineFailed
from edge_gateway.models import Models
from edge_gateway.settings import ModelSettings
from millrace.settings import ConfigError
from millrace_models import bundle_path

MODEL = b"a model"
MANIFEST = {
    "name": "parts",
    "version": "3",
    "sha256": hashlib.sha256(MODEL).hexdigest(),
    "input": "{width: 8, height: 8}",
    "labels": "[ok, scratch]",
    "ok_labels": "[ok]",
    "licence": "Apache-2.0",
}
WINDOW = "{kind: window, values: 1, samples: 8, hop: 4}"
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that writes a bundle with some keys of its manifest changed; None leaves a key out."""

    def write(**changed: str | None) -> Path:
        (tmp_path / "model.tflite").write_bytes(MODEL)
        values = {name: value for name, value in (MANIFEST | changed).items() if value is not None}
        (tmp_path / "manifest.yaml").write_text("".join(f"{name}: {value}\n" for name, value in values.items()))
        return tmp_path

    return write


def refusal(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_bundle(folder)
    (problem,) = caught.value.problems
    return problem


def test_a_bundle_is_named_by_name_and_version(make: Make) -> None:
    bundle = load_bundle(make())
    assert (bundle.name, bundle.labels, bundle.model) == ("parts@3", ("ok", "scratch"), MODEL)


def test_a_label_that_is_not_ok_is_a_defect_but_only_where_ok_labels_are_given(make: Make) -> None:
    assert [load_bundle(make()).is_defect(label) for label in ("ok", "scratch")] == [False, True]
    assert not load_bundle(make(ok_labels=None)).is_defect("scratch")


def test_for_a_detector_nothing_is_a_label_that_may_be_ok(make: Make) -> None:
    bundle = load_bundle(make(task="detection", output="{style: yolo}", ok_labels="[nothing]"))
    assert [bundle.is_defect(label) for label in ("nothing", "ok")] == [False, True]


def test_a_model_that_was_changed_is_refused_with_both_the_digest_and_the_next_step(make: Make) -> None:
    folder = make()
    (folder / "model.tflite").write_bytes(MODEL + b"!")
    said = refusal(folder)
    assert hashlib.sha256(MODEL + b"!").hexdigest() in said
    assert "copy it again" in said


@pytest.mark.parametrize("name", ["model.tflite", "manifest.yaml"])
def test_a_pipe_in_a_files_place_is_refused_and_waits_for_nobody(make: Make, name: str) -> None:
    folder = make()
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert name in refusal(folder)
    assert "is no file" in refusal(folder)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"labels": None}, "give either labels or labels_file"),
        ({"labels_file": "labels.txt"}, "give either labels or labels_file"),
        ({"labels": None, "labels_file": "labels.txt"}, "labels.txt: cannot read: No such file"),
        ({"labels": "[]"}, "labels: one for each output"),
        ({"labels": f"[ok, {'x' * (MAX_LABEL_CHARS + 1)}]"}, "labels: one for each output"),
        ({"ok_labels": "[okay]"}, "ok_labels: 'okay' is none of the labels"),
        ({"file": "gone.tflite"}, "gone.tflite: cannot read: No such file"),
        ({"file": "../model.tflite"}, "file: String should match pattern"),
        ({"file": "/etc/passwd"}, "file: String should match pattern"),
        ({"labels": None, "labels_file": "../labels.txt"}, "labels_file: String should match pattern"),
        ({"sha256": "abc"}, "sha256: String should match pattern"),
        ({"version": "0"}, "version: Input should be greater than or equal to 1"),
        ({"licence": None}, "licence: is needed and not there"),
        ({"thresold": "0.5"}, 'unknown key (did you mean "threshold"?)'),
        ({"input": "{width: 8, height: 8, std: 0}"}, "input: std: must be greater than 0"),
        ({"input": "{width: 8, height: 8, std: [1, 0, 1]}"}, "input: std: must be greater than 0"),
        ({"input": "{width: 8, height: 8, mean: [1, 2]}"}, "mean: one number, or 3 for color: RGB; not 2"),
        ({"input": "{width: 8, height: 8, color: GRAY, mean: [1, 2, 3]}"}, "or 1 for color: GRAY; not 3"),
        ({"edgetpu_file": "e.tflite"}, "give edgetpu_file and edgetpu_sha256, or neither"),
        ({"edgetpu_file": "e.tflite", "edgetpu_sha256": "f" * 64}, "e.tflite: cannot read: No such file"),
        (
            {"edgetpu_file": "model.tflite", "edgetpu_sha256": "f" * 64},
            f"edgetpu_sha256: model.tflite has {hashlib.sha256(MODEL).hexdigest()}",
        ),
        ({"task": "detection"}, "task: detection needs output.style, one of ssd, boxes_scores, yolo, fastestdet"),
        ({"output": "{style: yolo}"}, "output.style is for task: detection"),
        ({"output": "{style: detr}", "task": "detection"}, "output.style: Input should be 'ssd', 'boxes_scores'"),
        ({"output": "{style: yolo, activation: logits}", "task": "detection"}, "is for task: classification"),
        ({"output": "{style: yolo, score_threshold: 0}", "task": "detection"}, "score_threshold: Input should be gr"),
        ({"output": "{style: yolo, max_detections: 101}", "task": "detection"}, "max_detections: Input should be les"),
        (
            {"output": "{style: yolo}", "task": "detection", "labels": "[ok, nothing]"},
            "labels: 'nothing' is what a pic",
        ),
        ({"ok_labels": "[nothing]"}, "ok_labels: 'nothing' is none of the labels"),
        ({"input": "{kind: film, width: 8, height: 8}"}, "input: kind: must be one of picture, window"),
        ({"input": "{kind: window, values: 1, samples: 8}"}, "input.hop: is needed and not there"),
        ({"input": "{kind: window, values: 1, samples: 8, hop: 0}"}, "input.hop: Input should be greater than or eq"),
        ({"input": "{kind: window, values: 1, samples: 8, hop: 4, width: 8}"}, "input.width: unknown key"),
        ({"input": "{kind: window, values: [x, x], samples: 8, hop: 4}"}, "values: a name stands twice"),
        ({"input": "{kind: window, values: 2, samples: 8, hop: 4, mean: [1]}"}, "mean: one number, or 2 for values: 2"),
        ({"input": "{kind: window, values: 1, samples: 8, hop: 4, std: 0}"}, "std: must be greater than 0"),
        (
            {"input": WINDOW, "task": "detection", "output": "{style: yolo}"},
            "input.kind: window is for task: classification or score",
        ),
        ({"input": WINDOW, "golden": "[{file: a.png, label: ok}]"}, "golden: holds pictures, and the model takes wind"),
        ({"task": "score", "labels": "[ok]"}, "labels: two for task: score"),
    ],
)
def test_a_bundle_that_does_not_fit_is_refused_in_words(make: Make, changed: dict[str, str | None], said: str) -> None:
    assert said in refusal(make(**changed))


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    assert "no manifest.yaml there; see docs/models.md" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "file/parts"], ids=["long", "no name", "no folder"])
def test_a_folder_that_cannot_be_looked_into_is_refused_in_words(tmp_path: Path, name: str) -> None:
    """Such as one of another user, which who runs the tests may look into."""
    (tmp_path / "file").touch()
    said = refusal(tmp_path / name)
    assert said.startswith(f"models: bundle '{tmp_path}")
    assert ": cannot be read here: " in said


@pytest.mark.parametrize("text", [b"ok\nscratch\n", b"\xef\xbb\xbfok\r\nscratch\r\n", b"ok \n\nscratch"])
def test_a_file_of_labels_may_come_from_any_editor(make: Make, text: bytes) -> None:
    (make() / "labels.txt").write_bytes(text)
    assert load_bundle(make(labels=None, labels_file="labels.txt")).labels == ("ok", "scratch")


def test_labels_that_are_not_utf8_are_refused_with_the_place(make: Make) -> None:
    (make() / "labels.txt").write_bytes(b"ok\nr\xe9ussi\n")
    assert "byte 4 is not" in refusal(make(labels=None, labels_file="labels.txt"))


def test_the_shipped_bundle_is_whole() -> None:
    bundle: Bundle = load_bundle(bundle_path("parts"))
    assert bundle.labels == ("ok", "scratch", "missing_screw", "stain")


def test_a_file_that_is_no_model_is_refused_by_name(make: Make) -> None:
    with pytest.raises(EngineFailed, match="model parts@3: LiteRT refuses it"):
        Models([ModelSettings(bundle=make())], 1000)


@pytest.mark.parametrize(
    ("was", "becomes", "said"),
    [
        ("labels: [ok, scratch, missing_screw, stain]", "labels: [ok, scratch]", "has 4 outputs and 2 labels"),
        ("width: 96", "width: 64", r"takes \(1, 96, 96, 3\), but its manifest says \(1, 96, 64, 3\)"),
        ("color: RGB", "color: GRAY", r"takes \(1, 96, 96, 3\), but its manifest says \(1, 96, 96, 1\)"),
    ],
)
def test_a_manifest_that_contradicts_its_model_is_refused(tmp_path: Path, was: str, becomes: str, said: str) -> None:
    shipped = bundle_path("parts")
    text = (shipped / "manifest.yaml").read_text()
    assert was in text
    (tmp_path / "manifest.yaml").write_text(text.replace(was, becomes))
    (tmp_path / "model.tflite").write_bytes((shipped / "model.tflite").read_bytes())
    with pytest.raises(EngineFailed, match=said):
        Models([ModelSettings(bundle=tmp_path)], 1000)
