"""docs/topics.md shows what the programs really say: each message there was made here by the program's own code.

Clock, random names and the answer of the model are fixed. Write the page again with:
python tests/unit/test_topics_docs.py
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from device_agent.feed import Feed
from device_agent.keeper import Keeper
from device_agent.packing import Admission
from device_agent.settings import AgentSettings
from device_agent.spool import Spool
from edge_gateway import admission
from edge_gateway.admission import Arrived, DeviceStatus, Outcome
from edge_gateway.commit import Committer
from edge_gateway.company import Gateways, Twins
from edge_gateway.intake import Intake
from edge_gateway.line import Line
from edge_gateway.metrics import Metrics
from edge_gateway.models import Models
from edge_gateway.prediction import Detection, Prediction
from edge_gateway.register import Register
from edge_gateway.settings import GatewaySettings
from edge_gateway.sheds import Sheds
from edge_gateway.status import Herald, Uplink
from edge_gateway.store import Store
from edge_gateway.turns import Turns
from edge_gateway.window_input import WindowSettings
from edge_gateway.window_models import WindowModels
from edge_gateway.workers import Workers
from millrace import clock, events, images, jsontext, topics
from millrace.inbox import Connected, Delivery, Inbox
from millrace.mqtt import Connection, Will
from millrace.topics import Kind
from millrace_models import bundle_path

PAGE = Path(__file__).parents[2] / "docs" / "topics.md"
INSTANT = clock.Instant(1_795_249_800_123_456_789, "b0075b00-7b00-4b00-8b00-7b0075b0075b", 12_345_678_901)
DEVICE_EPOCH, GATEWAY_EPOCH, SESSION, AGENT_SESSION = "k3v9x0pa", "q8w2mm1c", "5f0c9a1e", "1b72e0d4"
SMALLEST_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a4944415478da6368000000820081da45083b0000000049454e44ae426082"
)
PATIENCE_S = 60.0
CLASSIFIED = Prediction("parts@1", "scratch", 0.9712, defect=True)
SCREWS = (Detection("screw", 0.9312, 0.1205, 0.4, 0.0811, 0.1021), Detection("screw", 0.8127, 0.7, 0.4, 0.08, 0.1))
DETECTED = Prediction("screws@2", "screw", 0.9312, defect=False, detections=SCREWS)
STRANGE = Prediction("bearing@1", "strange", 1.0, defect=True, value=4.17)
OF_WINDOW = (
    "The `data` for a window of readings: `subject` names the last of them, `first` the first one, `window_time` is "
    "when the last one was taken. For a window out of a waveform `subject` and `first` name that, and `offset` says at "
    "which sample it begins. `value` is there where the model's task is `score`. It accounts for no event: readings go "
    "up as themselves, or a ledger record says why not."
)
GATEWAY_SAYS = b'{"state": "lost", "bootid": "9a7e0a40-7b00-4b00-8b00-7b0075b0075b", "uptimens": "86400123456789"}'

MEANING = {
    Kind.FRAME: "A plain JPEG or PNG that any viewer opens. Its attributes stand inside the picture, in a JPEG as a "
    "comment, in a PNG as an iTXt chunk; on MQTT 5 they are user properties as well. These are the attributes:",
    Kind.READING: "Named values of one moment; the unit stands in the name.",
    Kind.WAVEFORM: "Equally spaced samples: `rate_hz` samples a second, each in `unit`.",
    Kind.DEVICE_LEDGER: "Numbers that will not arrive as themselves, and why: here the spool's own copy was damaged.",
    Kind.DEVICE_STATUS: "What a device says of itself when it connects, when a channel changes, and every 30 s. "
    "`session` is drawn at each start of the agent. `minted` is the highest number given out in `epoch`; what is owed "
    "of an epoch that is not among `held_epochs` (the present one, then older ones, the newest first) is not expected "
    "any more; `older_minted` says how far it had come in each of the older ones. The last will is "
    '`{"state":"lost"}`; a device that is '
    "stopped says `offline`. `clock` is whether the kernel holds its wall clock for right: `synced`, `unsynced` or "
    "`unknown`. `heard` names boots of gateways, the uptime that each said, and the device's own uptime `at` which it "
    "heard that; with `bootid` and `uptimens` it lets times be mended whatever `time` says. `damaged` is how many "
    "damaged databases it keeps for a person to look at and delete. `too_large` says what became of the last event "
    "that the broker did not take for its size, and what to do; empty if there was none since the start.",
    Kind.RESULT: "The edge's answer to one frame, or to a window of readings, one message for each model. "
    "`subject` names the frame: "
    "device, channel and id. `decision` is `edge` (the score reached the threshold), `escalate` (it did not, and the "
    "frame goes up) or `fall_back` (it did not, and the frame stays here). `total_ms` counts from the arrival at the "
    "gateway to the commit. `cached` is there, and true, where an equal picture had its answer already. A detector's "
    "result also lists what is where: `box` is left, top, width and height as ratios of the whole picture; `label` and "
    "`score` are the best one's. Where nothing is found the list is empty, the label `nothing`, and the score how sure "
    "that is.",
    Kind.VERDICT: "",
    Kind.RECEIPT: "What this gateway has committed of an epoch of the device; all of it each time, so it may be "
    "repeated or lost. Only now the device forgets. `window_bytes` is how much may be under way; 0 means that the "
    "gateway is full. `bootid` and `uptimens` are the gateway's, for the device's `heard`.",
    Kind.COMMAND: "",
    Kind.GATEWAY_STATUS: "Devices send only while a gateway says `online`. A new `session` means that it was started "
    "again. `denied` lists topics that the broker does not let it read, `refused` those whose names it does not take, "
    "each with the nearest good one, `bad_folders` the folders that take no pictures, each with why. `accelerators` "
    "says of each accelerator for which model it is, whether it is `starting`, `serving` or `failed`, why, for how "
    "long, when it is tried again, and how often the CPU took over, by reason. The last will is "
    '`{"state":"lost"}`; a gateway that is stopped says `offline`. While reading from the broker is paused it says '
    '`{"state":"busy"}`, not retained. `two_agents` names devices under whose name two agents run, `others` the other '
    "gateways of the floor, `namesake` the session of another gateway under this one's name. `clock`, `bootid`, "
    "`uptimens` and `damaged` are as in a device status.",
    Kind.GATEWAY_MODEL: "Every model that it serves, each with its first 100 labels, what it runs on and why, and of "
    "each accelerator whether it serves now; said again when that changes.",
    Kind.GATEWAY_ALARM: "Something that a person must see; at most one a minute for each name and device.",
}
HEAD = """\
# Topics and messages

