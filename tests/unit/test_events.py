"""Events there and back; whatever else arrives is a MalformedEvent, with its key where that can be read."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace import clock, events, images, jsontext
from millrace.events import Event, Key, MalformedEvent

KEY = Key("/millrace/device/cam-1/top", "k3v9x0pa", 4711)
INSTANT = clock.Instant(1_795_249_800_123_456_789, "b0075b00-7b00-4b00-8b00-7b0075b0075b", 12_345_678_901)
DATA = {
    events.FRAME: None,
    events.READING: {"temperature_c": 41.2, "running": True, "mode": "auto", "count": 7},
    events.WAVEFORM: {"rate_hz": 1000, "unit": "g", "samples": [0.1, -0.2, 3]},
    events.RESULT: {"label": "scratch", "score": 0.97, "model": "surface@3"},
    events.VERDICT: {"label": "scratch", "answerer": "cloud"},
    events.ALARM: {"alarm": "disk_full"},
    events.LEDGER: {"device": "cam-1", "epoch": "k3v9x0pa", "from": 1, "to": 9, "disposition": "lost", "reason": "x"},
}
SMALLEST_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**19) + 1, 10**19 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


def event(type_: str = events.READING, **changes: object) -> Event:
    return events.new_event(type_, KEY, INSTANT, data=DATA[type_], **changes)


def wire(type_: str = events.READING, **changes: object) -> bytes:
    """Return a good event's JSON with some members replaced; None leaves a member out."""
    members = {**json.loads(events.encode_json(event(type_))), **changes}
    return json.dumps({name: member for name, member in members.items() if member is not None}).encode()


@pytest.mark.parametrize("type_", DATA)
def test_an_event_comes_back_as_it_was(type_: str) -> None:
    sent = event(type_, subject="cam-1/top/k3v9x0pa-1", truth="good").with_base(4700)
    payload = events.encode_json(sent)
    assert events.is_structured(payload)
    assert events.decode_json(payload) == sent
    assert events.decode_json(payload).base == 4700
    assert sent.time == "2026-11-21T08:30:00.123456Z"


@given(
    texts=st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=2, max_size=2),
    base=st.none() | st.integers(1, KEY.seq),
    data=st.dictionaries(st.text(), st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False)),
)
def test_the_digest_is_that_of_attributes_and_data_without_the_base(
    texts: list[str | None], base: int | None, data: dict[str, object]
) -> None:
    made = events.new_event(events.READING, KEY, INSTANT, data=data, subject=texts[0], truth=texts[1])
    sent = made if base is None else made.with_base(base)
    body, digest = events.encode_and_digest(sent)
    assert body == events.encode_json(sent)
    assert digest == hashlib.sha256(jsontext.dump([made.attributes(), data])).hexdigest()


def test_a_frame_comes_back_from_its_picture_or_from_its_mirror() -> None:
    sent = event(events.FRAME, truth="scratch", datacontenttype="image/png")
    full = events.encode_frame(sent, SMALLEST_PNG)
    assert events.decode_frame(full) == sent
    assert images.digest(full) == images.digest(SMALLEST_PNG)
    mirrored = events.decode_frame(SMALLEST_PNG, events.user_properties(sent))
    assert mirrored == events.from_attributes({**sent.attributes(), "datacontenttype": None}, None)
    assert events.decode_frame(SMALLEST_PNG) is None
    assert events.decode_frame(SMALLEST_PNG, [("colour", "red")]) is None


def test_what_stands_inside_the_picture_counts_more_than_the_mirror() -> None:
    other = events.new_event(events.FRAME, Key(KEY.source, KEY.epoch, 1), INSTANT)
    decoded = events.decode_frame(events.encode_frame(event(events.FRAME), SMALLEST_PNG), events.user_properties(other))
    assert decoded is not None
    assert decoded.key == KEY


def test_a_broken_attribute_set_in_a_picture_is_malformed_not_bare() -> None:
    for attributes in (b'{"specversion"', b'{"specversion":"1.0"}', images.MARK + b':"1.0","specversion":"1.0"}'):
        with pytest.raises(MalformedEvent):
            events.decode_frame(images.embed(SMALLEST_PNG, attributes))


