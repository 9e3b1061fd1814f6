"""Which engines run a bundle here: by what the settings want, the bundle holds and the machine has. No I/O here."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edge_gateway.bundle import Manifest
from edge_gateway.engines.engine import EngineFailed
from edge_gateway.engines.opening import CPU_PROVIDER, Choice, Delegate, Runtime
from edge_gateway.settings import DelegateSettings, ModelSettings

EDGETPU_LIBRARY = "libedgetpu.so.1"
RUNTIMES: dict[str, Runtime] = {".tflite": "litert", ".onnx": "onnx", ".npz": "reference"}


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine has beside its CPU.

    `edgetpus`: the Edge TPUs as their library names them, such as usb:0 and pci:0. `providers`: those of ONNX Runtime
    that work here, the best first; looked up for ONNX models alone, because to ask loads the runtime.
    """

    edgetpu_library: bool = False
    edgetpus: tuple[str, ...] = ()
    providers: tuple[str, ...] = (CPU_PROVIDER,)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model is run: one choice for each accelerator, or one for the CPU; workers take them in turn.

    `twin` is the same model on the CPU, for when an accelerator fails; None where the choice is the CPU already.
    """

    choices: tuple[Choice, ...]
    twin: Choice | None
    reason: str

    def __str__(self) -> str:
        """Return the choices in words."""
        return ", ".join(map(str, self.choices))


def choose(wanted: ModelSettings, manifest: Manifest, machine: Machine) -> Plan:
    """Return how to run a bundle, and why so in words; EngineFailed if it holds nothing that fits what is wanted."""
    name = f"{manifest.name}@{manifest.version}"
    runtime = runtime_of(manifest)
    fits = {"auto", runtime, *(("edgetpu", "delegate") if runtime == "litert" else ())}
    if wanted.engine not in fits:
        raise EngineFailed(
            f"model {name}: engine: {wanted.engine} does not run {manifest.file}; {runtime} does: set engine: auto"
        )
    cpu = Choice(runtime, manifest.file, wanted.threads)
    if wanted.delegates:
        if runtime != "litert":
            raise EngineFailed(f"model {name}: delegates run .tflite models, not {manifest.file}: leave them out")
        return Plan(tuple(_on(one, cpu) for one in wanted.delegates), cpu, "the settings name delegates")
    if runtime == "onnx":
        return _onnx(cpu, machine)
    if manifest.edgetpu_file is not None and wanted.engine in ("auto", "edgetpu"):
        return _edgetpu(wanted, manifest.edgetpu_file, cpu, machine)
    if wanted.engine == "edgetpu":
        raise EngineFailed(
            f"model {name}: engine: edgetpu needs a model compiled for it (edgetpu_compiler) beside {manifest.file};"
            f" name it in the manifest as edgetpu_file"
        )
    return Plan((cpu,), None, f"the bundle holds {manifest.file}")


def candidates(wanted: ModelSettings, manifest: Manifest, machine: Machine) -> tuple[Choice, ...]:
    """Return every way in which a bundle may run here, the CPU first, whatever `wanted.engine` says.

    Errors: EngineFailed if no engine runs its kind of file.
    """
    cpu = Choice(runtime_of(manifest), manifest.file, wanted.threads)
    if cpu.runtime == "onnx":
        best_last = range(len(machine.providers) - 1, -1, -1)
        return tuple(replace(cpu, providers=machine.providers[first:]) for first in best_last)
    ways = [cpu]
    if cpu.runtime == "litert" and manifest.edgetpu_file is not None:
        ways += _on_edgetpus(manifest.edgetpu_file, cpu, _devices(wanted, machine))
    if cpu.runtime == "litert":
        ways += [_on(delegate, cpu) for delegate in wanted.delegates]
    return tuple(ways)


def runtime_of(manifest: Manifest) -> Runtime:
    """Return the runtime for a bundle's file, by the end of its name; EngineFailed if none runs it."""
    suffix = manifest.file[manifest.file.rfind(".") :]
    if suffix not in RUNTIMES:
        raise EngineFailed(
            f"model {manifest.name}@{manifest.version}: {manifest.file}: no engine runs this kind of file;"
            f" {', '.join(RUNTIMES)} are run"
        )
    return RUNTIMES[suffix]


def _on(delegate: DelegateSettings, cpu: Choice) -> Choice:
    return replace(cpu, delegate=Delegate(delegate.library, tuple(delegate.options.items())))


def _onnx(cpu: Choice, machine: Machine) -> Plan:
    choice = replace(cpu, providers=machine.providers)
    names = ", ".join(name.removesuffix("ExecutionProvider") for name in machine.providers)
    reason = f"the bundle holds {cpu.file}, and ONNX Runtime works here with {names}"
    if not choice.accelerator:
        return Plan((choice,), None, reason)
    return Plan((choice,), replace(cpu, providers=(CPU_PROVIDER,)), reason)


def _edgetpu(wanted: ModelSettings, file: str, cpu: Choice, machine: Machine) -> Plan:
    """Return the Edge TPUs; without any, the CPU, unless the settings want Edge TPUs by name."""
    devices = _devices(wanted, machine)
    lacking = "" if machine.edgetpu_library else f"{EDGETPU_LIBRARY} is not installed"
    lacking = lacking or ("" if devices else "no Edge TPU is plugged in")
    if wanted.engine == "auto" and lacking:
        return Plan((cpu,), None, f"the bundle holds {file} too, but {lacking} here")
    whose = "the settings name" if wanted.edgetpus else "this machine has"
    there = f"but {lacking} here" if lacking else f"and {whose} {', '.join(devices)}"
    return Plan(_on_edgetpus(file, cpu, devices), cpu, f"the bundle holds {file}, {there}")


def _devices(wanted: ModelSettings, machine: Machine) -> tuple[str, ...]:
    return tuple(wanted.edgetpus) or machine.edgetpus


def _on_edgetpus(file: str, cpu: Choice, devices: tuple[str, ...]) -> tuple[Choice, ...]:
    """Return one choice for each device; for any that comes, if none is named or seen."""
    delegates = [Delegate(EDGETPU_LIBRARY, (("device", device),)) for device in devices] or [Delegate(EDGETPU_LIBRARY)]
    return tuple(replace(cpu, file=file, delegate=delegate) for delegate in delegates)
