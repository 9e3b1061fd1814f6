"""The gateway as it is run, on both brokers: strangers are served, poison stops nothing, and bad settings end it."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import urllib3
import yaml
from integration.brokers import (
    Address,
    Client,
    EmbeddedBroker,
    Message,
    denying_mosquitto,
    free_port,
    start_mosquitto,
    wait_until,
)
from paho.mqtt.enums import MQTTProtocolVersion

from millrace import events, images, topics
from millrace.clock import Instant
from millrace.entries import Lane
from millrace.outbox_reader import Reader
from millrace_models import bundle_path

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
MODELS, IMAGES = DATA / "models", DATA / "images"
MAX_PAYLOAD_BYTES = 200_000
START_S = 120.0
EPOCH = "k3v9x0pa"
INSTANT = Instant(1_790_000_000_000_000_000, "f00d", 5)
HTTP = urllib3.PoolManager(retries=False, timeout=60)
NOISE = np.random.default_rng(1).integers(0, 255, (120, 160, 3), np.uint8)


def encoded(suffix: str) -> bytes:
    return bytes(cv2.imencode(suffix, NOISE)[1].tobytes())


JPEG, PNG, WEBP = encoded(".jpg"), encoded(".png"), encoded(".webp")


class Gateway:
    """`python -m millrace gateway` with settings of its own in a folder of its own."""

    def __init__(self, home: Path, broker: Address, **settings: Any) -> None:
        self.home, self.port = home, free_port()
        self.settings = {
            "gateway": "g1",
            "state_dir": "state",
            "broker": {"port": broker.port, "reconnect_max_s": 0.2},
            "max_payload_bytes": MAX_PAYLOAD_BYTES,
            "workers": 1,
            "models": [{"bundle": str(bundle_path("parts"))}],
            "http": {"port": self.port},
        } | settings
        self.start()

    def start(self) -> None:
        self.home.mkdir(exist_ok=True)
        with (self.home / "gateway.log").open("ab") as log:
            self.process = subprocess.Popen(command(self.home, self.settings), stdout=log, stderr=log)

    def log(self) -> str:
        return (self.home / "gateway.log").read_text(errors="replace")

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, **more: Any
    ) -> urllib3.BaseHTTPResponse:
        return HTTP.request(method, f"http://127.0.0.1:{self.port}{path}", body=body, headers=headers, **more)

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log()
        try:
            return self.ask("GET", "/health").status != 0
        except urllib3.exceptions.HTTPError:
            return False

    def health(self, **headers: str) -> tuple[int, dict[str, Any]]:
        answer = self.ask("GET", "/health", headers=headers)
        return answer.status, answer.json()

    def metric(self, name: str, headers: dict[str, str] | None = None) -> float:
        lines = self.ask("GET", "/metrics", headers=headers).data.decode().splitlines()
        return next((float(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0.0)

    def quarantined(self) -> float:
        return self.metric("millrace_events_quarantined_total")

    def ledger(self, device: str) -> list[tuple[int, int, str]]:
        """Return (from, to, disposition) of every ledger record about a device."""
        reader = Reader(self.home / "state" / "gateway.db")
        datas = [json.loads(row.body)["data"] for row in reader.read(Lane.RESULT, 0, 10_000)]
        reader.close()
        return [(d["from"], d["to"], d["disposition"]) for d in datas if "disposition" in d and d["device"] == device]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


def command(home: Path, settings: dict[str, Any]) -> list[str]:
    home.mkdir(exist_ok=True)
    (home / "gateway.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return [sys.executable, "-m", "millrace", "gateway", "--config", str(home / "gateway.yaml")]


@contextmanager
def running(home: Path, broker: Address, **settings: Any) -> Iterator[Gateway]:
    gateway = Gateway(home, broker, **settings)
    gateway.port = gateway.settings["http"]["port"]
    try:
        wait_until(gateway.answers, "the gateway answers", START_S)
        yield gateway
    finally:
        if gateway.process.poll() is None:
            gateway.stop()


@dataclass
class Floor:
    """A broker and a gateway that many tests share, each with devices of its own."""

    broker: Address
    gateway: Gateway
    stack: ExitStack
    clients: int = 0
    devices: int = 0

    def client(self, *filters: str) -> Client:
        self.clients += 1
        client = Client(self.broker, f"test-{self.clients}", protocol=MQTTProtocolVersion.MQTTv311)
        self.stack.enter_context(client)
        for each in filters:
            client.subscribe(each)
        return client

    def device(self) -> Device:
        self.devices += 1
        name = f"dev-{self.devices}"
        return Device(self, name, self.client(*(f"millrace/device/{name}/{kind}" for kind in ("result/#", "receipt"))))


@dataclass
class Device:
    """A device that never was seen before, and what it hears."""

    floor: Floor
    name: str
    mqtt: Client
    seq: int = 0
    shade: int = field(default=0)

    def send(self, kind: str, payload: bytes, **how: Any) -> None:
        self.mqtt.publish(f"millrace/device/{self.name}/{kind}", payload, **how)

    def key(self, seq: int, channel: str = "camera", device: str | None = None) -> events.Key:
        return events.Key(topics.device_source("millrace", device or self.name, channel), EPOCH, seq)

    def frame(self, seq: int, picture: bytes = JPEG, device: str | None = None) -> bytes:
        return events.encode_frame(
            events.new_event(events.FRAME, self.key(seq, device=device), INSTANT, datacontenttype="image/jpeg"), picture
        )

    def reading(self, seq: int, device: str | None = None) -> bytes:
        key = self.key(seq, "belt", device)
        return events.encode_json(events.new_event(events.READING, key, INSTANT, data={"temperature_c": 41.2}))

    def next(self, kind: str) -> dict[str, Any]:
        """Return the next message of a kind, others left aside."""
        while True:
            message: Message = self.mqtt.next()
            if message.topic.startswith(f"millrace/device/{self.name}/{kind}"):
                value: dict[str, Any] = json.loads(message.payload)
                return value

    def greeted_by(self) -> dict[str, Any]:
        """Say that it is online, and return the next receipt."""
        self.send("status", json.dumps({"state": "online", "epoch": EPOCH, "minted": 0}).encode())
        return self.next("receipt")

    def is_answered(self) -> bool:
        """Send a good bare frame and wait for its result: the line goes on, and what came before it is through."""
        self.send("frame/probe", JPEG)
        while not (found := self.next("result/probe"))["subject"].startswith(f"{self.name}/probe/"):
            continue
        return found["data"]["model"] == "parts@1"


@pytest.fixture(scope="module", params=[pytest.param("mosquitto", marks=pytest.mark.mosquitto), "embedded"])
def floor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Floor]:
    home = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        if request.param == "mosquitto":
            process = stack.enter_context(start_mosquitto(home / "mosquitto"))
            address = Address(process.host, process.port)
        else:
            broker = EmbeddedBroker()
            stack.callback(broker.stop)
            address = broker.address
        gateway = stack.enter_context(running(home / "gateway", address))
        wait_until(lambda: gateway.health()[0] == 200, "the gateway is on the broker", START_S)
        yield Floor(address, gateway, stack)


@pytest.fixture
def device(floor: Floor) -> Device:
    return floor.device()


# --- strangers


def test_a_photo_from_mosquitto_pub_is_answered(floor: Floor, tmp_path: Path) -> None:
    program = shutil.which("mosquitto_pub")
    if program is None:
        pytest.skip("mosquitto_pub is not on this machine (Debian: mosquitto-clients)")
    (tmp_path / "photo.jpg").write_bytes(JPEG)
    watcher = floor.client("millrace/device/esp32-7/result/#")
    topic = "millrace/device/esp32-7/frame/camera"
    subprocess.run(
        [program, "-p", str(floor.broker.port), "-q", "1", "-t", topic, "-f", tmp_path / "photo.jpg"], check=True
    )
    message = watcher.next()
    assert message.topic == "millrace/device/esp32-7/result/camera"
    result = json.loads(message.payload)
    assert result["subject"].startswith("esp32-7/camera/")
    assert result["data"]["label"] in ("ok", "scratch", "missing_screw", "stain")


def test_a_name_that_is_refused_stands_in_the_status_with_the_nearest_good_one(floor: Floor, device: Device) -> None:
    device.mqtt.publish("millrace/device/Cam_7/frame/camera", JPEG)
    watcher = floor.client("millrace/gateway/g1/status")
    status = json.loads(watcher.next().payload)
    while not status["refused"]:
        status = json.loads(watcher.next().payload)
    assert status["refused"] == [
        {"topic": "millrace/device/Cam_7/frame/camera", "try": "millrace/device/cam-7/frame/camera"}
    ]
    assert device.is_answered()


@pytest.mark.parametrize("picture", [PNG, WEBP], ids=["png", "webp"])
def test_other_formats_are_answered_too(device: Device, picture: bytes) -> None:
    device.send("frame/camera", picture)
    assert device.next("result/camera")["data"]["score"] > 0


def test_senml_and_flat_readings_are_taken(floor: Floor, device: Device) -> None:
    before = floor.gateway.quarantined()
    device.send("reading/belt", b'[{"bn": "belt:", "n": "t", "u": "Cel", "v": 41.2}, {"n": "rpm", "v": 900, "t": -60}]')
    device.send("reading/belt", b'{"temperature_c": 41.2, "on": true}')
    assert device.is_answered()
    reader = Reader(floor.gateway.home / "state" / "gateway.db")
    bodies = [json.loads(row.body) for row in reader.read(Lane.BULK, 0, 10_000)]
    reader.close()
    mine = [body["data"] for body in bodies if body["source"] == f"/millrace/device/{device.name}/belt"]
    assert mine == [
        {"belt:t": 41.2, "belt:t_unit": "Cel"},
        {"belt:rpm": 900},
        {"temperature_c": 41.2, "on": True},
    ]
    assert floor.gateway.quarantined() == before


# --- poison


def png_bomb() -> bytes:
    """Return a whole PNG of 20000 x 20000 pixels, one bit each: 50 KB here, 1.2 GB decoded."""
    rows = zlib.compress(bytes(20_000 * (1 + 20_000 // 8)), 9)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def jpeg_bomb() -> bytes:
    place = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:place] + struct.pack(">HH", 20_000, 20_000) + JPEG[place + 4 :]


POISON: dict[str, tuple[str, bytes]] = {
    "not a number": ("reading/belt", b'{"t": NaN}'),
    "too deep": ("reading/belt", b"[" * 10_000 + b"]" * 10_000),
    "a key twice": ("reading/belt", b'{"t": 1, "t": 2}'),
    "a huge integer": ("reading/belt", b'{"t": %s}' % (b"9" * 10_000)),
    "no utf-8": ("reading/belt", b'{"t": "\xff"}'),
    "an empty reading": ("reading/belt", b""),
    "an empty frame": ("frame/camera", b""),
    "text as a frame": ("frame/camera", b"hello, world"),
    "a bare jpeg cut short": ("frame/camera", JPEG[: len(JPEG) // 2]),
    "a bare jpeg of a header": ("frame/camera", JPEG[:200]),
    "a jpeg bomb": ("frame/camera", jpeg_bomb()),
    "over the limit": ("frame/camera", JPEG + bytes(MAX_PAYLOAD_BYTES)),
    "a bare waveform": ("waveform/motor", b'{"samples": [1, 2]}'),
    "a ledger of nobody": ("ledger", b"{}"),
    "a status in words": ("status", b"fine, thank you"),
}


@pytest.mark.parametrize("what", POISON)
def test_poison_is_set_aside_once_and_the_line_goes_on(floor: Floor, device: Device, what: str) -> None:
    before = floor.gateway.quarantined()
    device.send(*POISON[what])
    assert device.is_answered()
    assert floor.gateway.quarantined() == before + 1


def test_a_bomb_is_refused_before_it_is_decoded(floor: Floor, device: Device) -> None:
    assert device.is_answered()
    before, peak_kib = floor.gateway.quarantined(), peak_memory_kib(floor.gateway)
    bomb = png_bomb()
    assert len(bomb) < MAX_PAYLOAD_BYTES
    device.send("frame/camera", bomb)
    assert device.is_answered()
    assert floor.gateway.quarantined() == before + 1
    assert peak_memory_kib(floor.gateway) - peak_kib < 100_000


def peak_memory_kib(gateway: Gateway) -> int:
    status = Path(f"/proc/{gateway.process.pid}/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


@pytest.mark.parametrize("kind", ["frame/camera", "reading/belt"])
def test_an_event_in_anothers_name_is_set_aside_and_nobody_is_told(floor: Floor, device: Device, kind: str) -> None:
    victim = floor.device()
    before = floor.gateway.quarantined()
    make = device.frame if kind.startswith("frame") else device.reading
    device.send(kind, make(1, device=victim.name))
    assert device.is_answered()
    assert floor.gateway.quarantined() == before + 1
    victim.send("status", json.dumps({"state": "online", "epoch": EPOCH, "minted": 0}).encode())
    assert victim.next("receipt")["ranges"] == []
    device.send("status", json.dumps({"state": "online", "epoch": EPOCH, "minted": 0}).encode())
    assert device.next("receipt")["ranges"] == []


@pytest.mark.parametrize("kept", [0.2, 0.6], ids=["header only", "half the pixels"])
def test_a_frame_with_a_key_that_is_cut_short_is_receipted_and_buried(
    floor: Floor, device: Device, kept: float
) -> None:
    before = floor.gateway.quarantined()
    whole = device.frame(1)
    device.send("frame/camera", whole[: int(len(whole) * kept)])
    told = {"gateway": "g1", "epoch": EPOCH, "ranges": [[1, 1]], "window_bytes": 2 << 20}
    assert told.items() <= device.next("receipt").items()
    assert floor.gateway.ledger(device.name) == [(1, 1, "buried")]
    device.send("frame/camera", device.frame(2))
    assert device.next("result/camera")["subject"] == f"{device.name}/camera/{EPOCH}-2"
    assert device.next("receipt")["ranges"] == [[1, 2]]
    assert floor.gateway.quarantined() == before + 1


def test_a_frame_with_a_key_that_is_too_large_is_receipted_and_buried(floor: Floor, device: Device) -> None:
    device.send("frame/camera", device.frame(1, JPEG + bytes(MAX_PAYLOAD_BYTES)))
    assert device.next("receipt")["ranges"] == [[1, 1]]
    assert floor.gateway.ledger(device.name) == [(1, 1, "buried")]


def test_a_message_that_no_limit_foresees_does_not_stop_the_line(floor: Floor, device: Device) -> None:
    """Mosquitto keeps it from a client that named its limit; the embedded broker delivers it."""
    before = floor.gateway.quarantined()
    device.send("frame/camera", JPEG + bytes(4 * MAX_PAYLOAD_BYTES))
    assert device.is_answered()
    assert floor.gateway.quarantined() - before in (0, 1)
    assert floor.gateway.process.poll() is None


def test_a_key_that_comes_twice_is_answered_twice_and_stored_once(device: Device) -> None:
    for _ in range(2):
        device.send("frame/camera", device.frame(1))
    results = [device.next("result/camera") for _ in range(2)]
    assert results[0] == results[1]


def test_what_a_broker_retained_is_no_news(device: Device, tmp_path: Path) -> None:
    """Leftovers of a former life, good and bad, lie on the broker when a gateway comes."""
    broker = device.floor.broker
    device.send("frame/camera", device.frame(1), retain=True)
    device.send("reading/belt", b'{"t": NaN}', retain=True)
    assert device.is_answered()
    heard = device.floor.client(f"millrace/device/{device.name}/result/#")
    try:
        with running(tmp_path / "g2", broker, gateway="g2") as second:
            wait_until(lambda: second.health()[0] == 200, "it is on the broker", START_S)
            device.send("frame/probe", JPEG)
            subjects: set[str] = set()
            while len(subjects) < 2:  # one answer of each gateway
                subjects.add(json.loads(heard.next().payload)["subject"])
            assert all("/probe/" in subject for subject in subjects)
            assert second.quarantined() == 0
            device.send("status", b'{"state": "online"}', retain=True)
            before = second.quarantined()
            device.send("status", b"", retain=True)  # taken back
            assert device.is_answered()
            assert second.quarantined() == before
    finally:
        for kind in ("frame/camera", "reading/belt"):
            device.send(kind, b"", retain=True)


# --- a flood


@pytest.mark.parametrize("keyed", [True, False], ids=["keyed", "bare"])
def test_a_quiet_device_is_served_while_another_floods(floor: Floor, device: Device, keyed: bool) -> None:
    """The flood is above the hard rate; the quiet device's events all arrive and are answered."""
    flood = floor.device()
    limits = {"inbox_bytes": 20 * len(JPEG), "line_frames": 4, "device_events_s": 5.0}
    home = floor.gateway.home.parent / f"small-{flood.name}"
    with running(home, floor.broker, gateway=f"small-{flood.name}", limits=limits) as small:
        wait_until(lambda: small.health()[0] == 200, "it is on the broker", START_S)
        while device.greeted_by()["gateway"] == "g1":
            continue
        payload = flood.frame(1) if keyed else JPEG
        poured = 0

        def pour() -> None:
            nonlocal poured
            poured += 100
            for _ in range(100):
                flood.mqtt.paho.publish(f"millrace/device/{flood.name}/frame/camera", payload, 1)

        def over_share() -> set[str]:
            return {each["device"] for each in small.health()[1]["over_share"]}

        def is_too_much() -> bool:
            """It is forgotten 10 s after the last that was turned away, and a slow broker takes long."""
            if not (found := flood.name in over_share()):
                pour()
            return found

        for seq in range(1, 6):
            pour()
            device.send("frame/camera", device.frame(seq))
        receipt: dict[str, Any] = {}
        while (receipt.get("gateway"), receipt.get("ranges")) != (small.settings["gateway"], [[1, 5]]):
            receipt = device.next("receipt")
        assert receipt["window_bytes"] == 2 << 20
        wait_until(is_too_much, "the flood is more than a share")
        assert device.name not in over_share()
        assert small.metric(f'millrace_events_turned_away_total{{device="{flood.name}"}}') > 0
        assert small.metric(f'millrace_events_turned_away_total{{device="{device.name}"}}') == 0
        if not keyed:
            wait_until(lambda: bool(small.ledger(flood.name)), "what was given up is declared")
            assert {what for _, _, what in small.ledger(flood.name)} == {"shed"}
            accounted = small.metric("millrace_events_shed_total")

            def declared() -> float:
                return sum(last - first + 1 for first, last, _ in small.ledger(flood.name))

            wait_until(lambda: declared() == small.metric("millrace_events_shed_total"), "all of it is declared")
            assert accounted <= declared() <= poured
            assert len(small.ledger(flood.name)) < 20


