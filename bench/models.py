"""What the bench infers with: MobileNetV2 where ../shared/data is at hand, else the shipped model."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.native import LeftOut
from millrace.demo.stage import shipped_bundle

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
MOBILENET = DATA / "models" / "tf2_mobilenet_v2_1.0_224_ptq.tflite"


@dataclass(frozen=True, slots=True)
class Bench:
    """A bundle, its model's file, and how rows call it."""

    bundle: Path
    model: Path
    name: str


def main_model(home: Path) -> Bench:
    """Return what frames are measured with."""
    if not MOBILENET.exists():
        folder = shipped_bundle("parts")
        return Bench(folder, folder / "model.tflite", "the shipped model parts (no ../shared/data here)")
    manifest = {
        "name": "mobilenet-v2",
        # as pixels are: the model's scale is 1 / 127.5, its zero point 127
        "input": {"width": 224, "height": 224, "mean": 127.0, "std": 127.5},
        "labels_file": "imagenet_labels.txt",
    }
    folder = bundle(home / "mobilenet", MOBILENET, manifest, DATA / "models" / "imagenet_labels.txt")
    return Bench(folder, MOBILENET, "MobileNetV2 224 INT8")


def bundle(folder: Path, model: Path, manifest: dict[str, Any], *beside: Path) -> Path:
    """Make a bundle of a model of others; return its folder. Errors: LeftOut where it is not here."""
    if not model.exists():
        raise LeftOut(f"no {model.name} at ../shared/data")
    folder.mkdir(parents=True)
    for file in (model, *beside):
        shutil.copy(file, folder)
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    whole = {"version": 1, "file": model.name, "sha256": digest, "licence": "Apache-2.0", **manifest}
    (folder / "manifest.yaml").write_text(yaml.safe_dump(whole), encoding="utf-8")
    return folder
