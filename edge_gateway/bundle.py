"""A model is a folder: the model file, and a manifest that says what goes in and what comes out, with the digest."""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag, model_validator

from edge_gateway.window_input import WindowSettings
from millrace import jsontext
from millrace.settings import ConfigError, Section, load

MANIFEST = "manifest.yaml"
MAX_MODEL_BYTES = 512 << 20
MAX_LABEL_CHARS = 128
MAX_DETECTIONS = 100
MAX_GOLDEN = 32
MAX_GOLDEN_BYTES = 4 << 20
NOTHING = "nothing"
"""The label of a picture in which a detector finds nothing."""

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
BoxStyle = Literal["ssd", "boxes_scores", "yolo", "fastestdet"]


class InputSettings(Section):
    """The picture that it sees: real value = (pixel - mean) / std, quantized by the model's own scale and zero point.

    `mean` and `std` are one number, or a list with one for each colour in the order of `color`.
    """

    kind: Literal["picture"] = Field("picture", description="A picture; another kind is `window`.")
    width: Annotated[int, Field(ge=1, le=4096)] = Field(description="Width in pixels.")
    height: Annotated[int, Field(ge=1, le=4096)] = Field(description="Height in pixels.")
    layout: Literal["NHWC", "NCHW"] = Field(
        "NHWC", description="Order of the dimensions: NHWC as TensorFlow has it, NCHW as PyTorch has it."
    )
    color: Literal["RGB", "BGR", "GRAY"] = Field("RGB", description="Order of the colours.")
    resize: Literal["stretch", "center_crop"] = Field(
        "stretch", description="stretch: the whole picture; center_crop: its middle, sides in proportion."
    )
    mean: float | list[float] = Field(0.0, description="Subtracted from each pixel (0 to 255).")
    std: float | list[float] = Field(255.0, description="Divides each pixel after that.")

    @property
    def colors(self) -> int:
        """How many numbers a pixel has."""
        return 1 if self.color == "GRAY" else 3

    @model_validator(mode="after")
    def _numbers_for_each_color(self) -> InputSettings:
        for key, numbers in (("mean", self.mean), ("std", self.std)):
            if isinstance(numbers, list) and len(numbers) != self.colors:
                raise ValueError(f"{key}: one number, or {self.colors} for color: {self.color}; not {len(numbers)}")
        if min(self.std if isinstance(self.std, list) else [self.std]) <= 0:
            raise ValueError("std: must be greater than 0")
        return self


def _kind_of_input(value: Any) -> str:
    return str(value.get("kind", "picture") if isinstance(value, dict) else getattr(value, "kind", "picture"))


InputKind = Annotated[
    Annotated[InputSettings, Tag("picture")] | Annotated[WindowSettings, Tag("window")],
    Discriminator(
        _kind_of_input, custom_error_type="kind", custom_error_message="kind: must be one of picture, window"
    ),
]


class OutputSettings(Section):
    """What the model gives."""

    activation: Literal["softmax", "logits"] = Field(
        "softmax", description="softmax: scores already; logits: the gateway makes scores of them."
    )
    limit: float = Field(0.5, description="Number from which the second label holds; for task: score.")
    style: BoxStyle | None = Field(None, description="How a detector writes down its boxes; needed for one.")
    coordinates: Literal["ratios", "pixels"] = Field(
        "ratios", description="What raw boxes (boxes_scores, yolo) are given in: ratios or pixels of the input."
    )
    score_threshold: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="Score from which a detector's box counts as found."
    )
    iou_threshold: Annotated[float, Field(ge=0, le=1)] = Field(
        0.45, description="Of two boxes of a label that overlap by more than this, the better one is kept."
    )
    max_detections: Annotated[int, Field(ge=1, le=MAX_DETECTIONS)] = Field(
        20, description="Most boxes in a result, the best first."
    )


class GoldenInput(Section):
    """A picture in the bundle, and what the model is to say of it."""

    file: FileName = Field(description="JPEG, PNG or WebP in this folder.")
    label: str = Field(description="The label that the model must give.")