# --- HTTP


def test_an_upload_is_answered_raw_and_as_a_form(floor: Floor) -> None:
    raw = floor.gateway.ask("POST", "/predict", JPEG)
    form = floor.gateway.ask("POST", "/predict", fields={"note": "x", "file": ("part.jpg", JPEG, "image/jpeg")})
    assert (raw.status, form.status) == (200, 200)
    scores = {(answer.json()["results"][0]["label"], answer.json()["results"][0]["score"]) for answer in (raw, form)}
    assert len(scores) == 1


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"hello", 422, "not a JPEG, PNG or WebP"),
        (b"", 422, "not a JPEG, PNG or WebP"),
        (JPEG[: len(JPEG) // 2], 422, "cut short"),
        (JPEG[:2] + 2 * (b"\xff\xfe\0\x12" + images.MARK + b"}}") + JPEG[2:], 422, "carries attributes twice"),
        (bytes(MAX_PAYLOAD_BYTES + 1), 413, f"at most {MAX_PAYLOAD_BYTES} bytes"),
    ],
)
def test_an_upload_that_is_no_picture_is_refused_in_words(floor: Floor, body: bytes, status: int, said: str) -> None:
    raw = floor.gateway.ask("POST", "/predict", body)
    form = floor.gateway.ask("POST", "/predict", fields={"file": ("part.jpg", body, "image/jpeg")})
    for answer in (raw, form):
        assert answer.status == status, answer.data
        assert said in answer.json()["error"]


