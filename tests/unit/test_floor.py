"""The floor as `millrace status` shows it: what is lost, unreadable, or would steer a terminal."""

from __future__ import annotations

import json
from typing import Any

from millrace import clock, jsontext
from millrace.floor import Floor, age_s, lines

NOW_NS = clock.parse_rfc3339("2026-11-21T08:30:00Z")


def heard(**said: Any) -> Floor:
    floor = Floor("millrace")
    for topic, value in said.items():
        floor.hear(f"millrace/device/{topic}/status", json.dumps(value).encode())
    return floor


def shown(floor: Floor) -> str:
    return "\n".join(lines(floor, NOW_NS))


def test_a_lost_device_keeps_what_was_known_of_it() -> None:
    floor = heard(d1={"state": "online", "minted": 12})
    floor.hear("millrace/device/d1/status", b'{"state":"lost"}')
    assert floor.devices["d1"] == {"state": "lost", "minted": 12}


def test_busy_is_no_state() -> None:
    floor = heard(d1={"state": "online"})
    floor.hear("millrace/device/d1/status", b'{"state":"busy"}')
    assert floor.devices["d1"]["state"] == "online"


def test_an_emptied_status_takes_a_device_off_the_floor() -> None:
    floor = heard(d1={"state": "online"})
    floor.hear("millrace/device/d1/status", b"")
    assert floor.devices == {}


def test_a_status_that_cannot_be_read_is_shown_with_the_reason() -> None:
    floor = Floor("millrace")
    floor.hear("millrace/device/d1/status", b"{")
    assert "cannot read millrace/device/d1/status: " in shown(floor)


def test_a_status_with_anything_in_it_is_still_shown() -> None:
    odd = {"state": ["x"], "channels": 3, "held": "many", "time": 5, "minted": None, "mqtt": {"a": 1}}
    assert "d1" in shown(heard(d1=odd))


def test_a_status_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in shown(heard(d1={"state": "\x1b[2Jonline"}))


def test_the_age_is_by_the_senders_clock_and_a_clock_ahead_is_named() -> None:
    assert age_s({"time": "2026-11-21T08:29:50Z"}, NOW_NS) == 10
    assert "10 s" in shown(heard(d1={"state": "online", "time": "2026-11-21T08:29:50Z"}))
    assert "its clock is 2 h ahead" in shown(heard(d1={"state": "online", "time": "2026-11-21T10:30:00Z"}))


def test_nearest_good_name_is_shown_under_the_gateway_that_refuses() -> None:
    floor = Floor("millrace")
    refused = [{"topic": "millrace/device/A/status", "try": "millrace/device/a/status"}, {"topic": "x"}, "odd"]
    floor.hear("millrace/gateway/g1/status", json.dumps({"state": "online", "refused": refused}).encode())
    assert "  g1 refuses the topic millrace/device/A/status; name it millrace/device/a/status" in shown(floor)


def test_what_a_gateway_holds_back_from_the_cloud_is_shown() -> None:
    seen = Floor("millrace")
    seen.hear("millrace/gateway/g1/status", b'{"state": "online", "paused": ["frame", "bulk"]}')
    assert "  g1 holds back from the cloud: frame, bulk; go on: millrace queue resume" in list(lines(seen, 0))


def test_what_is_wrong_with_link_names_and_shares_is_shown() -> None:
    seen = Floor("millrace")
    said = {
        "state": "online",
        "link_said": "sync worker silent for 200 s",
        "namesake": "5f0c9a1e",
        "two_agents": [{"device": "cam-1", "sessions": ["a", "b"]}],
        "over_share": [{"device": "cam-2", "turned_away": 7}],
        "others": ["g2"],
        "denied": ["millrace/device/+/frame/#"],
        "bad_folders": ["/var/lib/millrace/frames/ab: Input/output error"],
    }
    seen.hear("millrace/gateway/g1/status", jsontext.dump(said))
    shown = "\n".join(lines(seen, 0))
    assert "g1 on its link to the cloud: sync worker silent for 200 s" in shown
    assert "another gateway runs as g1" in shown
    assert "g1 hears two agents as cam-1" in shown
    assert "g1 turns cam-2 away: over its share, 7 events so far" in shown
    assert "g1 shares the floor with g2" in shown
    assert "the broker denies g1 to read millrace/device/+/frame/#: check" in shown
    assert "g1 cannot store pictures in /var/lib/millrace/frames/ab: Input/output error: mend" in shown
    seen.hear("millrace/gateway/g1/status", jsontext.dump(dict.fromkeys(said, 5)))
    assert list(lines(seen, 0))


def test_a_model_that_the_cpu_runs_in_place_of_an_accelerator_is_shown() -> None:
    floor = Floor("millrace")
    states = [
        ("usb:0", "failed", "died: its process ended: Aborted"),
        ("usb:1", "serving", ""),
        ("usb:2", "starting", ""),
    ]
    said = [{"model": "parts@1", "accelerator": a, "state": s, "reason": r} for a, s, r in states]
    floor.hear("millrace/gateway/g1/status", json.dumps({"state": "online", "accelerators": said}).encode())
    assert "g1 runs parts@1 on the CPU, not on usb:0: died: its process ended: Aborted" in shown(floor)
    assert "usb:1" not in shown(floor)
    assert "usb:2" not in shown(floor)


def test_an_event_that_the_broker_does_not_take_is_shown_with_what_to_do() -> None:
    floor = heard(d1={"too_large": "declared lost: 9 bytes are too large; raise its limit"}, d2={"too_large": ""})
    assert "d1 has made events that the broker does not take; the last one is declared lost: 9 bytes" in shown(floor)
    assert "d2 has made" not in shown(floor)


def test_damaged_files_that_somebody_keeps_are_shown() -> None:
    floor = heard(
        d1={"damaged": {"files": 2, "bytes": 4096}}, d2={"damaged": {"files": 0, "bytes": 0}}, d3={"damaged": 7}
    )
    floor.hear("millrace/gateway/g1/status", b'{"damaged": {"files": 1, "bytes": 1048576}}')
    assert "g1 keeps 1 damaged file (1.0 MiB)" in shown(floor)
    assert "d1 keeps 2 damaged files (4.0 KiB)" in shown(floor)
    assert shown(floor).count(" keeps ") == 2
