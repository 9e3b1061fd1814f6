"""Writes the model card of the parts model from measured figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from millrace_models.parts_scores import Scores, wilson_interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the recipe: `splits` maps a name to its (seed, count); accuracies are ratios."""

    splits: Mapping[str, tuple[int, int]]
    labels: Sequence[str]
    threshold: float
    side_px: int
    parameters: int
    model_bytes: int
    sha256: str
    validation_accuracy_float: float
    test: Scores
    tensorflow: str
    machine: str
    seconds: float


def card(run: Run) -> str:
    """Return the card as Markdown."""
    test = run.test
    low, high = wilson_interval(int(np.trace(test.confusion)), test.count)
    sure = int(test.sure_confusion.sum())
    sure_accuracy = float(np.trace(test.sure_confusion)) / sure
    missed = int(test.sure_confusion[1:, 0].sum())
    splits = "\n".join(f"| {name} | {seed} | {count} |" for name, (seed, count) in run.splits.items())
    recalls = "\n".join(
        f"| {label} | {recall:.2%} | {int(row.sum())} |"
        for label, recall, row in zip(run.labels, test.recalls, test.confusion, strict=True)
    )
    return f"""# parts: is a machined part good?

One picture of one part on a belt in, one of four classes out: {", ".join(run.labels)}. Everything but `ok` is a
defect. The model is small and made for the rendered conveyor that comes with Millrace; it shows that the whole
chain works, from the picture to the answer. Every figure below was measured by the run that made the file.

## The file

| | |
| --- | --- |
| format | TensorFlow Lite, full-integer INT8, uint8 in, uint8 softmax out |
| input | {run.side_px} x {run.side_px} RGB, stretched |
| parameters | {run.parameters:,} |
| size | {run.model_bytes:,} bytes |
| SHA-256 | `{run.sha256}` |
| one invoke | {test.invoke_ms:.2f} ms, median of {test.count:,}, one thread, {run.machine} |
| licence | Apache-2.0 |

## Data

All pictures are rendered by `device_agent.sources.parts` at 640x480; no photograph, no person and no data of others
is in them. Place, turn, finish, belt, light, focus, noise and the defect itself vary. Each picture passes through
JPEG at a random quality from 60 to 95, and through the gateway's scaling. Each class is a quarter of each split. The
splits differ in their seeds, so no picture is in two of them. Calibration chose the quantization, validation the
epoch; the test split was used once, for the figures below.

| split | seed | pictures |
| --- | --- | --- |
{splits}

## Accuracy of the quantized model on the test split

**{test.accuracy:.2%}** of {test.count:,} (95 % interval {low:.2%} to {high:.2%}). Before quantization, on the
validation split: {run.validation_accuracy_float:.2%}.

| class | recall | pictures |
| --- | --- | --- |
{recalls}

With the threshold {run.threshold:.2f} of the manifest the model is sure of {sure / test.count:.2%} of the pictures, and
right in {sure_accuracy:.2%} of those. It was sure that a part is `ok` when it was not {missed} times.

Rows are what was there, columns what the model said:

{_confusion_table(run)}

## Limits

- It knows rendered parts of one drawing. On photographs of real parts its answers mean nothing: train your own.
- It knows one defect on a part, and one missing screw, not two.
- The part is whole in the picture, turned by up to 12 degrees; the light is 0.8 to 1.2 of nominal, 20 % uneven at most.
- It needs pictures of 4:3, and was measured at 640x480. A picture of 16:9 is stretched in another way, and most good
  parts in it are called scratched.
- Something that is no part still gets one of the four classes.

## Make it again

In a checkout of Millrace:

    pip install '.[train]'
    python -m millrace_models.parts_recipe --out parts

It took {run.seconds / 60:.0f} minutes with TensorFlow {run.tensorflow}. The seeds are fixed
and give the same pictures; the weights can differ a little between versions of TensorFlow and between processors.
"""


def _confusion_table(run: Run) -> str:
    head = f"| | {' | '.join(run.labels)} |\n|{' --- |' * (len(run.labels) + 1)}\n"
    rows = zip(run.labels, run.test.confusion, strict=True)
    return head + "\n".join(f"| **{label}** | {' | '.join(str(n) for n in row)} |" for label, row in rows)
