"""`make e2e`: the whole line at both brokers, and on real pictures and series; one table, build/e2e.json."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bench.measures import Measure, at_most, equal, report  # noqa: E402

DATA = ROOT.parent / "shared" / "data"
KNOWN_PICTURES = {"parrot.jpg": "macaw", "cat.bmp": "Egyptian cat", "grace_hopper.bmp": "military uniform"}


def main() -> None:
    """Run every variant; exit 1 if one does not hold."""
    brokers = ["embedded"]
    if shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin"):
        brokers.append("mosquitto")
    else:
        print("mosquitto is not here: the line runs on the embedded broker only")
    found: list[Measure] = []
    with tempfile.TemporaryDirectory(prefix="millrace-e2e-") as folder:
        home = Path(folder)
        for broker in brokers:
            found += _conveyor(broker)
        if DATA.is_dir():
            found += _surfaces(brokers[-1])
            found += _known_pictures(home, brokers[-1])
            found += _series(home, brokers[-1])
        else:
            print(f"no real data at {DATA}: left out")
    sys.exit(0 if report("e2e", found) else 1)


def _demo(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "millrace", "demo", "--json", "--headless", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        account: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:
        sys.exit(f"{' '.join(command)} gave no account (status {done.returncode}):\n{done.stdout}{done.stderr}")
    return account


def _whole(name: str, account: dict[str, Any]) -> list[Measure]:
    return [
        equal(f"{name}: lost", account["lost"], 0),
        equal(f"{name}: duplicated", account["duplicated"], 0),
        equal(f"{name}: in the cloud of {account['captured']} captured", account["cloud"], account["captured"]),
    ]


def _conveyor(broker: str) -> list[Measure]:
    account = _demo("--seconds", "30", "--broker", broker)
    name = f"conveyor, {broker}"
    return [
        *_whole(name, account),
        at_most(f"{name}: wrong answers, share", 1 - account["accuracy"], 0.03),
        at_most(f"{name}: s to drain a cut of {account['offline_s']:.0f} s", account["drain_s"] or 1e9, 10.0),
    ]


def _surfaces(broker: str) -> list[Measure]:
    """Send the steel surfaces through; the model was never taught them, so only the account counts."""
    return _whole(
        "X-SDD steel surfaces",
        _demo("--seconds", "40", "--broker", broker, "--frames", str(DATA / "surfaces" / "xsdd")),
    )


def _known_pictures(home: Path, broker: str) -> list[Measure]:
    bundle = foreign_bundle(home / "mobilenet", "mobilenet_v2_1.0_224_quant.tflite")
    kept = home / "known"
    account = _demo(
        "--seconds",
        "12",
        "--broker",
        broker,
        "--frames",
        str(DATA / "images"),
        "--model",
        str(bundle),
        "--keep",
        str(kept),
    )
    answers = answers_by_picture(kept)
    right = sum(answers.get(picture) == label for picture, label in KNOWN_PICTURES.items())
    return [
        *_whole("known pictures", account),
        equal(f"known pictures: right of {len(KNOWN_PICTURES)}", right, len(KNOWN_PICTURES)),
    ]


def _series(home: Path, broker: str) -> list[Measure]:
    account = _demo(
        "--seconds",
        "12",
        "--broker",
        broker,
        "--readings",
        str(DATA / "sensors" / "nab" / "machine_temperature_system_failure.csv"),
        "--waveform",
        str(DATA / "sensors" / "cwru" / "1797_ir_007.csv"),
    )
    return [
        *_whole("frames, readings, waveforms", account),
        equal("readings in the cloud", account["readings"], 500),
        equal("waveforms in the cloud", account["waveforms"] > 0, True),
    ]


def foreign_bundle(folder: Path, model_name: str) -> Path:
    """Return a bundle around a MobileNet of others: its manifest is written here."""
    folder.mkdir()
    model = (DATA / "models" / model_name).read_bytes()
    (folder / "model.tflite").write_bytes(model)
    shutil.copy(DATA / "models" / "imagenet_labels.txt", folder / "labels.txt")
    manifest = {
        "name": "mobilenet-v2",
        "version": 1,
        "sha256": hashlib.sha256(model).hexdigest(),
        "input": {"width": 224, "height": 224, "color": "RGB", "resize": "stretch", "mean": 128.0, "std": 128.0},
        "labels_file": "labels.txt",
        "licence": "Apache-2.0",
        "source": "google-coral/test_data",
    }
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))
    return folder


def answers_by_picture(kept: Path) -> dict[str, str]:
    """Return picture name -> label, from a kept demo: the agent reads a folder in the order of its names."""
    from millrace import jsontext
    from millrace.entries import Lane
    from millrace.outbox_reader import Reader

    names = sorted(path.name for path in (DATA / "images").iterdir() if path.suffix in {".jpg", ".bmp", ".png"})
    reader = Reader(kept / "gateway" / "gateway.db")
    answers = {}
    for row in reader.read(Lane.RESULT, 0, 1000):
        event = jsontext.parse(row.body)
        if isinstance(event, dict) and event["type"].endswith("result.v1"):
            seq = int(event["subject"].rsplit("-", 1)[1])
            answers[names[seq - 1]] = event["data"]["label"]
    return answers


if __name__ == "__main__":
    main()
