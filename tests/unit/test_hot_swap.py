"""Another version takes over while frames come in: none is lost, the old one is let go of, a bad one never serves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from integration.brokers import wait_until
from unit.test_isolated import is_gone

from edge_gateway import trial
from edge_gateway.admission import Arrived, Outcome, admit
from edge_gateway.bundle import load_bundle, weights_bytes
from edge_gateway.hot_swap import SwapRefused, swap
from edge_gateway.line import Item, Line
from edge_gateway.models import Models
from edge_gateway.settings import ModelSettings
from edge_gateway.swaps import FILE, Swaps
from edge_gateway.workers import Workers
from millrace.blobs import StorageFailed
from millrace.clock import Instant
from millrace.settings import ConfigError
from millrace_models import bundle_path

MAX_PIXELS = 1_000_000
PATIENCE_S = 60
NOW = Instant(1_790_000_000_000_000_000, "f00d", 5)
GREY = bytes(cv2.imencode(".png", np.full((96, 96, 3), 128, np.uint8))[1].tobytes())
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that makes a version of the shipped bundle, with parts of its manifest replaced."""

    def write(version: int, *replaced: tuple[str, str], folder: str | None = None) -> Path:
        target = tmp_path / (folder or f"parts-{version}")
        shutil.copytree(bundle_path("parts"), target, dirs_exist_ok=True)
        manifest = target / "manifest.yaml"
        text = manifest.read_text().replace("version: 1", f"version: {version}")
        for was, becomes in replaced:
            assert was in text
            text = text.replace(was, becomes)
        manifest.write_text(text)
        return target

    return write


@pytest.fixture
def swaps(tmp_path: Path) -> Swaps:
    state_dir = tmp_path / "state"
    state_dir.mkdir(exist_ok=True)
    return Swaps(state_dir)


def bound(folder: Path, **settings: object) -> ModelSettings:
    return ModelSettings.model_validate({"bundle": folder, "name": "parts", **settings})


def name_of(models: Models) -> str:
    """Return which model says something of a picture now."""
    ((prediction, _, _),) = models.infer(GREY, [0]).predictions
    return prediction.model


def frame(device: str, number: int) -> Arrived:
    topic = f"millrace/device/{device}/frame/top"
    found = admit("millrace", topic, GREY + b"%d" % number, (), NOW, redelivered=False)
    assert isinstance(found, list)
    return found[0]


def answer_in(line: Line) -> str:
    """Return which model answered the frame that is next in the line."""
    item = line.get(PATIENCE_S)
    assert item is not None
    assert isinstance(item.finished, Arrived)
    assert item.finished.outcome is not None
    outcome = item.finished.outcome.result(PATIENCE_S)
    assert outcome.malformed is None
    return outcome.predictions[0][0].model


class Watched(Models):
    """Models that remember which thread gave whose answer, in order."""

    def __init__(self, settings: list[ModelSettings], workers: int) -> None:
        super().__init__(settings, MAX_PIXELS, workers)
        self.said: dict[str, list[str]] = {}

    def infer(self, picture: bytes, places: Sequence[int], digest: str | None = None) -> Outcome:
        outcome = super().infer(picture, places, digest)
        self.said.setdefault(threading.current_thread().name, []).append(outcome.predictions[0][0].model)
        return outcome


def test_under_load_no_frame_is_lost_and_no_worker_goes_back_to_the_old_one(make: Make, swaps: Swaps) -> None:
    models = Watched([bound(make(1))], workers=2)
    workers, line = Workers(models, 2), Line(32)
    swapped = threading.Event()
    label = models.infer(GREY, [0]).predictions[0][0].label
    models.said.clear()
    with models.lent(0) as old:
        engine = weakref.ref(old.engine)
    del old
    second = make(2, ("licence:", f"golden: [{{file: grey.png, label: {label}}}]\nlicence:"))
    (second / "grey.png").write_bytes(GREY)

    def exchange() -> None:
        try:
            swap(models, 0, second, swaps)
        finally:
            swapped.set()

    thread = threading.Thread(target=exchange)
    thread.start()
    answers: list[str] = []
    sent = 0
    while answers.count("parts@2") < 50:
        assert thread.is_alive() or not swapped.is_set() or models.bundles[0].name == "parts@2"
        arrived = frame(f"cam-{sent % 2}", sent)
        workers.start(arrived)
        assert line.offer([Item(arrived, lambda: None)], PATIENCE_S)
        sent += 1
        if sent > 16:
            answers.append(answer_in(line))
    answers += [answer_in(line) for _ in range(sent - len(answers))]
    thread.join(PATIENCE_S)
    workers.close()
    assert (len(answers), set(answers)) == (sent, {"parts@1", "parts@2"})
    assert engine() is None
    assert sum(map(len, models.said.values())) == sent
    assert all(said == sorted(said) for said in models.said.values())