@pytest.mark.parametrize(
    "changes",
    [
        {"specversion": "0.3"},
        {"specversion": 1.0},
        {"specversion": None},
        {"type": None},
        {"type": ""},
        {"type": "x" * 129},
        {"time": None},
        {"time": 1795249800},
        {"time": "2026-13-45T00:00:00Z"},
        {"time": "0000-01-01T00:00:00Z"},
        {"time": "9999-01-01T00:00:00Z"},
        {"time": "2026-11-21T24:00:00Z"},
        {"time": "yesterday"},
        {"uptimens": 12},
        {"uptimens": "-1"},
        {"uptimens": "1e9"},
        {"uptimens": "9" * 19},
        {"uptimens": "1\n"},
        {"uptimens": "١"},
        {"base": 1},
        {"base": "9" * 19},
        {"bootid": ""},
        {"subject": ""},
        {"subject": "x" * 257},
        {"datacontenttype": ["application/json"]},
        {"traceparent": "00-1"},
        {"x" * 10_000: "1"},
        {"data_base64": "AAAA"},
        {"data": None},
        {"data": []},
        {"data": "41.2"},
        {"data": {}},
        {"data": {"a": None}},
        {"data": {"a": {"b": 1}}},
        {"data": {"a": [1]}},
        {"data": {"": 1}},
        {"data": {"1a": 1}},
        {"data": {"a b": 1}},
        {"data": {"a": "x" * 257}},
        {"data": {f"a{number}": 1 for number in range(257)}},
        {"type": events.FRAME},
        {"type": events.WAVEFORM},
        {"type": events.LEDGER},
    ],
)
def test_a_malformed_event_still_shows_its_key(changes: dict[str, object]) -> None:
    with pytest.raises(MalformedEvent) as malformed:
        events.decode_json(wire(**changes))
    assert malformed.value.key == KEY
    assert 0 < len(str(malformed.value)) < 300


@pytest.mark.parametrize(
    "changes",
    [
        {"id": None},
        {"id": "4711"},
        {"id": "k3v9x0pa-0"},
        {"id": "k3v9x0pa-04711"},
        {"id": "k3v9x0pa--1"},
        {"id": "k3v9x0pa-1\n"},
        {"id": "K3V9X0PA-1"},
        {"id": "k3v9x0p-1"},
        {"id": "k3v9x0pa-" + "9" * 19},
        {"id": "k3v9x0pa-١"},
        {"id": 4711},
        {"source": None},
        {"source": 5},
    ],
)
def test_a_malformed_event_without_a_readable_key_has_none(changes: dict[str, object]) -> None:
    with pytest.raises(MalformedEvent) as malformed:
        events.decode_json(wire(**changes))
    assert malformed.value.key is None


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"1", b"null", b"{", b'{"a":1,"a":2}', b"\xff\xd8\xff", b"[" * 100_000, b"{}" + b" " * (1 << 20)],
)
def test_what_is_no_json_object_is_malformed(payload: bytes) -> None:
    with pytest.raises(MalformedEvent):
        events.decode_json(payload)


@pytest.mark.parametrize(
    "changes",
    [
        {"from": 9, "to": 1},
        {"from": 0},
        {"to": 10**18},
        {"from": "1"},
        {"from": 1.0},
        {"from": True},
        {"epoch": "k3v9x0p"},
        {"epoch": "k3v9x0pa\n"},
        {"disposition": "forgotten"},
        {"reason": "x" * 501},
        {"device": "Cam/1"},
        {"gateway": "x" * 65},
        {"count": 9},
        {"from": None, "to": None, "first": 1, "last": 9},
        {"to": None},
    ],
)
def test_a_ledger_record_that_cannot_be_believed_is_malformed(changes: dict[str, object]) -> None:
    data = {name: member for name, member in {**DATA[events.LEDGER], **changes}.items() if member is not None}
    with pytest.raises(MalformedEvent, match="data"):
        events.decode_json(wire(events.LEDGER, data=data))


@pytest.mark.parametrize(
    "changes",
    [{"rate_hz": 0}, {"rate_hz": "9"}, {"rate_hz": True}, {"samples": []}, {"samples": ["1"]}, {"samples": 1}],
)
def test_a_waveform_that_cannot_be_drawn_is_malformed(changes: dict[str, object]) -> None:
    with pytest.raises(MalformedEvent, match="data"):
        events.decode_json(wire(events.WAVEFORM, data={**DATA[events.WAVEFORM], **changes}))


@given(st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_.:-]{0,20}", fullmatch=True), VALUES, max_size=5))
def test_a_reading_is_accepted_only_if_it_can_be_sent_on(values: dict[str, object]) -> None:
    try:
        events.check_reading(values)
    except ValueError:
        return
    sent = events.new_event(events.READING, KEY, INSTANT, data=values)
    assert events.decode_json(events.encode_json(sent)) == sent


SEEDS = [json.loads(events.encode_json(event(type_))) for type_ in DATA]


@given(VALUES | st.tuples(st.sampled_from(SEEDS), st.sampled_from(list(SEEDS[1])), VALUES))
def test_any_json_is_an_event_or_malformed(drawn: object) -> None:
    value = {**drawn[0], drawn[1]: drawn[2]} if isinstance(drawn, tuple) else drawn
    try:
        decoded = events.decode_json(json.dumps(value).encode())
    except MalformedEvent:
        return
    assert events.decode_json(events.encode_json(decoded)) == decoded


@given(st.sampled_from([events.WAVEFORM, events.LEDGER]), st.data())
def test_any_data_is_good_or_malformed(type_: str, drawn: st.DataObject) -> None:
    member = drawn.draw(st.sampled_from(list(DATA[type_])))
    payload = wire(type_, data={**DATA[type_], member: drawn.draw(VALUES)})
    try:
        key = events.decode_json(payload).key
    except MalformedEvent as malformed:
        key = malformed.key
    assert key in (KEY, None)
