"""What a bundle's manifest says of a model that takes windows of readings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from millrace.settings import Section

MAX_SAMPLES = 1 << 16
MAX_VALUES = 64

ValueNames = Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=MAX_VALUES)]


class WindowSettings(Section):
    """The window of readings that the model sees: (1, samples, values), or what `layout` says.

    Real value = (value - mean) / std, one number for all values or a list with one for each; quantized by the model's
    own scale and zero point.
    """

    kind: Literal["window"] = Field(description="A window of readings of one channel, or of samples of a waveform.")
    values: Annotated[int, Field(ge=1, le=MAX_VALUES)] | ValueNames = Field(
        description="How many numbers a reading has, taken in the order of their names; or the names to take."
    )
    rate_hz: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Samples per second that it was trained on; a waveform of another rate is left out."
    )
    samples: Annotated[int, Field(ge=2, le=MAX_SAMPLES)] = Field(description="Readings in a window.")
    hop: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] = Field(description="Readings from one window to the next.")
    layout: Literal["NWC", "NCW"] = Field(
        "NWC", description="Order of the dimensions: NWC (samples, values) as TensorFlow has it, NCW as PyTorch has it."
    )
    mean: float | list[float] = Field(0.0, description="Subtracted from each value.")
    std: float | list[float] = Field(1.0, description="Divides each value after that.")

    @property
    def numbers(self) -> int:
        """How many numbers a reading gives."""
        return self.values if isinstance(self.values, int) else len(self.values)

    @model_validator(mode="after")
    def _numbers_for_each_value(self) -> WindowSettings:
        for key, numbers in (("mean", self.mean), ("std", self.std)):
            if isinstance(numbers, list) and len(numbers) != self.numbers:
                raise ValueError(f"{key}: one number, or {self.numbers} for values: {self.values}; not {len(numbers)}")
        if min(self.std if isinstance(self.std, list) else [self.std]) <= 0:
            raise ValueError("std: must be greater than 0")
        if isinstance(self.values, list) and len(set(self.values)) < len(self.values):
            raise ValueError("values: a name stands twice")
        return self