def test_an_upload_larger_than_any_form_is_refused_while_it_comes(floor: Floor) -> None:
    def endless() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        for _ in range(100):
            yield bytes(100_000)

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    try:
        assert floor.gateway.ask("POST", "/predict", endless(), headers).status == 413  # type: ignore[arg-type]
    except urllib3.exceptions.ProtocolError as error:
        assert "reset" in str(error) or "pipe" in str(error)  # noqa: PT017  (it said no and hung up)
    assert floor.gateway.ask("POST", "/predict", JPEG).status == 200


def test_a_form_without_a_file_and_a_channel_that_is_none_are_refused(floor: Floor) -> None:
    assert floor.gateway.ask("POST", "/predict", fields={"note": "x"}).status == 422
    assert floor.gateway.ask("POST", "/predict?channel=Top_1", JPEG).status == 422
    assert floor.gateway.ask("GET", "/predict").status == 405


def test_uploads_side_by_side_each_get_their_own_answer(floor: Floor) -> None:
    pictures = [
        bytes(cv2.imencode(".png", np.full((120, 160, 3), shade, np.uint8))[1].tobytes()) for shade in range(0, 240, 15)
    ]

    def ask(picture: bytes) -> tuple[str, float]:
        result = floor.gateway.ask("POST", "/predict", picture).json()["results"][0]
        return result["label"], result["score"]

    alone = [ask(picture) for picture in pictures]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, pictures)) == alone
    assert len(set(alone)) > 1


