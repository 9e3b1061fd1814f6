"""What a delivery is taken for, whose it is, and that nothing which cannot be believed gets through."""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.admission import Arrived, DeviceStatus, admit
from millrace import events, images, jsontext, topics
from millrace.clock import Instant, rfc3339
from millrace.events import MalformedEvent

NOW = Instant(1_790_000_000_000_000_000, "f00d", 5)
EPOCH = "k3v9x0pa"
JPEG = cv2.imencode(".jpg", np.full((8, 8, 3), 120, np.uint8))[1].tobytes()
PNG = cv2.imencode(".png", np.full((8, 8, 3), 120, np.uint8))[1].tobytes()


def take(kind: str, payload: bytes, properties: tuple[tuple[str, str], ...] = ()) -> list[Arrived]:
    found = admit("millrace", f"millrace/device/cam-1/{kind}", payload, properties, NOW, redelivered=False)
    assert isinstance(found, list)
    return found


def refused(kind: str, payload: bytes) -> MalformedEvent:
    with pytest.raises(MalformedEvent) as caught:
        take(kind, payload)
    return caught.value


def event(seq: int = 1, type_: str = events.READING, channel: str = "top", **about: Any) -> events.Event:
    device = about.pop("device", "cam-1")
    data = about.pop("data", {"temperature_c": 41.2} if type_ == events.READING else None)
    key = events.Key(topics.device_source("millrace", device, channel), EPOCH, seq)
    made = events.new_event(type_, key, NOW, data=data)
    return made.with_base(about["base"]) if "base" in about else made


def structured(**changed: Any) -> bytes:
    """Return a good reading's JSON with attributes changed."""
    return json.dumps(json.loads(events.encode_json(event(7))) | changed).encode()


def frame(picture: bytes = JPEG, **about: Any) -> bytes:
    return events.encode_frame(event(type_=events.FRAME, **about), picture)


def test_a_frame_with_a_key_is_known_by_its_picture_alone() -> None:
    (one,), (other,) = take("frame/top", frame(seq=1)), take("frame/top", frame(seq=2))
    assert one.event is not None
    assert one.event.key == events.Key("/millrace/device/cam-1/top", EPOCH, 1)
    assert one.digest == other.digest == images.digest(JPEG)


def test_a_bare_picture_waits_for_its_key() -> None:
    (arrived,) = take("frame/top", PNG)
    assert (arrived.event, arrived.device, arrived.digest) == (None, "cam-1", images.digest(PNG))


def test_a_bare_picture_on_mqtt_5_may_carry_its_attributes_beside_it() -> None:
    made = event(3, events.FRAME)
    (arrived,) = take("frame/top", PNG, tuple(events.user_properties(made)))
    assert arrived.event is not None
    assert arrived.event.key == made.key


def test_a_reading_is_another_if_its_data_differ_but_not_if_only_its_base_has_grown() -> None:
    digests = [
        take("reading/top", events.encode_json(made))[0].digest
        for made in (event(5), event(5, base=2), event(5, base=5), event(5, data={"temperature_c": 9}))
    ]
    assert digests[0] == digests[1] == digests[2] != digests[3]


def test_bare_readings_and_senml_wait_for_their_keys() -> None:
    (flat,) = take("reading/top", b'{"temperature_c": 41.2}')
    assert flat.bare_values == {"temperature_c": 41.2}
    pack = [{"n": "t", "v": 1, "t": 1_700_000_000}, {"n": "t", "v": 2, "t": 1_700_000_060}]
    first, second = take("reading/top", json.dumps(pack).encode())
    assert (first.bare_values, second.bare_values) == ({"t": 1}, {"t": 2})
    assert rfc3339(second.instant.wall_ns) == "2023-11-14T22:14:20.000000Z"
    assert first.digest != second.digest


