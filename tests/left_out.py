"""Says in plain words which tests this machine could not run, after the suite; part of `make test`."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
NEEDED = [
    (shutil.which("mosquitto", path=PATH), "Mosquitto: all ran on the embedded broker (apt install mosquitto)"),
    (shutil.which("mosquitto_pub", path=PATH), "mosquitto_pub and mosquitto_sub (apt install mosquitto-clients)"),
    (shutil.which("systemd-analyze", path=PATH), "systemd-analyze: the units were not checked (apt install systemd)"),
    (shutil.which("strace", path=PATH), "strace: disk before acknowledgement was not traced (apt install strace)"),
    (shutil.which("cc", path=PATH), "a C compiler: delegates of our own were not built and tried (apt install gcc)"),
    (
        find_spec("tritonclient"),
        "tritonclient: nobody else's client asked /v2 (pip install 'tritonclient[http,grpc]')",
    ),
    (DATA.is_dir(), "real pictures, models and series: none at ../shared/data"),
]


def main() -> None:
    """Print what was left out, or that nothing was."""
    missing = [what for there, what in NEEDED if not there]
    print("\n".join(f"left out here: {what}" for what in missing) or "nothing was left out on this machine")


if __name__ == "__main__":
    main()