def test_a_flood_over_http_leaves_each_frame_its_answer(floor: Floor, device: Device) -> None:
    picture = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(JPEG).decode()]}
    uploads = {"/predict": JPEG, "/v2/models/parts/infer": json.dumps({"inputs": [picture]}).encode()}
    enough, statuses = threading.Event(), Counter[tuple[str, int]]()

    def pour(path: str) -> None:
        while not enough.is_set():
            statuses[path, floor.gateway.ask("POST", path, uploads[path]).status] += 1

    with ThreadPoolExecutor(12) as pool:
        for path in [*uploads] * 6:
            pool.submit(pour, path)
        try:
            assert all(device.is_answered() for _ in range(10))
        finally:
            enough.set()
    assert {status for _, status in statuses} <= {200, 503}
    assert min(statuses[path, 200] for path in uploads) > 0


@pytest.fixture
def no_broker() -> Address:
    return Address("127.0.0.1", free_port())


def test_health_is_ok_only_while_the_broker_is_there_and_only_for_those_with_the_token(
    tmp_path: Path, no_broker: Address
) -> None:
    (tmp_path / "token").touch(mode=0o600)
    (tmp_path / "token").write_text("open-sesame")
    port = free_port()
    http = {"port": port, "token_file": "../token", "predict_timeout_s": 0.001}
    right = {"Authorization": "Bearer open-sesame"}
    gateway = Gateway(tmp_path / "g", no_broker, http=http)
    gateway.port = port
    with ExitStack() as stack:
        stack.callback(gateway.stop)
        wait_until(gateway.answers, "the gateway answers", START_S)
        for path in ("/health", "/metrics"):
            assert gateway.ask("GET", path).status == 401
            assert gateway.ask("GET", path, headers={"Authorization": "Bearer wrong"}).status == 401
        assert gateway.ask("POST", "/predict", JPEG).status == 401
        assert gateway.health(**right)[0] == 503
        assert gateway.health(**right)[1]["problems"] == ["no connection to the broker"]
        (engine,) = gateway.health(**right)[1]["engines"]
        assert (engine["model"], bool(engine["engine"]), bool(engine["engine_reason"])) == ("parts@1", True, True)
        for _ in range(2):
            broker = EmbeddedBroker(no_broker.port)
            try:
                wait_until(lambda: gateway.health(**right)[0] == 200, "it is well", START_S)
            finally:
                broker.process.kill()
                broker.stop()
            wait_until(lambda: gateway.health(**right)[0] == 503, "it notices", START_S)
            assert {gateway.health(**right)[0] for _ in range(30)} == {503}
        # An upload that nobody waits for any more is committed all the same, and ends nothing.
        # (One whose body was not read in that short time is told so, 408, and is none of the gateway's.)
        statuses: list[int] = []
        while 504 not in statuses or len(statuses) < 5:
            statuses.append(gateway.ask("POST", "/predict", JPEG, right).status)
        taken = sum(status in (200, 504) for status in statuses)
        name = 'millrace_events_received_total{device="http",type="frame"}'
        wait_until(lambda: gateway.metric(name, right) == taken, "all that were read are committed")


