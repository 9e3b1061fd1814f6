"""The account that judges the kills must itself be strict: each way to break a promise is found, with its keys."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import pytest

from millrace import events
from millrace.chaos.oracle import Account, settle

CAM, PRESS, GATEWAY = "device/cam-1", "device/press-1", "gateway/gw-1"
EPOCHS = {CAM: "camepoch", PRESS: "prsepoch", GATEWAY: "gwyepoch"}


def _finding(origin: str, held: int, local: int = 0) -> dict[str, Any]:
    declared = {"local": local} if local else {}
    where = {"origin": origin, "epoch": EPOCHS[origin], "minted": 9}
    return {**where, "held": held, "declared": declared, "missing": [], "unproven": []}


@pytest.fixture
def books() -> dict[str, Any]:
    """Nine frames answered, of which two are held themselves, and nine readings held: a whole account."""

    def _events(origin: str, type_: str, seqs: Iterable[int]) -> list[dict[str, Any]]:
        source = f"/millrace/{origin}/channel"
        return [{"id": f"{EPOCHS[origin]}-{n}", "source": source, "type": type_, "uptimens": str(n)} for n in seqs]

    return {
        "minted": {origin: {epoch: 9} for origin, epoch in EPOCHS.items()},
        "held_origins": {PRESS},
        "held": {CAM: _events(CAM, events.FRAME, (3, 7)), PRESS: _events(PRESS, events.READING, range(1, 10))},
        "results": [{"subject": f"cam-1/top/camepoch-{seq}"} for seq in range(1, 10)],
        "audit": {
            "origins": [_finding(CAM, 2, 7), _finding(PRESS, 9), _finding(GATEWAY, 9)],
            "totals": {"conflicts": 0},
        },
    }


def _account(books: dict[str, Any]) -> Account:
    return settle(**books)


def test_a_whole_account_has_no_complaint(books: dict[str, Any]) -> None:
    account = _account(books)
    assert account.whole
    assert (account.promised, account.missing, account.doubled) == (18, 0, 0)


def test_frames_without_an_answer_and_readings_not_held_are_named_as_ranges(books: dict[str, Any]) -> None:
    del books["results"][3:6]
    del books["held"][PRESS][8]
    account = _account(books)
    assert account.missing == 4
    assert account.complaints == [
        "device/cam-1 camepoch: missing 4-6 of 1-9",
        "device/press-1 prsepoch: missing 9 of 1-9",
    ]


def test_a_second_answer_and_a_second_copy_are_doubled(books: dict[str, Any]) -> None:
    books["results"].append(copy.deepcopy(books["results"][4]))
    books["held"][PRESS].insert(1, copy.deepcopy(books["held"][PRESS][0]))
    account = _account(books)
    assert account.doubled == 2
    assert "device/cam-1 results: more than once camepoch 5" in account.complaints
    assert "device/press-1 events: more than once prsepoch 1" in account.complaints


def test_events_out_of_order_are_found_by_key_and_by_the_clock_of_their_capture(books: dict[str, Any]) -> None:
    readings = books["held"][PRESS]
    readings[2], readings[3] = readings[3], readings[2]
    account = _account(books)
    assert account.complaints == [
        "device/press-1: the cloud gives its events out of order 1 times",
        "/millrace/device/press-1/channel: a later seq was captured earlier, 1 times",
    ]
    assert account.out_of_order == 2


def test_what_nobody_promised_is_found(books: dict[str, Any]) -> None:
    last = books["held"][PRESS][-1]
    books["held"][PRESS] += [last | {"id": "prsepoch-10"}, last | {"id": "otherone-1"}]
    books["results"].append({"subject": "cam-1/top/elsewhen-1"})
    complaints = _account(books).complaints
    assert "device/press-1 prsepoch: holds up to 10, only 1-9 were promised" in complaints
    assert "device/press-1: holds epochs that it never had: ['otherone']" in complaints
    assert "device/cam-1: results for epochs that it never had: ['elsewhen']" in complaints


def test_a_held_frame_without_an_answer_and_an_answered_one_that_should_be_held_are_missing(
    books: dict[str, Any],
) -> None:
    del books["results"][2]
    assert _account(books).complaints == ["device/cam-1: held frames without an answer: camepoch 3"]
    books["held_origins"] = {CAM}
    account = _account(books)
    assert account.missing == 8
    assert "device/cam-1 camepoch: missing 1-2, 4-6, 8-9 of 1-9" in account.complaints


@pytest.mark.parametrize(
    ("finding", "complaint"),
    [
        ({"missing": [[4, 6]]}, "audit of device/press-1 prsepoch: missing 4-6"),
        ({"unproven": [[2, 2]]}, "audit of device/press-1 prsepoch: unproven 2"),
        ({"held": 8, "declared": {"shed": 1}}, "audit of device/press-1 prsepoch: given up {'shed': 1}"),
        ({"minted": None}, "audit of device/press-1 prsepoch: promised 9, minted None, held or declared 9"),
    ],
)
def test_an_audit_that_says_otherwise_is_no_whole_account(
    books: dict[str, Any], finding: dict[str, Any], complaint: str
) -> None:
    books["audit"]["origins"][1] |= finding
    assert _account(books).complaints == [complaint]


def test_an_origin_of_which_the_cloud_never_heard_and_a_conflict_are_complaints(books: dict[str, Any]) -> None:
    del books["audit"]["origins"][2]
    books["audit"]["totals"]["conflicts"] = 1
    assert _account(books).complaints == [
        "audit of gateway/gw-1 gwyepoch: the cloud has never heard of it",
        "audit: 1 keys came with two contents",
    ]
