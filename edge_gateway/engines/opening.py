"""One way to open any engine, from plain values that can be sent to another process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edge_gateway.engines.engine import Engine, EngineFailed

Runtime = Literal["litert", "onnx", "reference"]
EXTRAS: dict[Runtime, str] = {"litert": "gateway", "onnx": "onnx", "reference": "gateway"}
"""What to install for each runtime."""
CPU_PROVIDER = "CPUExecutionProvider"


@dataclass(frozen=True, slots=True)
class Delegate:
    """A TensorFlow Lite delegate: its library (a name that the loader finds, or a full path) and its own options."""

    library: str
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """Return the library and its options as one word, as the log has it."""
        return ",".join([self.library.rsplit("/", 1)[-1], *(f"{key}={value}" for key, value in self.options)])


@dataclass(frozen=True, slots=True)
class Choice:
    """Which runtime opens which of a bundle's files, and on what: a delegate, or ONNX Runtime's providers in order."""

    runtime: Runtime
    file: str
    threads: int = 1
    delegate: Delegate | None = None
    providers: tuple[str, ...] = ()

    @property
    def accelerator(self) -> str:
        """The accelerator that it runs on, the same word for the same one; empty for the CPU."""
        if self.delegate is not None:
            return str(self.delegate)
        return next((name.removesuffix("ExecutionProvider") for name in self.providers[:1] if name != CPU_PROVIDER), "")

    def __str__(self) -> str:
        """Return it in words for the log and the gateway's status."""
        return f"{self.runtime} on {self.accelerator or 'CPU'}"


def open_engine(choice: Choice, model: bytes, name: str) -> Engine:
    """Return a loaded engine for a model's bytes; `name` is the model's, for what is said of it.

    Errors: EngineFailed if the runtime is not installed, or it or the accelerator refuses the model.
    """
    try:
        match choice.runtime:
            case "litert":
                from edge_gateway.engines.litert import LiteRtEngine

                return LiteRtEngine(model, name, choice.threads, choice.delegate)
            case "onnx":
                from edge_gateway.engines.onnx import OnnxEngine

                return OnnxEngine(model, name, choice.threads, choice.providers)
            case "reference":
                from edge_gateway.engines.reference import ReferenceEngine

                return ReferenceEngine(model, name)
    except ModuleNotFoundError as error:
        raise EngineFailed(
            f"model {name}: {choice.file} needs the package {error.name!r}, which is not installed;"
            f" run in a checkout of Millrace: pip install '.[{EXTRAS[choice.runtime]}]'"
        ) from None
    except ImportError as error:
        raise EngineFailed(f"model {name}: the runtime for {choice.file} does not load here: {error}") from None