Made by `tests/unit/test_topics_docs.py` from the topic table and the programs' own code; do not edit.
Write it again with `python tests/unit/test_topics_docs.py`. The test fails when this page and the code differ.

Each topic stands below the prefix, which is `millrace` unless the settings say otherwise (`prefix: acme/plant1/line3`
is good too). Device, gateway and channel names are 1 to 64 of `a-z`, `0-9` and `-`. Every message is sent with QoS 1
(`busy` alone with 0). A gateway answers on any device's topics; a device writes under its own name only. At Mosquitto,
the ACL rendered from this table holds that (`millrace broker render`).

"""
BARE = {
    "flat JSON": ("reading/room", b'{"temperature_c": 41.2, "running": true}'),
    "SenML (RFC 8428)": ("reading/room", b'[{"n": "temperature", "u": "Cel", "v": 41.2}]'),
}


class FixedClock:
    """Time stands still."""

    def now(self) -> clock.Instant:
        return INSTANT

    def uptime_s(self) -> float:
        return INSTANT.uptime_ns / 1e9


class RecordedConnection(Connection):
    """A connection that was never made; what is published through it is kept by topic."""

    said: dict[str, bytes]

    @classmethod
    def of(cls, settings: AgentSettings | GatewaySettings) -> RecordedConnection:
        made = cls(
            settings.broker, "docs", Will("docs", b""), [], persistent=False, max_payload_bytes=1024, inbox=Inbox()
        )
        made.said = {}
        made.protocol = "5"
        return made

    @property
    def connected(self) -> bool:
        return True

    def publish(self, topic: str, payload: bytes, **_: Any) -> bool:
        self.said[topic] = payload
        return True


@dataclass
class Examples:
    """Each kind's topic and payload, as text, and the data of a detector's result and of a window's."""

    shown: dict[Kind, tuple[str, str]] = field(default_factory=dict)
    detected: str = ""
    window: str = ""
    names: dict[str, str] = field(default_factory=lambda: {f'"clock":"{clock.wall_state()}"': '"clock":"synced"'})

    def add(self, topic: str, payload: bytes) -> None:
        text = (images.extract(payload) or payload).decode()
        for random, fixed in self.names.items():
            text = text.replace(random, fixed)
        self.shown[topics.parse("millrace", topic).kind] = (topic, text)


def examples(folder: Path) -> Examples:
    """Return one message of each kind that is sent."""
    made = Examples()
    from_device(folder / "agent", made)
    from_gateway(folder / "gateway", made)
    made.window = of_window(folder / "windows")
    return made