def test_a_caller_who_drips_is_told_so_and_one_who_hangs_up_leaves_no_trace(tmp_path: Path, no_broker: Address) -> None:
    port = free_port()
    with running(tmp_path / "g", no_broker, http={"port": port, "predict_timeout_s": 0.5}) as gateway:
        head = b"POST /predict HTTP/1.1\r\nHost: g\r\nContent-Length: 1000\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), 60) as dripping:
            dripping.sendall(head + JPEG[:10])
            assert dripping.recv(4096).startswith(b"HTTP/1.1 408 ")
        with socket.create_connection(("127.0.0.1", port), 60) as gone:
            gone.sendall(head + JPEG[:10])
        assert gateway.ask("GET", "/health").status == 503
        assert gateway.stop() == 0
        assert "Traceback" not in gateway.log()


def test_hundreds_who_are_connected_and_say_nothing_use_nothing_up(floor: Floor) -> None:
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(socket.create_connection(("127.0.0.1", floor.gateway.port), 10))
        assert floor.gateway.health()[0] == 200
        assert len(list(Path(f"/proc/{floor.gateway.process.pid}/fd").iterdir())) < 200


def test_a_gateway_says_of_whatever_goes_wrong_that_it_is_not_well(tmp_path: Path) -> None:
    """A model without answers, its own file damaged, another gateway under its name: each in turn, one by one."""
    broker = EmbeddedBroker()
    with ExitStack() as stack:
        stack.callback(broker.stop)
        model = {"bundle": str(overflowing_bundle(tmp_path / "dense"))}
        gateway = stack.enter_context(running(tmp_path / "g", broker.address, models=[model]))
        wait_until(lambda: gateway.health()[0] == 200, "it is well", START_S)

        black, white = (bytes(cv2.imencode(".png", np.full((3, 2, 3), v, np.uint8))[1].tobytes()) for v in (0, 255))
        for _ in range(3):
            answer = gateway.ask("POST", "/predict", white)
            assert (answer.status, "inference failed" in answer.json()["error"]) == (500, True)
        status, said = gateway.health()
        assert (status, len(said["problems"])) == (503, 1)
        assert said["problems"][0].startswith("model dense@1 fails: ")
        assert gateway.ask("POST", "/predict", black).status == 200
        assert gateway.health()[0] == 200

        with closing(sqlite3.connect(gateway.home / "state" / "gateway.db")) as file, file:
            file.execute("UPDATE own_epoch SET next_seq = next_seq + 1")
        status, said = gateway.health()
        assert (status, said["backlog"], len(said["problems"])) == (503, {}, 1)
        assert said["problems"][0].startswith("the gateway's own file cannot be read: ")
        assert gateway.metric("millrace_broker_connected") == 1
        with closing(sqlite3.connect(gateway.home / "state" / "gateway.db")) as file, file:
            file.execute("UPDATE own_epoch SET next_seq = next_seq - 1")
        assert gateway.health()[0] == 200

        client = stack.enter_context(Client(broker.address, "namesake", protocol=MQTTProtocolVersion.MQTTv311))
        numbers = iter(range(10**6))

        def is_heard() -> bool:
            status = {"state": "online", "session": "another", "uptimens": str(next(numbers))}
            client.publish("millrace/gateway/g1/status", json.dumps(status).encode())
            return gateway.health()[0] == 503

        wait_until(is_heard, "it hears the other")
        assert gateway.health()[1]["problems"] == ["another gateway runs under this one's name: session another"]


