"""Each runtime through the whole pipeline against its own bare limit: LiteRT and ONNX Runtime."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from bench import frames
from bench.bare import litert
from bench.measures import Measure
from bench.models import main_model
from bench.profile import Profile


def measures(home: Path, profile: Profile) -> list[Measure]:
    """Return frames/s of each by its limit on the share that is left."""
    main = main_model(home / "models")
    return [frames.by_runtime(home / "litert", profile, main, partial(litert, main.model), "LiteRT")]
