"""Each runtime through the whole pipeline against its own bare limit: LiteRT and ONNX Runtime."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from bench import frames
from bench.bare import litert, onnx
from bench.measures import Measure
from bench.models import DATA, Bench, bundle, main_model
from bench.native import LeftOut
from bench.profile import Profile

MEAN, STD = 127.0, 128.0  # as the face detector's own code has them
FACES = {
    "name": "faces",
    "task": "detection",
    "input": {"width": 320, "height": 240, "layout": "NCHW", "mean": MEAN, "std": STD},
    "output": {"style": "boxes_scores", "score_threshold": 0.7},
    "labels": ["face"],
}


def measures(home: Path, profile: Profile, left_out: list[str]) -> list[Measure]:
    """Return frames/s of each by its limit on the share that is left."""
    main = main_model(home / "models")
    found = [frames.by_runtime(home / "litert", profile, main, partial(litert, main.model), "LiteRT")]
    model = DATA / "models" / "version-RFB-320.onnx"
    try:
        faces = Bench(bundle(home / "models" / "faces", model, FACES), model, "face detector RFB-320")
    except LeftOut as reason:
        left_out.append(f"ONNX Runtime: {reason}")
    else:
        make = partial(onnx, model, MEAN, STD)
        found.append(frames.by_runtime(home / "onnx", profile, faces, make, "ONNX Runtime"))
    return found