class Manifest(Section):
    """The manifest.yaml of a bundle."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")] = Field(description="Name of the model.")
    version: Annotated[int, Field(ge=1)] = Field(description="Version; a later one is greater.")
    task: Literal["classification", "detection", "score"] = Field("classification", description="What the model does.")
    file: FileName = Field("model.tflite", description="The model's file in this folder: .tflite, .onnx or .npz.")
    sha256: Digest = Field(description="SHA-256 of the model's file.")
    edgetpu_file: FileName | None = Field(
        None,
        description="The same model compiled for the Edge TPU, in this folder; file stands in where there is none.",
    )
    edgetpu_sha256: Digest | None = Field(None, description="SHA-256 of edgetpu_file.")
    input: InputKind = Field(description="What goes in.")
    quantization: Literal["full_integer", "none"] | None = Field(
        None,
        description="full_integer: input and output are 8-bit integers; none: floating point. Given, it is checked.",
    )
    output: OutputSettings = Field(OutputSettings(), description="What comes out.")
    labels: list[str] | None = Field(None, description="Labels in the order of the outputs.")
    labels_file: FileName | None = Field(
        None, description="File in this folder with one label a line, instead of labels."
    )
    ok_labels: list[str] = Field([], description="Labels of good parts; every other is a defect. Empty: no defects.")
    threshold: Annotated[float, Field(ge=0, le=1)] = Field(0.5, description="Score below which an answer is not sure.")
    golden: Annotated[list[GoldenInput], Field(max_length=MAX_GOLDEN)] = Field(
        [], description="Pictures with the label that the model must give, or it does not serve."
    )
    licence: str = Field(description="Licence of the weights.")
    source: str = Field("", description="Where the weights come from.")

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Manifest:
        if (self.labels is None) == (self.labels_file is None):
            raise ValueError("give either labels or labels_file")
        if self.task == "detection" and self.output.style is None:
            raise ValueError(f"task: detection needs output.style, one of {', '.join(get_args(BoxStyle))}")
        if self.task == "detection" and self.output.activation != "softmax":
            raise ValueError("output.activation is for task: classification; a detector's outputs are scores")
        if self.task != "detection" and self.output.style is not None:
            raise ValueError("output.style is for task: detection")
        return self

    @model_validator(mode="after")
    def _is_for_windows(self) -> Manifest:
        if isinstance(self.input, WindowSettings):
            if self.task == "detection":
                raise ValueError("input.kind: window is for task: classification or score; a detector takes pictures")
            if self.golden:
                raise ValueError("golden: holds pictures, and the model takes windows of readings: leave it out")
        return self

    @property
    def picture(self) -> InputSettings:
        """The picture that it takes. Errors: ConfigError for a model that takes windows of readings."""
        if isinstance(self.input, WindowSettings):
            raise ConfigError([f"model {self.name}: takes windows of readings, and here pictures are given"])
        return self.input

    @model_validator(mode="after")
    def _both_of_the_edgetpu(self) -> Manifest:
        if (self.edgetpu_file is None) != (self.edgetpu_sha256 is None):
            raise ValueError("give edgetpu_file and edgetpu_sha256, or neither")
        return self


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was read and whose digests hold."""

    folder: Path
    manifest: Manifest
    model: bytes
    labels: tuple[str, ...]
    edgetpu_model: bytes | None = None
    golden: tuple[tuple[GoldenInput, bytes], ...] = ()
    """Pictures that it must know."""

    @property
    def name(self) -> str:
        """Name and version as results show them."""
        return f"{self.manifest.name}@{self.manifest.version}"

    @property
    def digest(self) -> str:
        """The SHA-256 of all that it says; the manifest holds the digests of the models."""
        said = self.manifest.model_dump(mode="json")
        return hashlib.sha256(jsontext.dump([said, list(self.labels)])).hexdigest()

    @property
    def size_bytes(self) -> int:
        """How many bytes of its files are held."""
        return sum(map(len, [self.model, self.edgetpu_model or b"", *(picture for _, picture in self.golden)]))

    def content(self, file: str) -> bytes:
        """Return the bytes of one of its model files, by the name that the manifest gives it."""
        return (
            self.edgetpu_model if self.edgetpu_model is not None and file == self.manifest.edgetpu_file else self.model
        )

    def is_defect(self, label: str) -> bool:
        """Say whether a label means a defect."""
        return bool(self.manifest.ok_labels) and label not in self.manifest.ok_labels


