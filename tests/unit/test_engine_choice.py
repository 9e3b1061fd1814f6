"""Which engines run a bundle: by settings, bundle and machine, with the reason in words; and what a machine has."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from edge_gateway.bundle import Manifest
from edge_gateway.engines.choice import Machine, Plan, candidates, choose, runtime_of
from edge_gateway.engines.engine import EngineFailed
from edge_gateway.engines.machine import edgetpus, look
from edge_gateway.engines.onnx import IDENTITY
from edge_gateway.engines.opening import CPU_PROVIDER, Choice, Delegate, open_engine
from edge_gateway.settings import DelegateSettings, ModelSettings

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
WITH_EDGETPU = {"edgetpu_file": "model_edgetpu.tflite", "edgetpu_sha256": "f" * 64}
TWO_TPUS = Machine(edgetpu_library=True, edgetpus=("pci:0", "usb:0"))
BARE = Machine()
CPU = Choice("litert", "model.tflite")


def manifest_of(**said: Any) -> Manifest:
    given = {"name": "parts", "version": 3, "sha256": "f" * 64, "licence": "MIT", "labels": ["ok"]}
    return Manifest.model_validate({**given, "input": {"width": 8, "height": 8}, **said})


def plan(manifest: dict[str, Any] | None = None, machine: Machine = BARE, **wanted: Any) -> Plan:
    settings = ModelSettings.model_validate({"bundle": "parts", **wanted})
    return choose(settings, manifest_of(**(manifest or {})), machine)


def test_a_tflite_model_alone_runs_on_the_cpu_with_one_thread() -> None:
    assert plan(machine=TWO_TPUS) == Plan((CPU,), None, "the bundle holds model.tflite")
    assert str(plan(machine=TWO_TPUS)) == "litert on CPU"


def test_edge_tpus_are_used_side_by_side_where_the_bundle_and_the_machine_have_them() -> None:
    found = plan(WITH_EDGETPU, TWO_TPUS)
    assert [choice.delegate for choice in found.choices] == [
        Delegate("libedgetpu.so.1", (("device", "pci:0"),)),
        Delegate("libedgetpu.so.1", (("device", "usb:0"),)),
    ]
    assert {choice.file for choice in found.choices} == {"model_edgetpu.tflite"}
    assert found.twin == CPU
    assert found.reason == "the bundle holds model_edgetpu.tflite, and this machine has pci:0, usb:0"
    assert str(found) == "litert on libedgetpu.so.1,device=pci:0, litert on libedgetpu.so.1,device=usb:0"


def test_only_the_edge_tpus_that_the_settings_name_are_used() -> None:
    found = plan(WITH_EDGETPU, TWO_TPUS, edgetpus=["usb:0"])
    assert [choice.delegate for choice in found.choices] == [Delegate("libedgetpu.so.1", (("device", "usb:0"),))]
    assert found.reason == "the bundle holds model_edgetpu.tflite, and the settings name usb:0"


@pytest.mark.parametrize(
    ("machine", "lacking"),
    [
        (Machine(edgetpus=("usb:0",)), "libedgetpu.so.1 is not installed"),
        (Machine(edgetpu_library=True), "no Edge TPU is plugged in"),
    ],
)
def test_without_an_edge_tpu_auto_takes_the_cpu_and_says_what_is_lacking(machine: Machine, lacking: str) -> None:
    assert plan(WITH_EDGETPU, machine) == Plan(
        (CPU,), None, f"the bundle holds model_edgetpu.tflite too, but {lacking} here"
    )


def test_an_edge_tpu_that_is_asked_for_is_tried_even_where_none_is_seen_and_the_cpu_is_its_twin() -> None:
    found = plan(WITH_EDGETPU, Machine(edgetpu_library=True), engine="edgetpu")
    assert found.choices == (Choice("litert", "model_edgetpu.tflite", delegate=Delegate("libedgetpu.so.1")),)
    assert found.twin == CPU
    assert found.reason.endswith("but no Edge TPU is plugged in here")


def test_litert_by_name_means_the_cpu_whatever_is_there() -> None:
    assert plan(WITH_EDGETPU, TWO_TPUS, engine="litert").choices == (CPU,)


def test_delegates_of_the_settings_come_before_anything_else() -> None:
    named = [{"library": "/opt/npu/libnpu.so", "options": {"core": str(core)}} for core in (0, 1)]
    found = plan(WITH_EDGETPU, TWO_TPUS, delegates=named, threads=2)
    assert [choice.accelerator for choice in found.choices] == ["libnpu.so,core=0", "libnpu.so,core=1"]
    assert {choice.file for choice in found.choices} == {"model.tflite"}
    assert found.twin == Choice("litert", "model.tflite", threads=2)


@pytest.mark.parametrize("first", [CUDA, TENSORRT])
def test_an_onnx_model_runs_on_the_best_provider_that_works_and_has_the_cpu_as_its_twin(first: str) -> None:
    found = plan({"file": "model.onnx"}, Machine(providers=(first, CPU_PROVIDER)))
    assert found.choices == (Choice("onnx", "model.onnx", providers=(first, CPU_PROVIDER)),)
    assert found.twin == Choice("onnx", "model.onnx", providers=(CPU_PROVIDER,))
    assert first.removesuffix("ExecutionProvider") in str(found)
    assert "ONNX Runtime works here with" in found.reason


def test_on_a_plain_machine_an_onnx_model_runs_on_the_cpu_and_needs_no_twin() -> None:
    found = plan({"file": "model.onnx"})
    assert (str(found), found.twin) == ("onnx on CPU", None)


@pytest.mark.parametrize(
    ("manifest", "wanted", "said"),
    [
        ({"file": "model.onnx"}, {"engine": "litert"}, "engine: litert does not run model.onnx; onnx does: set engine"),
        ({"file": "model.onnx"}, {"delegates": [{"library": "libx.so"}]}, "delegates run .tflite models"),
        ({}, {"engine": "onnx"}, "engine: onnx does not run model.tflite; litert does"),
        ({}, {"engine": "edgetpu"}, "needs a model compiled for it .* name it in the manifest as edgetpu_file"),
        ({"file": "model.pb"}, {}, "model.pb: no engine runs this kind of file; .tflite, .onnx, .npz are run"),
        ({"file": "model"}, {}, "model: no engine runs this kind of file"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_do(
    manifest: dict[str, Any], wanted: dict[str, Any], said: str
) -> None:
    with pytest.raises(EngineFailed, match=f"^model parts@3: .*{said}"):
        plan(manifest, **wanted)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"engine": "delegate"}, "engine: delegate needs delegates"),
        ({"engine": "litert", "delegates": [{"library": "libx.so"}]}, "engine: litert takes no delegates"),
        ({"delegates": [{"library": "here/libx.so"}]}, "give a full path, or only the library's name"),
        ({"edgetpus": ["usb0"]}, "String should match pattern"),
        ({"threads": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wanted: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ModelSettings.model_validate({"bundle": "parts", **wanted})


def test_a_choice_can_be_sent_to_another_process() -> None:
    for choice in plan(WITH_EDGETPU, TWO_TPUS).choices:
        assert pickle.loads(pickle.dumps(choice)) == choice


def test_a_runtime_that_is_not_installed_is_said_with_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "edge_gateway.engines.onnx", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        EngineFailed, match=r"model x@1: m.onnx needs the package 'onnxruntime'.*pip install '.\[onnx\]'"
    ):
        open_engine(Choice("onnx", "m.onnx"), IDENTITY, "x@1")
    assert look(manifest_of(file="m.onnx")) == Machine()


def test_a_machine_is_asked_only_for_what_the_bundle_needs() -> None:
    """In a process of its own, that can tell what was loaded there."""
    program = """
