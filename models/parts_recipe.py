"""Makes the parts model from nothing: renders, trains, quantizes, measures, and writes the bundle with its card.

Run `python -m millrace_models.parts_recipe --out models/parts`; it takes some minutes on two cores.
"""

from __future__ import annotations

import hashlib
import importlib
import platform
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from device_agent.sources.parts import LABELS
from millrace_models.parts_card import Run, card
from millrace_models.parts_pictures import SIDE_PX, Pictures, draw_pictures
from millrace_models.parts_scores import Scores, score

# Each split's seed and number of pictures.
SPLITS = {
    "train": (9100, 10000),
    "calibration": (9200, 400),
    "validation": (9300, 1000),
    "test": (9400, 4000),
}
THRESHOLD = 0.80
_SEED = 7
_EPOCHS = 12
_BATCH = 32
_LEARNING_RATE = 3e-3
# Filters and stride of each 3x3 convolution.
_LAYERS = ((12, 2), (32, 2), (32, 1), (48, 2), (64, 1))


class TrainingToolsMissing(click.ClickException):
    """TensorFlow is needed here and is not installed."""


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="folder of the bundle")
def main(out: Path) -> None:
    """Render, train, quantize, measure, and write model.tflite, manifest.yaml and CARD.md."""
    begin_s = time.monotonic()
    tf = _tensorflow()
    click.echo("rendering ...")
    pictures = {name: draw_pictures(seed, count) for name, (seed, count) in SPLITS.items()}
    network = _network(tf)
    validation_accuracy = _train(tf, network, pictures["train"], pictures["validation"])
    model = _quantized(tf, network, pictures["calibration"])
    test = score(model, pictures["test"], THRESHOLD)
    run = Run(
        splits=SPLITS,
        labels=LABELS,
        threshold=THRESHOLD,
        side_px=SIDE_PX,
        parameters=network.count_params(),
        model_bytes=len(model),
        sha256=hashlib.sha256(model).hexdigest(),
        validation_accuracy_float=validation_accuracy,
        test=test,
        tensorflow=tf.__version__,
        machine=platform.machine(),
        seconds=time.monotonic() - begin_s,
    )
    _write_bundle(out, model, run)
    click.echo(_summary(out, run, test))


def _tensorflow() -> Any:
    try:
        return importlib.import_module("tensorflow")
    except ModuleNotFoundError as error:
        raise TrainingToolsMissing(
            "training needs TensorFlow; run in a checkout of Millrace: pip install '.[train]'"
        ) from error


def _network(tf: Any) -> Any:
    """Return an untrained network: a few convolutions, then each filter's mean and strongest answer."""
    tf.keras.utils.set_random_seed(_SEED)
    tf.config.experimental.enable_op_determinism()
    layers = tf.keras.layers
    picture = layers.Input((SIDE_PX, SIDE_PX, 3))
    features = picture
    for filters, stride in _LAYERS:
        features = layers.Conv2D(filters, 3, strides=stride, padding="same", use_bias=False)(features)
        features = layers.BatchNormalization(momentum=0.9)(features)
        features = layers.ReLU(6.0)(features)
    # The mean gives every place a gradient, so training starts at all; the maximum finds a small defect anywhere.
    pooled = layers.Concatenate()([layers.GlobalAveragePooling2D()(features), layers.GlobalMaxPooling2D()(features)])
    return tf.keras.Model(picture, layers.Dense(len(LABELS), activation="softmax")(layers.Dropout(0.2)(pooled)))


def _train(tf: Any, network: Any, train: Pictures, validation: Pictures) -> float:
    """Train in place, keep the epoch which was best in validation, and return its accuracy there."""
    steps = -(-len(train.classes) // _BATCH)
    rate = tf.keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, steps * _EPOCHS)
    network.compile(tf.keras.optimizers.Adam(rate), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    best = tf.keras.callbacks.EarlyStopping("val_loss", patience=_EPOCHS, restore_best_weights=True)
    held_out = _batches(tf, validation)
    network.fit(
        _batches(tf, train, shuffled=True), validation_data=held_out, epochs=_EPOCHS, callbacks=[best], verbose=2
    )
    return float(network.evaluate(held_out, verbose=0)[1])


def _batches(tf: Any, pictures: Pictures, shuffled: bool = False) -> Any:
    data = tf.data.Dataset.from_tensor_slices((pictures.pixels, pictures.classes))
    if shuffled:
        data = data.shuffle(len(pictures.classes), seed=_SEED)
    return data.batch(_BATCH).map(lambda pixels, kind: (tf.cast(pixels, tf.float32) / 255.0, kind)).prefetch(2)


def _quantized(tf: Any, network: Any, calibration: Pictures) -> bytes:
    """Return the .tflite file, all of it in integers; a pixel's value is the input's quantized value."""
    converter = tf.lite.TFLiteConverter.from_keras_model(network)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: (
        [pixels[None].astype(np.float32) / np.float32(255)] for pixels in calibration.pixels
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.uint8
    return bytes(converter.convert())


def _write_bundle(out: Path, model: bytes, run: Run) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "model.tflite").write_bytes(model)
    (out / "CARD.md").write_text(card(run), encoding="utf-8")
    (out / "manifest.yaml").write_text(_manifest(run), encoding="utf-8")


def _manifest(run: Run) -> str:
    side = run.side_px
    return f"""name: parts
version: 1
task: classification
file: model.tflite
sha256: {run.sha256}
# real value = (pixel - mean) / std, then quantized by the model's own scale and zero point
input: {{width: {side}, height: {side}, layout: NHWC, color: RGB, resize: stretch, mean: 0.0, std: 255.0}}
quantization: full_integer
output: {{activation: softmax}}
labels: [{", ".join(run.labels)}]
ok_labels: [ok]
threshold: {run.threshold:.2f}
licence: Apache-2.0
source: millrace_models.parts_recipe
"""


def _summary(out: Path, run: Run, test: Scores) -> str:
    return (
        f"{out}: {test.accuracy:.2%} of {test.count} held-out pictures right, {run.model_bytes} bytes, "
        f"{test.invoke_ms:.2f} ms an invoke, made in {run.seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
