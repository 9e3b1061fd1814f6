"""What this machine has for models beside its CPU: Edge TPUs and their library, ONNX Runtime's providers."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from edge_gateway.bundle import Manifest
from edge_gateway.engines.choice import EDGETPU_LIBRARY, Machine, runtime_of
from edge_gateway.engines.opening import CPU_PROVIDER, EXTRAS, Runtime

# An Edge TPU on USB before its firmware is loaded, and after.
USB_IDS = {("1a6e", "089a"), ("18d1", "9302")}
# What is imported for a runtime, and the packages that bring it.
RUNTIMES: dict[Runtime, tuple[str, tuple[str, ...]]] = {
    "litert": ("edge_gateway.engines.litert", ("ai-edge-litert", "tflite-runtime")),
    "onnx": ("edge_gateway.engines.onnx", ("onnxruntime", "onnxruntime-gpu")),
}


@dataclass(frozen=True, slots=True)
class Runs:
    """Whether an engine works here, and what it is, or why not, in words."""

    engine: str
    works: bool
    said: str


def runtimes() -> list[Runs]:
    """Return each runtime; all that are installed are loaded to see it."""
    found = [_runs(runtime, module, packages) for runtime, (module, packages) in RUNTIMES.items()]
    return [*found, Runs("reference", True, "NumPy, for tests")]


def _runs(runtime: Runtime, module: str, packages: tuple[str, ...]) -> Runs:
    installed = [f"{name} {_version(name)}" for name in packages if _version(name)]
    if not installed:
        return Runs(runtime, False, f"not installed: pip install '.[{EXTRAS[runtime]}]' in a checkout of Millrace")
    try:
        importlib.import_module(module)
    except ImportError as error:
        return Runs(runtime, False, f"{', '.join(installed)} does not load: {error}")
    if runtime == "onnx":
        names = ", ".join(name.removesuffix("ExecutionProvider") for name in _providers())
        return Runs(runtime, True, f"{', '.join(installed)} on {names}")
    return Runs(runtime, True, ", ".join(installed))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def look(manifest: Manifest) -> Machine:
    """Return what there is for one bundle; nothing is loaded that it does not need. Errors: EngineFailed."""
    if runtime_of(manifest) == "onnx":
        return Machine(providers=_providers())
    return Machine() if manifest.edgetpu_file is None else with_edgetpus()


def with_edgetpus(sys: Path = Path("/sys")) -> Machine:
    """Return whether the Edge TPU's library loads here, and the devices that the kernel knows."""
    return Machine(edgetpu_library=_loads(EDGETPU_LIBRARY), edgetpus=edgetpus(sys))


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def edgetpus(sys: Path) -> tuple[str, ...]:
    """Return the Edge TPUs that the kernel knows, as their library names them: pci:0, pci:1, …, usb:0, …."""
    pci = len(list((sys / "class/apex").glob("apex_*")))
    usb = sum(_ids(device) in USB_IDS for device in (sys / "bus/usb/devices").glob("*"))
    return (*(f"pci:{place}" for place in range(pci)), *(f"usb:{place}" for place in range(usb)))


def _ids(device: Path) -> tuple[str, str]:
    try:
        return (device / "idVendor").read_text().strip(), (device / "idProduct").read_text().strip()
    except OSError:  # a hub's interface, which has none, or a device that is pulled just now
        return "", ""


def _providers() -> tuple[str, ...]:
    try:
        from edge_gateway.engines.onnx import working_providers
    except ImportError:  # said when the engine is opened, with what to do
        return (CPU_PROVIDER,)
    return working_providers()