def test_a_file_that_keeps_health_waiting_keeps_nobody_else(tmp_path: Path, no_broker: Address) -> None:
    with running(tmp_path / "g", no_broker) as gateway, ThreadPoolExecutor(1) as pool:
        with closing(sqlite3.connect(gateway.home / "state" / "sync.db", isolation_level=None)) as file:
            file.execute("BEGIN EXCLUSIVE")  # a reader waits 5 s each time that it asks
            health = pool.submit(gateway.health)
            assert not wait([health], 0.3).done
            for _ in range(3):
                assert gateway.ask("GET", "/v2/health/live", timeout=4).status == 200
            assert not health.done()
        assert health.result()[0] == 503


def overflowing_bundle(folder: Path) -> Path:
    """Return a bundle whose model gives no numbers for a picture that is not dark."""
    folder.mkdir()
    with (folder / "dense.npz").open("wb") as file:
        weights = np.full((18, 2), 3e38, np.float32)
        np.savez(file, shape=np.array([1, 3, 2, 3]), weights=weights, bias=np.zeros(2, np.float32))
    manifest = {
        "name": "dense",
        "version": 1,
        "file": "dense.npz",
        "sha256": hashlib.sha256((folder / "dense.npz").read_bytes()).hexdigest(),
        "input": {"width": 2, "height": 3},
        "output": {"activation": "logits"},
        "labels": ["a", "b"],
        "licence": "Apache-2.0",
    }
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    return folder


