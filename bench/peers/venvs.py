"""`make bench-peers`: the other systems from PyPI, each in a virtual environment of its own under build/peers."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

WANTED = {
    "flask": ["flask", "pillow", "onnx", "onnxruntime", "opencv-python-headless"],
    "litserve": ["litserve", "ai-edge-litert", "opencv-python-headless"],
    # its workers crash with uvloop 0.22 and later
    "mlserver": ["mlserver", "uvloop<0.22", "ai-edge-litert", "opencv-python-headless"],
}
VENVS = Path(__file__).resolve().parents[2] / "build" / "peers"


def main() -> None:
    """Bring what is not here yet; about 1.2 GB on disk."""
    for name, packages in WANTED.items():
        folder = VENVS / name
        if (folder / "ready").exists():
            continue
        print(f"{name}: {', '.join(packages)}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if subprocess.run([*pip, *packages], check=False).returncode:
            sys.exit(f"{name} cannot be installed; is the network there?")
        (folder / "ready").touch()
    print(f"ready in {VENVS}")


if __name__ == "__main__":
    main()
