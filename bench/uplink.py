"""The way up over a link with a round trip of 100 ms: pictures a second, and how long a reading waits beside them.

The real `millrace sync` drains a gateway's database to the real reference cloud; between them every byte is late.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from bench.measures import Measure, at_least, at_most
from millrace import events, topics
from millrace.blobs import BlobStore
from millrace.clock import Instant
from millrace.demo.stage import wait_until
from millrace.entries import Draft, Lane
from millrace.outbox import Outbox
from millrace.settled import SettledReader

RTT_S = 0.1
PICTURES = 200
PICTURE_BYTES = 20_000
READING_EVERY_S = 0.25
TIMEOUT_S = 120.0
EPOCH = "benchmrk"
INSTANT = Instant(1_795_249_800_000_000_000, "bench", 1)
TOKEN = "a token of the bench"


def measures(home: Path) -> list[Measure]:
    """Return what was measured: one backlog of pictures, with a reading now and then while it drains."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "token").touch(0o600)
    (home / "token").write_text(TOKEN)
    with _cloud(home) as cloud_port:
        link = LateLink(cloud_port, RTT_S)
        try:
            pictures_per_s, waits_s = _drain(home, link.port)
        finally:
            link.close()
    size, rtt_ms = f"{PICTURE_BYTES // 1000} KB", RTT_S * 1000
    return [
        at_least(
            f"pictures/s of {size} up a link of {rtt_ms:.0f} ms (one for each round trip)",
            pictures_per_s,
            1 / RTT_S,
            2.0,
        ),
        at_most("s until a reading that comes meanwhile is settled, median", statistics.median(waits_s), 0.6),
        at_most("the same, worst", max(waits_s), 1.5),
    ]


class LateLink:
    """A TCP link on loopback on which each byte takes half of a round trip, however many are under way."""

    def __init__(self, target_port: int, rtt_s: float) -> None:
        self._target_port, self._delay_s = target_port, rtt_s / 2
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="late-link", daemon=True)
        self._thread.start()
        listening = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._carry_both_ways, "127.0.0.1", 0), self._loop
        )
        self.port: int = listening.result(10).sockets[0].getsockname()[1]

    def close(self) -> None:
        """End it with all its connections."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry_both_ways(self, near_in: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        far_in, far = await asyncio.open_connection("127.0.0.1", self._target_port)
        try:
            await asyncio.gather(self._carry(near_in, far), self._carry(far_in, near))
        finally:
            near.close()
            far.close()

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            self._loop.call_later(self._delay_s, sink.write, data)
        self._loop.call_later(self._delay_s, sink.close)


@contextmanager
def _cloud(home: Path) -> Iterator[int]:
    """Run the reference cloud; yield its port."""
    settings = {
        "port": 0,
        "state_dir": str(home / "cloud"),
        "gateways": [{"site": "bench", "gateway": "bench", "token_file": str(home / "token")}],
    }
    process = _start(home, "cloud", settings, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        ready = re.search(rb":(\d+)\s*$", process.stdout.readline())
        assert ready is not None, (home / "cloud.log").read_text()
        yield int(ready[1])
    finally:
        process.terminate()
        process.wait(20)
        assert process.stdout is not None
        process.stdout.close()


def _start(home: Path, program: str, settings: dict[str, object], stdout: int | None = None) -> subprocess.Popen[bytes]:
    path = home / f"{program}.yaml"
    path.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "millrace", program, "--config", str(path)]
    with (home / f"{program}.log").open("wb") as log:
        return subprocess.Popen(command, stdout=stdout, stderr=log)


def _drain(home: Path, port: int) -> tuple[float, list[float]]:
    """Return pictures a second from the first look to the last settled row, and how long each reading waited."""
    state = home / "state"
    outbox = Outbox(state / "gateway.db", BlobStore(state / "frames"), "bench")
    settled = SettledReader(state / "sync.db")
    _append_reading(outbox, 1)
    process = _start(
        home,
        "sync",
        {
            "gateway": "bench",
            "state_dir": str(state),
            "cloud": {"url": f"http://127.0.0.1:{port}", "token_file": str(home / "token")},
        },
    )
    try:
        assert wait_until(lambda: bool(settled.read(outbox.epoch).get(Lane.BULK)), TIMEOUT_S), "no first row"
        _append_pictures(outbox, 2)
        last_picture = outbox.next_position - 1
        begun_s = time.perf_counter()
        waits_s: list[float] = []
        seq = PICTURES + 2
        while last_picture not in settled.read(outbox.epoch).get(Lane.FRAME, ()):
            assert time.perf_counter() - begun_s < TIMEOUT_S, (home / "sync.log").read_text()
            waits_s.append(_wait_for_a_reading(outbox, settled, seq))
            seq += 1
            time.sleep(READING_EVERY_S)
        return PICTURES / (time.perf_counter() - begun_s), waits_s
    finally:
        process.terminate()
        process.wait(20)
        outbox.close()


def _wait_for_a_reading(outbox: Outbox, settled: SettledReader, seq: int) -> float:
    position = _append_reading(outbox, seq)
    begun_s = time.perf_counter()
    arrived = wait_until(lambda: position in settled.read(outbox.epoch).get(Lane.BULK, ()), TIMEOUT_S, 0.005)
    assert arrived, "a reading is not settled"
    return time.perf_counter() - begun_s


def _append_reading(outbox: Outbox, seq: int) -> int:
    key = events.Key(topics.device_source("millrace", "bench", "belt"), EPOCH, seq)
    body = events.encode_json(events.new_event(events.READING, key, INSTANT, data={"t": seq}))
    with outbox.transaction():
        return outbox.append([Draft(Lane.BULK, EPOCH, seq, body)], 0.0)[0].position


def _append_pictures(outbox: Outbox, first_seq: int) -> None:
    with outbox.transaction():
        for seq in range(first_seq, first_seq + PICTURES):
            picture = b"%8d" % seq + bytes(PICTURE_BYTES - 8)
            digest = hashlib.sha256(picture).hexdigest()
            key = events.Key(topics.device_source("millrace", "bench", "top"), EPOCH, seq)
            body = events.encode_json(events.new_event(events.FRAME, key, INSTANT, datacontenttype="image/jpeg"))
            outbox.put_pictures({digest: picture})
            outbox.append([Draft(Lane.FRAME, EPOCH, seq, body, digest, len(picture))], 0.0)