def test_a_senml_time_relative_to_now_moves_the_uptime_too_and_a_senders_own_time_has_none() -> None:
    pack = [{"n": "t", "v": 1, "t": -2}, {"n": "t", "v": 2, "t": -(10**7)}, {"n": "t", "v": 3, "t": 1_700_000_060}]
    now = Instant(NOW.wall_ns, "f00d", 100 * 10**9)
    found = admit(
        "millrace", "millrace/device/cam-1/reading/top", json.dumps(pack).encode(), (), now, redelivered=False
    )
    assert isinstance(found, list)
    near, before_boot, absolute = found
    assert near.instant == Instant(now.wall_ns - 2 * 10**9, "f00d", 98 * 10**9)
    key = events.Key("/millrace/device/cam-1/top", "aaaaaaaa", 1)
    for moment in (before_boot.instant, absolute.instant):
        event = events.new_event(events.READING, key, moment)
        assert (event.bootid, event.uptimens) == (None, None)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b'{"temperature_c": NaN}', "NaN is not JSON"),
        (b'{"a": 1, "a": 2}', "key 'a' stands twice"),
        (b'{"a": %s}' % (b"9" * 5000), "integer of 5000 digits"),
        (b"[" * 5000 + b"]" * 5000, "nested deeper than 16 levels"),
        (b'{"a": [1]}', "value of 'a' must be"),
        (b"", "Expecting value"),
        (b"\xff\xfe", "not UTF-8"),
        (b"41.2", "a reading is flat JSON"),
        (b"[]", "a SenML pack without a value"),
        (b'{"specversion": "1.0"}', "type: Field required"),
    ],
)
def test_a_reading_that_cannot_be_believed_is_refused_with_the_reason(payload: bytes, reason: str) -> None:
    error = refused("reading/top", payload)
    assert reason in str(error)
    assert error.key is None


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not a JPEG, PNG or WebP"),
        (b"hello", "not a JPEG, PNG or WebP"),
        (b"GIF89a\x01\0\x01\0", "not a JPEG, PNG or WebP"),
        (JPEG[:12], "cut short"),
        (PNG[:20], "cut short"),
        (PNG[:16] + b"\0\0\0\0" + PNG[20:], "a picture of 0 x 8 pixels"),
    ],
)
def test_a_frame_that_is_no_picture_is_refused(payload: bytes, reason: str) -> None:
    assert reason in str(refused("frame/top", payload))


@pytest.mark.parametrize(
    "changed",
    [{"time": "yesterday"}, {"data": {"temperature_c": []}}, {"type": events.WAVEFORM}, {"base": "8"}, {"extra": "x"}],
)
def test_what_is_refused_keeps_its_key_so_that_its_sender_can_be_told(changed: dict[str, Any]) -> None:
    assert refused("reading/top", structured(**changed)).key == event(7).key


def test_a_frame_whose_picture_is_cut_short_keeps_its_key() -> None:
    whole = frame(seq=7)
    head = whole[: whole.index(b"\xff\xdb")]
    assert refused("frame/top", head).key == event(7).key


@pytest.mark.parametrize(
    "source", ["/millrace/device/cam-2/top", "/millrace/device/cam-1/side", "/millrace/gateway/g1", "/other/cam-1/top"]
)
@pytest.mark.parametrize("also", [{}, {"time": "yesterday"}])
def test_nobody_publishes_as_another_nor_has_anothers_key_buried(source: str, also: dict[str, str]) -> None:
    error = refused("reading/top", structured(source=source, **also))
    assert error.key is None
    if not also:
        assert f"source '{source}' contradicts its topic" in str(error)


def test_a_frame_of_another_device_is_refused_too() -> None:
    assert "contradicts its topic" in str(refused("frame/top", frame(device="cam-2")))


def test_a_base_above_the_event_itself_would_declare_lost_what_is_still_to_come() -> None:
    assert take("reading/top", events.encode_json(event(7, base=7)))[0].event
    for kind, payload in (
        ("reading/top", events.encode_json(event(7, base=8))),
        ("frame/top", frame(seq=7, base=10**17)),
    ):
        error = refused(kind, payload)
        assert "is above the event's own seq 7" in str(error)
        assert error.key == event(7).key


