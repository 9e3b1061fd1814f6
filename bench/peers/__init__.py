"""Other systems on the same frames: a naive MQTT gateway, the articles' two Flask services, LitServe, MLServer.

Each is written as its documentation or its article shows it, for this bench. Those from PyPI run in virtual
environments of their own under build/peers, which `make bench-peers` brings. None but the naive one stores anything.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.measures import BUILD
from bench.models import MOBILENET, Bench
from bench.peers.http_client import HttpClient, as_litserve, as_mlserver, as_upload
from bench.peers.naive_client import NaiveClient
from bench.profile import Profile
from millrace.demo.ports import free_port
from millrace.demo.stage import wait_until

HERE = Path(__file__).resolve().parent
VENVS = BUILD / "peers"
START_TIMEOUT_S = 90.0


@dataclass(slots=True)
class Peer:
    """A system that is running; it stands still between its rounds."""

    name: str
    bar: float
    """How many times its frames/s ours are to be."""
    share: float
    """How many of a round's frames it gets: slow ones fewer."""
    process: subprocess.Popen[bytes]
    send: Callable[[Sequence[bytes], int, int], float]
    pauses: bool = True

    def count(self, frames: int) -> int:
        """Return how many frames a round has for it."""
        return max(20, int(frames * self.share))

    def run(self, pictures: Sequence[bytes], count: int, in_flight: int) -> float:
        """Return the frames/s of one round in a closed loop."""
        self._signal(signal.SIGCONT)
        try:
            return self.send(pictures, count, in_flight)
        finally:
            self.rest()

    def rest(self) -> None:
        """Let it stand still: what it does while it has nothing to do is no load on others."""
        if self.pauses:
            self._signal(signal.SIGSTOP)

    def end(self) -> None:
        """End it and all its processes."""
        self._signal(signal.SIGKILL)
        self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)


def ready_peers(
    stack: ExitStack, home: Path, profile: Profile, broker_port: int, bench: Bench, left_out: list[str]
) -> list[Peer]:
    """Start those that are here, each having answered once; say in `left_out` which are not, and why."""
    home.mkdir(parents=True)
    model = str(bench.model)
    if bench.model != MOBILENET:
        left_out.append("other systems beside ours: they are written for MobileNetV2")
        return []
    found = [_naive(stack, home, broker_port, model)]
    if not profile.peers:
        left_out.append("Flask services, LitServe, MLServer: in the profile full only")
        return found
    starts: Mapping[str, Callable[[ExitStack, Path, str], list[Peer]]] = {
        "flask": _flask,
        "litserve": _litserve,
        "mlserver": _mlserver,
    }
    for venv, start in starts.items():
        if (VENVS / venv / "ready").exists():
            found += start(stack, home, model)
        else:
            left_out.append(f"{venv}: not installed (make bench-peers brings it; the network is needed)")
    return found


def _naive(stack: ExitStack, home: Path, broker_port: int, model: str) -> Peer:
    command = [sys.executable, str(HERE / "naive_gateway.py"), str(broker_port), model, str(home / "naive.db")]
    process = _started(stack, home, "naive", command)
    client = NaiveClient(broker_port)
    stack.callback(client.close)
    _await_start(process, home, "naive", client.is_answered)
    return Peer("a naive MQTT gateway: all in on_message, sqlite-utils insert", 2.5, 0.5, process, client.run, False)


def _flask(stack: ExitStack, home: Path, _model: str) -> list[Peer]:
    python = str(VENVS / "flask" / "bin" / "python")
    subprocess.run([python, str(HERE / "mobilenet_onnx.py"), str(home)], check=True, capture_output=True)
    peers = []
    for script, model, name, bar, share in (
        (
            "flask_cv2.py",
            "float.onnx",
            "an article's Flask service: cv2, float MobileNetV2 of random weights",
            3.0,
            0.4,
        ),
        (
            "flask_pillow.py",
            "dynamic.onnx",
            "an article's Flask service: Pillow, the same by quantize_dynamic",
            12.0,
            0.1,
        ),
    ):
        port = free_port()
        process = _started(stack, home, script, [python, str(HERE / script), str(home / model), str(port)])
        client = HttpClient(port, "/predict", as_upload)
        _await_start(process, home, script, client.is_answered)
        peers.append(Peer(name, bar, share, process, client.run))
    return peers


def _litserve(stack: ExitStack, home: Path, model: str) -> list[Peer]:
    port = free_port()
    command = [str(VENVS / "litserve" / "bin" / "python"), str(HERE / "litserve_server.py"), model, str(port)]
    process = _started(stack, home, "litserve", command)
    client = HttpClient(port, "/predict", as_litserve)
    _await_start(process, home, "litserve", client.is_answered)
    return [Peer("LitServe, a worker for each core, nothing stored", 1.8, 0.5, process, client.run)]


def _mlserver(stack: ExitStack, home: Path, model: str) -> list[Peer]:
    from bench.peers.mlserver_settings import write_settings

    port, folder = free_port(), home / "mlserver"
    write_settings(folder, model, port, len(os.sched_getaffinity(0)))
    command = [str(VENVS / "mlserver" / "bin" / "mlserver"), "start", str(folder)]
    process = _started(stack, home, "mlserver-log", command)
    client = HttpClient(port, "/v2/models/mobilenet/infer", as_mlserver)
    _await_start(process, home, "mlserver-log", client.is_answered)
    return [Peer("MLServer, a parallel worker for each core, nothing stored", 1.8, 0.5, process, client.run)]


def _started(stack: ExitStack, home: Path, name: str, command: list[str]) -> subprocess.Popen[bytes]:
    """Start a program as the head of a group of its own, which ends with the stack."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with (home / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=home,
            env={**environment, "PYTHONPATH": str(HERE)},
            process_group=0,
        )
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # all of it has ended
    process.wait()


def _await_start(process: subprocess.Popen[bytes], home: Path, name: str, is_answered: Callable[[], bool]) -> None:
    def has_started() -> bool:
        words = (home / f"{name}.log").read_text(errors="replace")[-2000:]
        assert process.poll() is None, f"{name} ended:\n{words}"
        return is_answered()

    assert wait_until(has_started, START_TIMEOUT_S, 0.2), f"{name} does not answer; its words are in {home}"