def test_the_old_one_is_let_go_of_and_one_at_work_only_when_it_is_done(make: Make) -> None:
    models = Models([bound(make(1))], MAX_PIXELS, workers=2)
    second = models.open(0, load_bundle(make(2)))
    with models.lent(0) as at_work, models.lent(0) as idle:
        engines = [weakref.ref(at_work.engine), weakref.ref(idle.engine)]
    del at_work, idle
    with models.lent(0) as at_work:
        models.exchange(0, second)
        assert [engine() is None for engine in engines].count(True) == 1
        assert at_work.answer(GREY)[0].model == "parts@1"
        del at_work
    assert [engine() for engine in engines] == [None, None]
    assert name_of(models) == "parts@2"


def test_who_waits_for_an_interpreter_of_the_old_one_gets_one_of_the_new(make: Make) -> None:
    models = Models([bound(make(1))], MAX_PIXELS)
    second = models.open(0, load_bundle(make(2)))
    with ThreadPoolExecutor(1) as pool, models.lent(0):
        waiting = pool.submit(name_of, models)
        models.exchange(0, second)
        assert waiting.result(PATIENCE_S) == "parts@2"


@pytest.mark.parametrize(
    ("replaced", "said"),
    [
        (("name: parts", "name: other"), "holds other@2, which is no version of parts"),
        (("version: 2", "version: 1"), "is another model than parts@1, so give it another version"),
        (("sha256: a1", "sha256: a2"), "it was changed or half copied"),
        (("[ok, scratch, missing_screw, stain]", "[ok, scratch]"), "has 4 outputs and 2 labels"),
        (
            ("licence:", "golden: [{file: grey.png, label: stain}]\nlicence:"),
            r"calls golden grey.png .* it is stain",
        ),
        (("licence:", "golden: [{file: gone.png, label: ok}]\nlicence:"), "gone.png: cannot read"),
    ],
)
def test_a_bundle_that_does_not_fit_is_refused_and_the_old_one_serves_on(
    make: Make, swaps: Swaps, replaced: tuple[str, str], said: str
) -> None:
    models = Models([bound(make(1))], MAX_PIXELS)
    bad = make(2, replaced, ("threshold: 0.80", "threshold: 0.81"))
    (bad / "grey.png").write_bytes(GREY)
    with pytest.raises(SwapRefused, match=said + ".*; parts@1 serves on"):
        swap(models, 0, bad, swaps)
    assert name_of(models) == "parts@1"
    assert not swaps.of(models.settings[0])