def test_a_device_accounts_for_itself_only() -> None:
    def record(device: str) -> bytes:
        data = {"device": device, "epoch": EPOCH, "from": 1, "to": 2, "disposition": "lost", "reason": "page corrupt"}
        return events.encode_json(event(9, events.LEDGER, "ledger", data=data))

    (arrived,) = take("ledger", record("cam-1"))
    assert arrived.type == events.LEDGER
    assert "must name that device" in str(refused("ledger", record("cam-2")))


@pytest.mark.parametrize("topic", ["millrace/device/Cam_7/frame/top", "millrace/device/cam-1/frame/a/b"])
def test_a_name_that_is_refused_comes_with_the_nearest_good_one(topic: str) -> None:
    with pytest.raises(topics.BadTopic) as caught:
        admit("millrace", topic, JPEG, (), NOW, redelivered=False)
    assert caught.value.nearest in ("millrace/device/cam-7/frame/top", "millrace/device/cam-1/frame/a-b")


@pytest.mark.parametrize("topic", ["millrace/device/cam-1/result/top", "millrace/gateway/g1/model", "else/where"])
def test_a_gateway_does_not_take_what_is_not_for_it(topic: str) -> None:
    with pytest.raises(topics.BadTopic):
        admit("millrace", topic, JPEG, (), NOW, redelivered=False)


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ({"state": "online", "epoch": EPOCH, "minted": 9}, DeviceStatus("cam-1", True, EPOCH, 9)),
        (
            {
                "state": "online",
                "epoch": EPOCH,
                "minted": 9,
                "held_epochs": [EPOCH, "bbbbbbbb", 5, "../x", "aaaaaaaa"],
                "older_minted": {"aaaaaaaa": 3, "bbbbbbbb": -1, "cccccccc": 4},
            },
            DeviceStatus(
                "cam-1",
                True,
                EPOCH,
                9,
                held_epochs=frozenset({EPOCH, "aaaaaaaa", "bbbbbbbb"}),
                older_minted=(("aaaaaaaa", 3), ("bbbbbbbb", 0)),
            ),
        ),
        ({"state": "lost"}, DeviceStatus("cam-1", False, None, 0, ended=True)),
        ({"state": "online", "epoch": "../../x", "minted": -1}, DeviceStatus("cam-1", True, None, 0)),
        ({"state": "online", "epoch": 5, "minted": True}, DeviceStatus("cam-1", True, None, 0)),
        # What no id can spell would be refused by the cloud, and the whole uplink with it.
        ({"state": "online", "epoch": "ab-cd-ef", "minted": 9}, DeviceStatus("cam-1", True, None, 9)),
        ({"state": "online", "epoch": EPOCH, "minted": 10**18}, DeviceStatus("cam-1", True, EPOCH, 0)),
    ],
)
def test_a_status_is_heard_as_far_as_it_makes_sense(said: dict[str, Any], heard: DeviceStatus) -> None:
    found = admit("millrace", "millrace/device/cam-1/status", jsontext.dump(said), (), NOW, redelivered=False)
    assert found == heard


def test_a_status_that_was_taken_back_is_nothing_bad() -> None:
    found = admit("millrace", "millrace/device/cam-1/status", b"", (), NOW, redelivered=False)
    assert found == DeviceStatus("cam-1", False, None, 0)


@given(st.sampled_from(["frame/top", "reading/top", "waveform/top", "ledger", "status"]), st.binary(max_size=300))
def test_no_bytes_do_anything_but_arrive_or_be_refused(kind: str, payload: bytes) -> None:
    try:
        found = admit("millrace", f"millrace/device/cam-1/{kind}", payload, (), NOW, redelivered=False)
    except MalformedEvent:
        return
    assert found


@given(st.dictionaries(st.sampled_from(sorted(json.loads(structured()))), st.none() | st.text() | st.integers()))
def test_no_attributes_do_anything_but_arrive_or_be_refused(changed: dict[str, Any]) -> None:
    key = event().key
    try:
        (arrived,) = take("reading/top", structured(**changed))
        key = arrived.event.key if arrived.event is not None else None
    except MalformedEvent as error:
        key = error.key
    assert key is None or key.source == event().key.source
