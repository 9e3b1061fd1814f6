"""What a model takes and gives in the Open Inference Protocol's words, and whether a request fits it. No I/O here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from edge_gateway.engines.engine import TensorInfo
from edge_gateway.models import Description
from edge_gateway.web.datatypes import BYTES, NAMES

PICTURE = "image"
PLATFORMS = {".tflite": "tensorflow_tflite", ".onnx": "onnx_onnxv1"}
FRAME_BYTES = 64 << 10  # what a request is beside its numbers: names, parameters, spaces
NUMBER_BYTES = 32
MAX_SIDES = 16


class BadRequest(ValueError):
    """A request that is not the protocol's, or does not fit the model; the message says what."""


@dataclass(frozen=True, slots=True)
class Signature:
    """One model as its callers see it."""

    name: str
    version: str
    platform: str
    input: TensorInfo
    outputs: tuple[TensorInfo, ...]

    def metadata(self) -> dict[str, Any]:
        """Return the protocol's description of the model."""
        return {
            "name": self.name,
            "versions": [self.version],
            "platform": self.platform,
            "inputs": [_metadata(self.input)],
            "outputs": [_metadata(output) for output in self.outputs],
        }

    def is_picture(self, name: object, datatype: object, shape: Sequence[int]) -> bool:
        """Say whether an input is a picture to be prepared, or else the model's own tensor. Errors: BadRequest."""
        if len(shape) > MAX_SIDES:
            raise BadRequest(f"a shape of {len(shape)} sides; at most {MAX_SIDES}")
        if (name, datatype) == (PICTURE, BYTES):
            if math.prod(shape) != 1:
                raise BadRequest(f"input {PICTURE!r} of BYTES holds one picture, shape [1]; got {list(shape)}")
            return True
        wanted = self.input
        if name != wanted.name:
            raise BadRequest(
                f"model {self.name} takes the input {wanted.name!r}, or {PICTURE!r} of BYTES; got {name!r:.80}"
            )
        if datatype != NAMES[wanted.dtype]:
            raise BadRequest(f"input {name!r} is of {NAMES[wanted.dtype]}; got {datatype!r:.80}")
        if tuple(shape) != wanted.shape:
            raise BadRequest(f"input {name!r} has the shape {list(wanted.shape)}; got {list(shape)}")
        return False

    def output(self, name: object) -> int:
        """Return which output has a name. Errors: BadRequest."""
        for place, output in enumerate(self.outputs):
            if output.name == name:
                return place
        known = ", ".join(repr(output.name) for output in self.outputs)
        raise BadRequest(f"model {self.name} gives {known}; got {name!r:.80}")

    def places(self, names: Sequence[object]) -> list[int]:
        """Return which outputs have these names, each named once at most; all of them for none. Errors: BadRequest."""
        if len(names) > len(self.outputs):
            raise BadRequest(f"{len(names)} outputs are wanted; model {self.name} has {len(self.outputs)}")
        return [self.output(name) for name in names] or list(range(len(self.outputs)))

    def max_values(self) -> int:
        """Return how many values a request in JSON has at most, its lists and objects counted."""
        return 3 * math.prod(self.input.shape) + 1000

    def max_bytes(self, max_picture_bytes: int) -> int:
        """Return how many bytes a request has at most, whatever its form."""
        return FRAME_BYTES + max(NUMBER_BYTES * math.prod(self.input.shape), max_picture_bytes * 4 // 3)


def signature_of(described: Description) -> Signature:
    """Return a model's signature."""
    manifest = described.bundle.manifest
    platform = PLATFORMS.get(PurePath(manifest.file).suffix, "millrace")
    return Signature(manifest.name, str(manifest.version), platform, described.input, described.outputs)


def _metadata(tensor: TensorInfo) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": NAMES[tensor.dtype], "shape": list(tensor.shape)}