@pytest.mark.mosquitto
def test_a_gateway_that_the_broker_lets_hear_nothing_is_not_well_and_says_so(tmp_path: Path) -> None:
    denied = "millrace/device/+/frame/#"
    with denying_mosquitto(tmp_path / "broker", denied) as broker, running(tmp_path / "g", broker) as gateway:
        wait_until(lambda: gateway.health()[1]["denied"] == [denied], "the broker's answer")
        status, said = gateway.health()
        assert (status, said["problems"]) == (503, [f"the broker denies this gateway's account to read {denied}"])
        assert gateway.log().count("subscription_denied") == 1


def test_a_damaged_file_that_it_keeps_is_counted_for_its_owner(floor: Floor) -> None:
    gateway = floor.gateway
    kept = gateway.home / "state" / "gateway.db.damaged-1"
    kept.write_bytes(b"x" * 5000)
    assert gateway.health()[1]["damaged"] == {"files": 1, "bytes": 5000}
    assert (gateway.metric("millrace_damaged_files"), gateway.metric("millrace_damaged_bytes")) == (1, 5000)
    kept.unlink()
    assert gateway.metric("millrace_damaged_files") == 0


def test_a_folder_that_takes_no_pictures_is_named_until_it_does(tmp_path: Path, no_broker: Address) -> None:
    with running(tmp_path / "g", no_broker, policies=[{"keep_frames": "all"}]) as gateway:
        folder = gateway.home / "state" / "frames" / images.digest(JPEG)[:2]
        folder.parent.mkdir(exist_ok=True)
        folder.write_text("damaged")
        assert gateway.ask("POST", "/predict", JPEG).status == 422
        status, said = gateway.health()
        assert (status, said["bad_folders"]) == (503, [f"{folder}: File exists"])
        assert f"pictures are refused: {folder}: File exists" in said["problems"]
        folder.unlink()
        assert gateway.ask("POST", "/predict", JPEG).status == 200
        assert gateway.health()[1]["bad_folders"] == []


# --- what ends it at the start


def ends(home: Path, **settings: Any) -> tuple[int, list[str]]:
    """Return the exit status of a gateway that does not start, and what it said, the runtime's own chatter left out."""
    wanted = {"gateway": "g1", "state_dir": "state", "broker": {"port": 1}, "http": {"enabled": False}} | settings
    done = subprocess.run(command(home, wanted), capture_output=True, text=True, timeout=60)
    return done.returncode, [line for line in done.stderr.splitlines() if not line.startswith(("INFO:", "WARNING:"))]


def test_a_second_gateway_on_one_state_dir_names_the_first(floor: Floor) -> None:
    status, said = ends(floor.gateway.home.parent / "second", state_dir=str(floor.gateway.home / "state"))
    assert status == 75
    assert f"is written by process {floor.gateway.process.pid}; stop that one first" in said[-1]


def test_a_host_that_others_reach_needs_a_token(tmp_path: Path) -> None:
    status, said = ends(tmp_path, http={"host": "0.0.0.0"})
    assert (status, len(said)) == (78, 1)
    assert "host '0.0.0.0' is not loopback: set token_file" in said[0]


