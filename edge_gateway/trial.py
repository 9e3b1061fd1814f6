"""A bundle is tried in a process of its own before it may serve: what crashes or hangs does so there.

The trial loads it as the gateway would, on the CPU, because an accelerator may belong to the gateway alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from edge_gateway.bundle import Bundle, load_bundle
from edge_gateway.engines.child import end_with
from edge_gateway.engines.engine import EngineFailed
from edge_gateway.serving import Serving
from edge_gateway.settings import AcceleratorSettings, ModelSettings
from millrace.settings import ConfigError

PATIENCE_S = 120.0
NICENESS = 10
SAID_CHARACTERS = 500


class TrialFailed(Exception):
    """A bundle that did not stand its trial; the message says why."""


def memory_bytes(bundle: Bundle, settings: ModelSettings, max_pixels: int, engines: int) -> int:
    """Try a bundle, and return the memory that it took there. Errors: TrialFailed."""
    asked = json.dumps(
        {
            "folder": str(bundle.folder),
            "settings": settings.model_dump(mode="json"),
            "max_pixels": max_pixels,
            "engines": engines,
        }
    ).encode()
    command = [sys.executable, "-m", "edge_gateway.trial", str(os.getpid())]
    try:
        done = subprocess.run(command, input=asked, capture_output=True, timeout=PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        raise TrialFailed(f"{bundle.name}: not loaded and run within {PATIENCE_S:.0f} s") from None
    except OSError as error:
        raise TrialFailed(f"{bundle.name}: could not be tried: {error.strerror}") from None
    if done.returncode < 0:
        raise TrialFailed(f"{bundle.name}: it ends the process that loads it (signal {-done.returncode})")
    if done.returncode > 0 or not done.stdout:
        said = done.stderr.decode(errors="replace").strip()[-SAID_CHARACTERS:]
        raise TrialFailed(f"{bundle.name}: its trial ended with {done.returncode}: {said}")
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise TrialFailed(answer["error"])
    if answer["digest"] != bundle.digest:
        raise TrialFailed(f"{bundle.folder}: was changed while it was tried: swap again")
    return int(answer["memory_bytes"])


def main() -> None:
    """Try what standard input asks for, and say on standard output how it went; nothing else is said there."""
    end_with(int(sys.argv[1]))
    _stand_back()
    told = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    asked = json.load(sys.stdin)
    try:
        bundle = load_bundle(Path(asked["folder"]))
        settings = ModelSettings.model_validate(asked["settings"] | {"isolate": "never"})
        care = AcceleratorSettings()
        serving = Serving(bundle, settings, asked["max_pixels"], asked["engines"], care, on_cpu=True)
        answer: dict[str, object] = {"digest": bundle.digest, "memory_bytes": serving.memory_bytes}
    except (ConfigError, EngineFailed) as error:
        answer = {"error": str(error)}
    with os.fdopen(told, "w") as answers:
        json.dump(answer, answers)


def _stand_back() -> None:
    """Leave the cores to the line, and if memory runs out, be the one that ends; a service may be denied either."""
    with suppress(OSError):
        os.nice(NICENESS)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


if __name__ == "__main__":
    main()
