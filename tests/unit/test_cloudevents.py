"""The CloudEvents project's own reader sees in every message what we put there."""

import io
from datetime import UTC, datetime, timedelta

import pytest
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.http import HTTPMessage, from_binary, from_structured, to_structured
from cloudevents.core.formats.json import JSONFormat
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from millrace import clock, events
from millrace.events import Event, Key

LEDGER = {"gateway": "g1", "epoch": "k3v9x0pa", "from": 1, "to": 9, "disposition": "shed", "reason": "disk full"}
DATA = {
    events.READING: {"temperature_c": 41.2, "name": "Walzwerk Süd", "running": True},
    events.WAVEFORM: {"rate_hz": 1000.0, "unit": "g", "samples": [0.5, -0.25]},
    events.RESULT: {"label": "scratch", "score": 0.97},
    events.VERDICT: {"label": "good", "revision": 2},
    events.ALARM: {"alarm": "disk_full", "since": None},
    events.LEDGER: LEDGER,
}
EPOCHS = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=8, max_size=8)
KEYS = st.builds(
    Key,
    st.sampled_from(["/millrace/device/cam-1/top", "/acme/plant1/line3/gateway/g1"]),
    EPOCHS,
    st.integers(1, 10**18 - 1),
)
INSTANTS = st.builds(
    clock.Instant,
    st.integers(0, 2**63 - 1),
    st.sampled_from(["b0075b00-7b00-4b00-8b00-7b0075b0075b", "x"]),
    st.integers(0, 10**18 - 1),
)
SUBJECTS = st.none() | st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="%"), min_size=1)


def frame_picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 8), "red").save(file, "JPEG")
    return file.getvalue()


PICTURE = frame_picture()


def assert_same(theirs: BaseCloudEvent, ours: Event) -> None:
    """Compare attribute by attribute; the library turns the time into a datetime."""
    attributes = dict(theirs.get_attributes())
    moment = attributes.pop("time")
    expected = ours.attributes()
    written = expected.pop("time")
    assert attributes == expected
    assert moment.utcoffset() == timedelta(0)
    since_1970 = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000
    assert since_1970 == clock.parse_rfc3339(written)


@given(st.sampled_from(list(DATA)), KEYS, INSTANTS, SUBJECTS, st.none() | st.integers(1, 10**18 - 1))
def test_a_structured_event_means_the_same_to_the_cloudevents_reader(
    type_: str, key: Key, instant: clock.Instant, subject: str | None, base: int | None
) -> None:
    sent = events.new_event(type_, key, instant, data=DATA[type_], subject=subject, truth="good")
    sent = sent if base is None else sent.with_base(base)
    message = HTTPMessage({"content-type": events.JSON_CONTENT_TYPE}, events.encode_json(sent))
    theirs = from_structured(message, JSONFormat())
    assert_same(theirs, sent)
    assert theirs.get_data() == DATA[type_]
    assert events.decode_json(message.body) == sent


@given(KEYS, INSTANTS, SUBJECTS)
def test_the_mirror_of_a_frame_is_a_binary_mode_cloudevent(
    key: Key, instant: clock.Instant, subject: str | None
) -> None:
    sent = events.new_event(events.FRAME, key, instant, subject=subject, datacontenttype="image/jpeg")
    payload = events.encode_frame(sent, PICTURE)
    headers = {f"ce-{name}": value for name, value in events.user_properties(sent)}
    theirs = from_binary(HTTPMessage({**headers, "content-type": "image/jpeg"}, payload), JSONFormat())
    assert_same(theirs, sent)
    assert theirs.get_data() == payload
    assert events.decode_frame(payload) == sent


@pytest.mark.parametrize("type_", DATA)
def test_what_the_cloudevents_library_writes_is_read_by_us(type_: str) -> None:
    sent = events.new_event(
        type_, Key("/m/gateway/g1", "q8w2mm1c", 1), clock.Instant(1, "boot", 2), data=DATA[type_]
    ).with_base(1)
    message = HTTPMessage({"content-type": events.JSON_CONTENT_TYPE}, events.encode_json(sent))
    rewritten = to_structured(from_structured(message, JSONFormat()), JSONFormat()).body
    decoded = events.decode_json(rewritten)
    assert clock.parse_rfc3339(decoded.time) == clock.parse_rfc3339(sent.time)
    assert (decoded.key, decoded.attributes() | {"time": sent.time}) == (sent.key, sent.attributes())
    assert decoded.data == sent.data
