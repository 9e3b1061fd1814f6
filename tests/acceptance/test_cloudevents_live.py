"""What the programs really send, caught at Mosquitto: the CloudEvents project's reader and other decoders agree."""

from __future__ import annotations

import io
import json
import math
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paho.mqtt.client as paho
import pytest
import simplejpeg
from cloudevents.core.bindings.http import HTTPMessage, from_binary, from_structured
from cloudevents.core.formats.json import JSONFormat
from PIL import Image

from millrace import events, images
from millrace.demo.stage import VIEWER, Plan, Stage, shipped_bundle, wait_until

pytestmark = pytest.mark.mosquitto
EVENT_KINDS = ("frame", "reading", "waveform", "result")


@pytest.fixture(scope="module")
def caught(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[paho.MQTTMessage]]]:
    """Messages by kind of topic, from an agent with a camera, a sensor and a recording, and a gateway, over MQTT 5."""
    if shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin") is None:
        pytest.skip("mosquitto is not installed here")
    home = tmp_path_factory.mktemp("line")
    (home / "series.csv").write_text("temperature_c,fan_on\n41.2,1\n41.3,0\n")
    (home / "recording.txt").write_text("\n".join(f"{math.sin(n / 3):.4f}" for n in range(256)))
    channels: dict[str, Any] = {
        "top": {"source": {"kind": "conveyor", "interval_s": 0.1, "count": 5}},
        "room": {"source": {"kind": "readings", "path": "series.csv", "speed": 0}},
        "bearing": {
            "source": {
                "kind": "waveform",
                "path": "recording.txt",
                "rate_hz": 1000,
                "unit": "g",
                "window_samples": 128,
                "realtime": False,
            }
        },
    }
    stage = Stage(Plan(home, "mosquitto", channels, shipped_bundle("parts"), []))
    try:
        stage.open(stage.cloud_port)
        found: dict[str, list[paho.MQTTMessage]] = {kind: [] for kind in EVENT_KINDS}
        client = _subscriber(stage, found)
        stage.programs["agent"].start()
        complete = wait_until(
            lambda: [len(found[kind]) >= n for kind, n in zip(EVENT_KINDS, (5, 2, 2, 5), strict=True)] == [True] * 4,
            120,
        )
        client.disconnect()
        client.loop_stop()
        assert complete, {kind: len(messages) for kind, messages in found.items()}
        yield found
    finally:
        stage.close()


def _subscriber(stage: Stage, found: dict[str, list[paho.MQTTMessage]]) -> paho.Client:
    assert stage.passwords is not None
    subscribed = threading.Event()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.username_pw_set(VIEWER, (stage.passwords / VIEWER).read_text().strip())
    client.on_connect = lambda *_: client.subscribe("millrace/device/#", 1)
    client.on_subscribe = lambda *_: subscribed.set()

    def keep(_client: paho.Client, _userdata: Any, message: paho.MQTTMessage) -> None:
        kind = message.topic.split("/")[3]
        if kind in found:
            found[kind].append(message)

    client.on_message = keep
    client.connect("127.0.0.1", stage.broker_port)
    client.loop_start()
    assert subscribed.wait(60)
    return client


@pytest.mark.parametrize("kind", ["reading", "waveform", "result"])
def test_every_json_event_of_the_programs_parses_with_the_cloudevents_package(
    caught: dict[str, list[paho.MQTTMessage]], kind: str
) -> None:
    for message in caught[kind]:
        assert message.properties is not None
        content_type = message.properties.ContentType
        theirs = from_structured(HTTPMessage({"content-type": content_type}, message.payload), JSONFormat())
        raw = json.loads(message.payload)
        assert theirs.get_data() == raw["data"]
        assert theirs.get_id() == raw["id"]
        assert theirs.get_source() == raw["source"]
        assert theirs.get_type() == raw["type"] == f"io.millrace.{kind}.v1"


def test_every_frame_of_the_agent_is_a_binary_mode_cloudevent_and_says_the_same_inside(
    caught: dict[str, list[paho.MQTTMessage]],
) -> None:
    for message in caught["frame"]:
        assert message.properties is not None
        mirrored = dict(message.properties.UserProperty)
        headers = {f"ce-{name}": value for name, value in mirrored.items()}
        headers["content-type"] = message.properties.ContentType
        theirs = from_binary(HTTPMessage(headers, message.payload), JSONFormat())
        inside = events.decode_frame(message.payload)
        assert inside is not None
        assert {**mirrored, "datacontenttype": message.properties.ContentType} == inside.attributes()
        assert theirs.get_id() == inside.key.id
        assert theirs.get_source() == "/millrace/device/cam-1/top"


def test_a_saved_frame_opens_in_three_decoders_as_if_nothing_were_inside(
    caught: dict[str, list[paho.MQTTMessage]], tmp_path: Path
) -> None:
    file = tmp_path / "frame.jpg"
    file.write_bytes(caught["frame"][0].payload)
    bare = images.bare(file.read_bytes())
    assert len(bare) < file.stat().st_size
    assert (cv2.imread(str(file)) == cv2.imdecode(np.frombuffer(bare, np.uint8), cv2.IMREAD_COLOR)).all()
    assert (np.asarray(Image.open(file)) == np.asarray(Image.open(io.BytesIO(bare)))).all()
    assert (simplejpeg.decode_jpeg(file.read_bytes()) == simplejpeg.decode_jpeg(bare)).all()