def test_a_bundle_that_kills_who_loads_it_kills_its_trial_alone(
    make: Make, swaps: Swaps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that crashes a runtime is not at hand: the trial's process is killed as it starts instead."""
    models = Models([bound(make(1))], MAX_PIXELS)
    deadly = make(2)
    hook = deadly.parent / "sitecustomize.py"
    hook.write_text("import os, sys\nif 'edge_gateway.trial' in sys.orig_argv: os.kill(os.getpid(), 11)\n")
    monkeypatch.setenv("PYTHONPATH", str(hook.parent), prepend=":")
    with pytest.raises(SwapRefused, match=r"it ends the process that loads it \(signal 11\); parts@1 serves on"):
        swap(models, 0, deadly, swaps)
    assert name_of(models) == "parts@1"


def test_a_trial_that_says_more_than_it_is_asked_is_understood(
    make: Make, swaps: Swaps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runtime that says good-bye as it ends, and in no language."""
    models, hook = Models([bound(make(1))], MAX_PIXELS), make(2).parent / "sitecustomize.py"
    hook.write_text("import atexit, os\natexit.register(lambda: [os.write(place, b'bye \\xff') for place in (1, 2)])\n")
    monkeypatch.setenv("PYTHONPATH", str(hook.parent), prepend=":")
    assert swap(models, 0, make(2), swaps) == "parts@2"
    hook.write_text(
        "import os, sys\nif 'edge_gateway.trial' in sys.orig_argv: os.write(2, b'bye \\xff'), os._exit(0)\n"
    )
    with pytest.raises(SwapRefused, match=r"parts@3: its trial ended with 0: bye .; parts@2 serves on"):
        swap(models, 0, make(3), swaps)


TRIER = """
import sys
from pathlib import Path
from edge_gateway import trial
from edge_gateway.bundle import load_bundle
from edge_gateway.settings import ModelSettings
folder = Path(sys.argv[1])
trial.memory_bytes(load_bundle(folder), ModelSettings(bundle=folder), 1_000_000, 100_000)  # for hours
"""


def children_of(parent: int) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "stat").read_text().rsplit(")", 1)[1].split()[1] == str(parent):
                found.append(int(process.name))
    return found


def is_under_way(pid: int) -> bool:
    """Whether a trial has begun: the first that it does is to stand back."""
    return os.getpriority(os.PRIO_PROCESS, pid) == trial.NICENESS


def test_a_trial_that_does_not_end_ends_with_the_gateway(make: Make) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, "-c", TRIER, make(2)], env=environment) as gateway:
        wait_until(lambda: len(children_of(gateway.pid)) == 1, "the trial's process is there")
        (pid,) = children_of(gateway.pid)
        wait_until(lambda: is_under_way(pid), "the trial has begun")
        gateway.kill()
    wait_until(lambda: is_gone(pid), "the trial has ended")


def test_what_would_take_more_memory_than_there_is_for_models_is_refused(make: Make, swaps: Swaps) -> None:
    first = make(1)
    with pytest.raises(ConfigError, match=r"limits.models_bytes: models take more than 1 B of memory: parts@1 "):
        Models([bound(first, workers_ratio=1.0)], MAX_PIXELS, workers=8, models_bytes=1)
    models = Models([bound(first)], MAX_PIXELS)
    models._models_bytes = models.memory_bytes[0] + weights_bytes(first)
    huge = make(3)
    with (huge / "model.tflite").open("wb") as file:
        file.truncate(64 << 20)  # read, it would not have the digest that the manifest says
    with pytest.raises(SwapRefused, match=r"limits.models_bytes: .*: parts@1 .*/parts-3 64.* serves on"):
        swap(models, 0, huge, swaps)
    with pytest.raises(SwapRefused, match=r"limits.models_bytes: .*: parts@1 .*, parts@2 .*; parts@1 serves on"):
        swap(models, 0, make(2), swaps)
    assert name_of(models) == "parts@1"


def after_restart(settings: ModelSettings, swaps: Swaps) -> str:
    """Return what serves when a gateway starts that knows of swaps what the disk knows."""
    return name_of(Models([settings], MAX_PIXELS, swaps=Swaps(swaps.path.parent)))


def test_a_swap_lasts_over_a_restart_until_the_settings_name_another_bundle(make: Make, swaps: Swaps) -> None:
    first, second, third = bound(make(1)), make(2), make(3)
    swaps.note(first, load_bundle(second))
    shutil.rmtree(first.bundle)  # what the settings name is needed no more
    assert after_restart(first, swaps) == "parts@2"
    assert after_restart(bound(third), swaps) == "parts@3"


@pytest.mark.parametrize("harm", ["removed", "changed", "broken"])
def test_a_swap_whose_bundle_is_no_more_what_it_was_is_undone_at_the_restart(
    make: Make, swaps: Swaps, harm: str
) -> None:
    first, second = bound(make(1)), make(2)
    swaps.note(first, load_bundle(second))
    if harm == "removed":
        shutil.rmtree(second)
    elif harm == "changed":
        make(2, ("threshold: 0.80", "threshold: 0.10"))
    else:
        (second / "model.tflite").write_bytes(b"half")
    assert after_restart(first, swaps) == "parts@1"


def test_a_swap_that_the_settings_overruled_does_not_come_back_with_them(make: Make, swaps: Swaps) -> None:
    first, other = bound(make(1)), bound(make(5), name="other")
    swaps.note(first, load_bundle(make(2)))
    swaps.note(other, load_bundle(make(4)))
    for later in (bound(make(3)), bound(make(3), name="parts-3")):
        again = Swaps(swaps.path.parent)
        again.follow([first, other])
        assert again.of(first) == swaps.of(first) is not None
        again.follow([later, other])
        assert (again.of(first), again.of(other)) == (None, swaps.of(other))
        assert after_restart(first, swaps) == "parts@1"
        swaps.note(first, load_bundle(make(2)))
    swaps.path.with_name(FILE + ".part").mkdir()  # the disk takes no note
    swaps.follow([])
    assert after_restart(first, swaps) == "parts@2"


def test_back_to_the_bundle_in_the_settings_needs_no_note(make: Make, swaps: Swaps) -> None:
    first = bound(make(1))
    swaps.note(first, load_bundle(make(2)))
    swaps.note(first, load_bundle(first.bundle))
    assert json.loads(swaps.path.read_bytes()) == {}


def test_a_swap_that_the_disk_does_not_note_does_not_count(make: Make, swaps: Swaps) -> None:
    models = Models([bound(make(1))], MAX_PIXELS)
    second = make(2)
    swaps.path.parent.rmdir()
    with pytest.raises(StorageFailed, match=f"{FILE}: No such file or directory"):
        swap(models, 0, second, swaps)
    assert (name_of(models), swaps.of(models.settings[0])) == ("parts@1", None)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"parts": 1}', b'{"parts": {"folder": "/x"}}', b"\xff", None])
def test_a_note_that_cannot_be_read_says_nothing(make: Make, tmp_path: Path, content: bytes | None) -> None:
    settings = bound(make(1))
    number = {"parts": {"configured": str(settings.bundle), "folder": 5, "digest": ""}}
    (tmp_path / FILE).write_bytes(json.dumps(number).encode() if content is None else content)
    assert name_of(Models([settings], MAX_PIXELS, swaps=Swaps(tmp_path))) == "parts@1"