def bundle(folder: Path, model: bytes, labels: list[str], **manifest: Any) -> str:
    """Write a bundle and return its folder."""
    folder.mkdir(parents=True)
    (folder / "model.tflite").write_bytes(model)
    (folder / "labels.txt").write_text("\n".join(labels), encoding="utf-8")
    values = {
        "name": folder.name,
        "version": 1,
        "sha256": hashlib.sha256(model).hexdigest(),
        "input": {"width": 224, "height": 224, "mean": 127.5, "std": 127.5},
        "labels_file": "labels.txt",
        "licence": "Apache-2.0",
    }
    (folder / "manifest.yaml").write_text(yaml.safe_dump(values | manifest), encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize(
    ("manifest", "said"),
    [({"labels_file": "gone.txt"}, "gone.txt: cannot read"), ({"sha256": "0" * 64}, "sha256: model.tflite has ")],
)
def test_a_bundle_that_does_not_fit_ends_the_start_with_78_and_a_line(
    tmp_path: Path, manifest: dict[str, Any], said: str
) -> None:
    folder = bundle(tmp_path / "parts", b"model", ["ok"], **manifest)
    status, lines = ends(tmp_path / "g", models=[{"bundle": folder}])
    assert (status, len(lines)) == (78, 1)
    assert said in lines[0]


REFUSED = ["posenet_*.tflite", "mobilenet_v2*_edgetpu.tflite", "model_invoking_error.tflite", "person_detect.tflite"]


@pytest.mark.parametrize("pattern", REFUSED)
def test_a_model_that_the_runtime_refuses_ends_the_start_with_78_and_its_name(tmp_path: Path, pattern: str) -> None:
    found = sorted(MODELS.glob(pattern)) if MODELS.is_dir() else []
    if not found:
        pytest.skip("no real models at ../shared/data")
    folder = bundle(tmp_path / "foreign", found[0].read_bytes(), ["ok"])
    status, lines = ends(tmp_path / "g", models=[{"bundle": folder}])
    assert status == 78
    assert lines[-1].startswith("model foreign@1: LiteRT refuses it: ")
    assert not any("Traceback" in line for line in lines)


def test_a_folder_without_a_bundle_ends_the_start_with_78_and_says_what_is_wanted(tmp_path: Path) -> None:
    status, lines = ends(tmp_path / "g", models=[{"bundle": str(tmp_path / "nowhere")}])
    assert status == 78
    assert lines == [
        f"models: bundle {tmp_path}/nowhere: no manifest.yaml there; see docs/models.md for what a bundle holds"
    ]


def test_a_taken_port_ends_the_start_with_69_and_says_how_to_find_who_has_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        status, lines = ends(tmp_path / "g", http={"port": port})
    assert status == 69
    assert lines[-1].startswith(
        f"error: cannot listen on 127.0.0.1 port {port}: Address already in use; see who does: ss"
    )
    assert not any("Traceback" in line or "broker_connected" in line for line in lines)


# --- real models, real pictures


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with three real models of ImageNet, each on a channel of its own; nothing else is needed."""
    if not MODELS.is_dir():
        pytest.skip("no real models at ../shared/data")
    home = tmp_path_factory.mktemp("imagenet")
    labels = (MODELS / "imagenet_labels.txt").read_text(encoding="utf-8").splitlines()
    assert labels[0] == "background"
    small = {"input": {"width": 128, "height": 128, "mean": 127.5, "std": 127.5}}
    bundles = {
        "v2": bundle(home / "b/v2", (MODELS / "mobilenet_v2_1.0_224_quant.tflite").read_bytes(), labels),
        "tf2": bundle(home / "b/tf2", (MODELS / "tf2_mobilenet_v2_1.0_224_ptq.tflite").read_bytes(), labels),
        "v1": bundle(home / "b/v1", (MODELS / "mobilenet_v1_0.25_128_quant.tflite").read_bytes(), labels, **small),
    }
    models = [{"bundle": folder, "channels": [f"http/{name}"]} for name, folder in bundles.items()]
    with running(home / "g", Address("127.0.0.1", free_port()), models=models, max_payload_bytes=4 << 20) as gateway:
        yield gateway


SHOWN = {"parrot.jpg": "macaw", "cat_720p.jpg": "Egyptian cat", "grace_hopper.bmp": "military uniform"}


@pytest.mark.parametrize("file", SHOWN)
@pytest.mark.parametrize("channel", ["v2", "tf2"])
def test_real_models_see_in_real_pictures_what_is_there(imagenet: Gateway, channel: str, file: str) -> None:
    picture = (IMAGES / file).read_bytes()
    if file.endswith(".bmp"):
        picture = cv2.imencode(".png", cv2.imread(str(IMAGES / file)))[1].tobytes()
    answer = imagenet.ask("POST", f"/predict?channel={channel}", picture)
    assert answer.status == 200, answer.data
    (result,) = answer.json()["results"]
    assert SHOWN[file] in result["label"]
    assert result["model"] == f"{channel}@1"


def test_labels_without_the_background_that_a_model_has_are_refused(tmp_path: Path) -> None:
    """1000 labels for 1001 outputs: every answer would be the neighbour of the right one."""
    if not MODELS.is_dir():
        pytest.skip("no real models at ../shared/data")
    labels = (MODELS / "imagenet_labels.txt").read_text(encoding="utf-8").splitlines()
    folder = bundle(tmp_path / "v2", (MODELS / "mobilenet_v2_1.0_224_quant.tflite").read_bytes(), labels[1:])
    status, lines = ends(tmp_path / "g", models=[{"bundle": folder}])
    assert status == 78
    assert "model v2@1: has 1001 outputs and 1000 labels" in lines[-1]


def test_a_small_real_model_knows_a_parrot_and_an_unbound_channel_is_told_so(imagenet: Gateway) -> None:
    picture = (IMAGES / "parrot.jpg").read_bytes()
    assert "macaw" in imagenet.ask("POST", "/predict?channel=v1", picture).json()["results"][0]["label"]
    nobody = imagenet.ask("POST", "/predict?channel=elsewhere", picture)
    assert nobody.status == 404
    assert "no model is bound to http/elsewhere" in nobody.json()["error"]


def test_predict_command_asks_a_real_gateway(imagenet: Gateway) -> None:
    words = ["predict", IMAGES / "parrot.jpg", "--channel", "v2", "--gateway", f"http://127.0.0.1:{imagenet.port}"]
    done = subprocess.run([sys.executable, "-m", "millrace", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "macaw" in done.stdout