def load_bundle(folder: Path) -> Bundle:
    """Return the bundle in `folder`; ConfigError says what does not fit, where, and what to do."""
    path, manifest = folder / MANIFEST, _manifest(folder)
    model = _checked(path, manifest.file, "sha256", manifest.sha256)
    edgetpu_model = None
    if manifest.edgetpu_file is not None:
        edgetpu_model = _checked(path, manifest.edgetpu_file, "edgetpu_sha256", str(manifest.edgetpu_sha256))
    labels = manifest.labels if manifest.labels is not None else _read_labels(folder / str(manifest.labels_file))
    if not labels or not all(0 < len(label) <= MAX_LABEL_CHARS for label in labels):
        raise ConfigError([f"{path}: labels: one for each output, 1 to {MAX_LABEL_CHARS} characters each"])
    nothing = [NOTHING] if manifest.task == "detection" else []
    if nothing and NOTHING in labels:
        raise ConfigError([f"{path}: labels: {NOTHING!r} is what a picture without any is called: name it otherwise"])
    if manifest.task == "score" and len(labels) != 2:
        raise ConfigError(
            [f"{path}: labels: two for task: score, below output.limit and from it on; not {len(labels)}"]
        )
    unknown = [label for label in manifest.ok_labels if label not in [*labels, *nothing]]
    if unknown:
        raise ConfigError([f"{path}: ok_labels: {unknown[0]!r} is none of the labels"])
    golden = tuple((each, _read(folder / each.file, MAX_GOLDEN_BYTES)) for each in manifest.golden)
    return Bundle(folder, manifest, model, tuple(labels), edgetpu_model, golden)


def weights_bytes(folder: Path) -> int:
    """Return how large a bundle's model files are, unread; 0 if one is not there. Errors: ConfigError."""
    manifest = _manifest(folder)
    files = {folder / file for file in (manifest.file, manifest.edgetpu_file) if file is not None}
    try:
        return sum(file.stat().st_size for file in files)
    except OSError:  # said by who reads it
        return 0


def _manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        said = f"no {MANIFEST} there; see docs/models.md for what a bundle holds"
        raise ConfigError([f"models: bundle {folder}: {said}"]) from None
    except (OSError, ValueError) as error:  # others' folders, names that are too long, and what is no name
        raise ConfigError([f"models: bundle {str(folder)!r:.200}: cannot be read here: {error}"]) from None
    if not is_file:
        raise ConfigError([f"models: bundle {folder}: {MANIFEST} is no file"])
    return load(path, Manifest)


def _checked(manifest: Path, file: str, key: str, wanted: str) -> bytes:
    """Return a model's file if it has the digest that the manifest says under `key`."""
    content = _read(manifest.parent / file, MAX_MODEL_BYTES)
    found = hashlib.sha256(content).hexdigest()
    if found != wanted:
        raise ConfigError([f"{manifest}: {key}: {file} has {found}; it was changed or half copied: copy it again"])
    return content


def _read(file: Path, max_bytes: int) -> bytes:
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise ConfigError([f"{file}: is no file"])
        if file.stat().st_size > max_bytes:
            raise ConfigError([f"{file}: larger than {max_bytes} bytes"])
        return file.read_bytes()
    except OSError as error:
        raise ConfigError([f"{file}: cannot read: {error.strerror}"]) from None


def _read_labels(file: Path) -> list[str]:
    try:
        text = _read(file, 1 << 20).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError([f"{file}: labels are UTF-8, one a line; byte {error.start} is not"]) from None
    return [line.strip() for line in text.splitlines() if line.strip()]