def from_device(folder: Path, made: Examples) -> None:
    conveyor = {"source": {"kind": "conveyor"}}
    settings = AgentSettings.model_validate({"device": "cam-1", "state_dir": folder, "channels": {"top": conveyor}})
    spool = Spool(settings, "docs", FixedClock())
    made.names[spool.epoch] = DEVICE_EPOCH
    waveform: dict[str, object] = {"rate_hz": 12000, "unit": "g", "samples": [0.012, -0.034, 0.051]}
    entries = spool.admit(
        [
            Admission("top", events.FRAME, INSTANT, picture=SMALLEST_PNG, content_type="image/png"),
            Admission("room", events.READING, INSTANT, {"temperature_c": 41.2, "running": True}),
            Admission("bearing", events.WAVEFORM, INSTANT, waveform),
            Admission("room", events.READING, INSTANT, {"temperature_c": 41.3}),
        ]
    )
    last_reading = next(entry for entry in entries if b"41.3" in entry.body)
    spool.bury(last_reading, "the spool's copy is damaged")
    for entry in spool.read(0, 10):
        parcel = spool.parcel(entry)
        assert parcel is not None
        made.add(topics.topic("millrace", parcel.kind, "cam-1", parcel.channel), parcel.payload)
    connection = RecordedConnection.of(settings)
    feed = Feed("top", settings.channels["top"], FixedClock(), lambda *_: None)
    keeper = Keeper(settings, spool, connection, [feed], FixedClock())
    made.names[keeper.session] = AGENT_SESSION
    connection.inbox.put(Delivery("millrace/gateway/g1/status", GATEWAY_SAYS, False, False, (), 1, lambda: None))
    run_until(keeper.run, keeper.interrupt, lambda: "millrace/device/cam-1/status" in connection.said)
    for topic, payload in connection.said.items():
        made.add(topic, payload)
    spool.close()


def from_gateway(folder: Path, made: Examples) -> None:
    settings = GatewaySettings.model_validate(
        {"gateway": "g1", "state_dir": folder, "models": [{"bundle": bundle_path("parts")}]}
    )
    time, metrics = FixedClock(), Metrics()
    store = Store(folder, "docs", settings.store.max_bytes)
    made.names[store.outbox.epoch] = GATEWAY_EPOCH
    register, sheds = Register(store, settings.limits), Sheds()
    turns = Turns(settings, register.admits, sheds, metrics, time)
    committer = Committer(settings, store, metrics, time, register=register, shares=turns.shares, sheds=sheds)
    committed = [
        committer.commit([DeviceStatus("cam-1", online=True, epoch=DEVICE_EPOCH, minted=5)]),
        committer.commit([frame(SMALLEST_PNG)]),
        committer.commit([frame(SMALLEST_PNG + b"another")]),
    ]
    for done in committed:
        for message in [*done.results, *done.receipts.values()]:
            made.add(message.topic, message.payload)
    (found,) = committer.commit([frame(SMALLEST_PNG, 2, DETECTED)]).replies
    made.detected = json.dumps(found[1][0])
    connection = RecordedConnection.of(settings)
    models = Models(settings.models, settings.limits.max_pixels)
    workers = Workers(models, 1)
    intake = Intake(settings, turns, Line(2), workers, time)
    intake.connection_events.put(Connected(1, "5"))
    intake.turns.refused["millrace/device/Cam_7/frame/top"] = "millrace/device/cam-7/frame/top"
    herald = Herald(
        settings, connection, intake, store, models, Uplink(settings, time), time, Gateways("g1", SESSION), Twins()
    )
    run_until(herald.run, herald.interrupt, lambda: "millrace/gateway/g1/status" in connection.said)
    for topic, payload in connection.said.items():
        made.add(topic, payload)
    workers.close()
    store.close()


def of_window(folder: Path) -> str:
    """Return the data of the result that 64 readings get."""
    settings = GatewaySettings.model_validate(
        {"gateway": "g1", "state_dir": folder, "models": [{"bundle": folder, "channels": ["*/bearing"]}]}
    )
    wanted = WindowSettings.model_validate({"kind": "window", "values": 1, "samples": 64, "hop": 32})
    promised: Future[Outcome] = Future()
    promised.set_result(Outcome([(STRANGE, 0.5, 0.12)]))
    store = Store(folder, "docs", settings.store.max_bytes)
    windows = WindowModels(settings.models, {0: wanted}, {0: "bearing"}, lambda *_: promised)
    committer = Committer(settings, store, Metrics(), FixedClock(), windows=windows)
    done = committer.commit([reading(seq) for seq in range(1, 65)])
    store.close()
    return json.dumps(json.loads(done.results[0].payload)["data"])


