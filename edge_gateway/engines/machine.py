"""What this machine has for models beside its CPU: Edge TPUs and their library, ONNX Runtime's providers."""

from __future__ import annotations

import ctypes
from pathlib import Path

from edge_gateway.engines.choice import EDGETPU_LIBRARY, Machine
from edge_gateway.engines.opening import CPU_PROVIDER, Runtime

# An Edge TPU on USB before its firmware is loaded, and after.
USB_IDS = {("1a6e", "089a"), ("18d1", "9302")}


def look(runtime: Runtime, sys: Path = Path("/sys")) -> Machine:
    """Return what there is for models of one runtime; nothing is loaded that those do not need."""
    if runtime == "onnx":
        return Machine(providers=_providers())
    return Machine(edgetpu_library=loads(EDGETPU_LIBRARY), edgetpus=edgetpus(sys)) if runtime == "litert" else Machine()


def loads(library: str) -> bool:
    """Say whether a shared library is found and loads."""
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
    except ModuleNotFoundError:  # said when the engine is opened, with what to install
        return (CPU_PROVIDER,)
    return working_providers()
