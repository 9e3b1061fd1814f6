"""`make bench`: what the README claims, measured here; one table, build/bench.json, ratios within one run."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import floor, footprint, hearing, store, wear
from bench.measures import Measure, report
from millrace.demo.ports import free_port
from millrace.demo.stage import wait_until


def main() -> None:
    """Run every bench; exit 1 if a bar does not hold."""
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        home = Path(folder)
        found: list[Measure] = store.measures(home) + wear.measures(home / "wear")
        for broker in ["mosquitto", "embedded"]:
            if broker == "mosquitto" and shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin") is None:
                print("mosquitto is not here: left out")
                continue
            here = home / broker
            here.mkdir()
            found += _at_broker(here, broker)
        found += footprint.measures(home)
    sys.exit(0 if report("bench", found) else 1)


def _at_broker(home: Path, broker: str) -> list[Measure]:
    port = free_port()
    config = home / "broker.yaml"
    config.write_text(f"port: {port}\nanonymous: true\nstate_dir: mosquitto\n")
    arguments = ["embedded", "--port", str(port)] if broker == "embedded" else ["mosquitto", "--config", str(config)]
    log = (home / "broker.log").open("wb")
    process = subprocess.Popen([sys.executable, "-m", "millrace", "broker", *arguments], stdout=log, stderr=log)
    try:
        import socket

        def answers() -> bool:
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", port)) == 0

        assert wait_until(answers, 15), (home / "broker.log").read_text()
        heard = hearing.measures(port) if broker == "mosquitto" else []
        return heard + floor.measures(home, port, broker)
    finally:
        process.terminate()
        process.wait(15)


if __name__ == "__main__":
    main()