def reading(seq: int) -> Arrived:
    """Return a reading that arrived with its key."""
    key = events.Key(topics.device_source("millrace", "cam-1", "bearing"), DEVICE_EPOCH, seq)
    event = events.new_event(events.READING, key, INSTANT, data={"vibration_g": 0.01 * seq})
    topic, payload = "millrace/device/cam-1/reading/bearing", events.encode_json(event)
    found = admission.admit("millrace", topic, payload, (), INSTANT, redelivered=False)
    assert isinstance(found, list)
    return found[0]


def frame(picture: bytes, seq: int = 1, prediction: Prediction = CLASSIFIED) -> Arrived:
    """Return a frame that arrived with its key and was answered."""
    key = events.Key(topics.device_source("millrace", "cam-1", "top"), DEVICE_EPOCH, seq)
    event = events.new_event(events.FRAME, key, INSTANT, datacontenttype="image/png")
    found = admission.admit(
        "millrace",
        "millrace/device/cam-1/frame/top",
        events.encode_frame(event, picture),
        (),
        INSTANT,
        redelivered=False,
    )
    assert isinstance(found, list)
    arrived = found[0]
    arrived.outcome = Future()
    arrived.outcome.set_result(Outcome([(prediction, 0.8, 0.52)]))
    return arrived


def run_until(run: Callable[[], None], interrupt: Callable[[], None], said: Callable[[], bool]) -> None:
    """Run a program's part in a thread until it has said its word."""
    thread = threading.Thread(target=run)
    thread.start()
    waiting = threading.Event()
    for _ in range(int(PATIENCE_S / 0.01)):
        if said():
            break
        waiting.wait(0.01)
    interrupt()
    thread.join(PATIENCE_S)
    assert said()


def page(made: Examples) -> str:
    """Return docs/topics.md."""
    shown = made.shown
    parts = [HEAD, "| topic below the prefix | who writes | who reads | QoS | retained |\n|---|---|---|---|---|\n"]
    parts += [
        f"| `{rule.pattern}` | {rule.writer.value} | {rule.readers.value} | {rule.qos} |"
        f" {'yes' if rule.retain else 'no'} |\n"
        for rule in topics.TABLE.values()
    ]
    for kind, rule in topics.TABLE.items():
        parts.append(f"\n## {rule.pattern}\n\n")
        if kind not in shown:
            parts.append("Reserved: the topic and its rights exist, and no program sends on it yet.\n")
            continue
        topic, text = shown[kind]
        parts.append(f"{MEANING[kind]}\n\n    {topic}\n\n```json\n{pretty(text)}\n```\n")
        if kind is Kind.RESULT:
            parts.append(f"\nA detector's `data`:\n\n```json\n{pretty(made.detected)}\n```\n")
            parts.append(f"\n{OF_WINDOW}\n\n```json\n{pretty(made.window)}\n```\n")
    parts.append(
        "\n## Without a key\n\n"
        "A device needs none of our attributes. A bare JPEG, PNG or WebP on a frame topic, and on a reading topic one\n"
        "of the payloads below, get their key from the gateway with the commit. What they are promised begins there:\n"
        "until then the broker alone holds them.\n"
    )
    parts += [f"\n{what}:\n\n```json\n{payload.decode()}\n```\n" for what, (_, payload) in BARE.items()]
    return "".join(parts)


def pretty(text: str) -> str:
    """Return JSON as it travels, but for one member of the first level on each line."""
    lines = [
        f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in json.loads(text).items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}"


def test_the_page_in_docs_is_what_the_programs_say(tmp_path: Path) -> None:
    assert PAGE.read_text(encoding="utf-8") == page(examples(tmp_path)), "run: python tests/unit/test_topics_docs.py"


def test_each_kind_is_shown_or_said_to_be_reserved(tmp_path: Path) -> None:
    assert set(topics.TABLE) - set(examples(tmp_path).shown) == {Kind.VERDICT, Kind.COMMAND}


@pytest.mark.parametrize("what", BARE)
def test_the_bare_readings_of_the_page_are_accepted(what: str) -> None:
    topic, payload = BARE[what]
    found = admission.admit("millrace", f"millrace/device/esp32-7/{topic}", payload, (), INSTANT, redelivered=False)
    assert isinstance(found, list)
    assert [arrived.bare_values is not None for arrived in found] == [True]
    assert jsontext.parse(payload)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        PAGE.write_text(page(examples(Path(scratch))), encoding="utf-8")