import sys
from edge_gateway.bundle import Manifest
from edge_gateway.engines.choice import Machine
from edge_gateway.engines.machine import look
said = {"name": "x", "version": 1, "sha256": "f" * 64, "licence": "MIT", "labels": ["a"]}
for file in ("m.tflite", "m.npz", "m.onnx"):
    seen = look(Manifest.model_validate({**said, "file": file, "input": {"width": 8, "height": 8}}))
    print(file, seen.providers[-1], seen.edgetpu_library, "onnxruntime" in sys.modules, "ai_edge_litert" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "m.tflite CPUExecutionProvider False False False",
        "m.npz CPUExecutionProvider False False False",
        "m.onnx CPUExecutionProvider False True False",
    ], done.stderr


def test_edge_tpus_are_found_on_usb_before_and_after_their_firmware_and_on_pci(tmp_path: Path) -> None:
    """A tree as the kernel shows it: a hub's interface without ids, another vendor's stick, and three Edge TPUs."""
    devices = {"1-1": ("1a6e", "089a"), "2-1": ("18d1", "9302"), "3-1": ("18d1", "4ee7"), "1-0:1.0": None}
    for name, ids in devices.items():
        folder = tmp_path / "bus/usb/devices" / name
        folder.mkdir(parents=True)
        for file, content in zip(("idVendor", "idProduct"), ids or (), strict=False):
            (folder / file).write_text(content + "\n")
    (tmp_path / "class/apex/apex_0").mkdir(parents=True)
    assert edgetpus(tmp_path) == ("pci:0", "usb:0", "usb:1")
    assert edgetpus(tmp_path / "nothing") == ()


def test_a_runtime_is_known_by_the_end_of_a_files_name() -> None:
    files = ("a.tflite", "a.b.onnx", "a.npz")
    assert [runtime_of(manifest_of(file=file)) for file in files] == ["litert", "onnx", "reference"]


def test_every_way_to_run_a_bundle_is_named_the_cpu_first() -> None:
    wanted = ModelSettings(bundle=Path("parts"), delegates=[DelegateSettings(library="libnpu.so")])
    on_tpus = candidates(wanted, manifest_of(**WITH_EDGETPU), TWO_TPUS)
    assert list(map(str, on_tpus)) == [
        "litert on CPU",
        "litert on libedgetpu.so.1,device=pci:0",
        "litert on libedgetpu.so.1,device=usb:0",
        "litert on libnpu.so",
    ]
    assert list(map(str, candidates(wanted, manifest_of(), TWO_TPUS))) == ["litert on CPU", "litert on libnpu.so"]
    onnx = candidates(wanted, manifest_of(file="m.onnx"), Machine(providers=(TENSORRT, CUDA, CPU_PROVIDER)))
    assert list(map(str, onnx)) == ["onnx on CPU", "onnx on CUDA", "onnx on Tensorrt"]
    assert onnx[-1].providers == (TENSORRT, CUDA, CPU_PROVIDER)
