"""What has arrived and is not taken yet: bounded by what it takes in memory, not by payloads alone."""

from __future__ import annotations

import pytest

from millrace.inbox import DELIVERY_BYTES, Delivery, Inbox


def delivery(payload: bytes, topic: str = "millrace/device/cam-1/reading/belt") -> Delivery:
    return Delivery(topic, payload, False, False, (), 1, lambda: None)


def test_many_empty_messages_fill_an_inbox_until_they_are_taken() -> None:
    inbox = Inbox(10 * DELIVERY_BYTES)
    was_full = []
    for _ in range(10):
        inbox.put(delivery(b""))
        was_full.append(inbox.full)
    while inbox.get(0) is not None:
        was_full.append(inbox.full)
    assert was_full == [False] * 9 + [True] + [False] * 10


@pytest.mark.parametrize("large", [delivery(bytes(10 * DELIVERY_BYTES)), delivery(b"", "x" * 10 * DELIVERY_BYTES)])
def test_one_large_message_fills_an_inbox(large: Delivery) -> None:
    inbox = Inbox(10 * DELIVERY_BYTES)
    inbox.put(large)
    assert inbox.full
