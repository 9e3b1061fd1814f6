"""The gateway's inbox: what a device over its share keeps is acknowledged and left with it, all else is shed."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from integration.brokers import wait_until
from unit.fake_clock import FakeClock

from edge_gateway.admission import admit
from edge_gateway.metrics import Metrics
from edge_gateway.settings import GatewaySettings
from edge_gateway.sheds import Sheds
from edge_gateway.turns import OVER_SHARE, REFUSED_SHOWN, Asked, Heard, Turns
from edge_gateway.work import NoRoomNow
from millrace.inbox import Connected, Delivery

KEYED = b'{"specversion": "1.0", "id": "k3v9x0pa-1"}'
BARE = b'{"t": 1}'


@dataclass
class Inbox:
    """Turns with room for about ten small messages, and what was acknowledged to the broker."""

    folder: Path
    acked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings = GatewaySettings.model_validate(
            {"gateway": "g1", "state_dir": self.folder, "limits": {"inbox_bytes": 11_000}}
        )
        self.sheds, self.metrics, self.clock = Sheds(), Metrics(), FakeClock()
        self.turns = Turns(
            settings, lambda device: not device.startswith("invented"), self.sheds, self.metrics, self.clock
        )

    def hear(
        self, device: str, payload: bytes, what: str = "", kind: str = "reading/belt", retain: bool = False
    ) -> None:
        topic = f"millrace/device/{device}/{kind}"
        self.turns.put(Delivery(topic, payload, retain, False, (), 1, lambda: self.acked.append(what or device)))

    def taken(self) -> list[str]:
        found = []
        while (heard := self.turns.get(0)) is not None:
            assert isinstance(heard, Heard)
            found.append(heard.topic.owner)
        return found

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path)


def test_a_quiet_device_is_next_however_many_wait_of_another(inbox: Inbox) -> None:
    for _ in range(1000):
        inbox.hear("flood", KEYED)
    inbox.hear("quiet", KEYED)
    heard = inbox.turns.get(0)
    assert isinstance(heard, Heard)
    assert heard.topic.owner == "quiet"
    assert inbox.turns.shares.waiting_bytes <= 11_000
    assert not inbox.turns.full


def test_what_a_flooding_device_keeps_is_acknowledged_and_nothing_else_is_said_of_it(inbox: Inbox) -> None:
    for number in range(100):
        inbox.hear("flood", KEYED, f"f{number}")
    kept = len(inbox.taken())
    assert inbox.acked == [f"f{number}" for number in range(kept, 100)]
    assert inbox.sheds.pending() == {}
    assert inbox.count("millrace_events_turned_away_total", device="flood") == 100 - kept
    assert inbox.turns.turned_away() == {"flood": 100 - kept}


def test_what_nobody_keeps_is_shed_and_will_be_said(inbox: Inbox) -> None:
    for _ in range(100):
        inbox.hear("esp32-7", BARE)
    kept = len(inbox.taken())
    assert inbox.sheds.pending() == {("esp32-7", OVER_SHARE): 100 - kept}
    assert inbox.count("millrace_events_shed_total") == 100 - kept


def test_a_status_that_is_dismissed_is_no_loss_to_declare(inbox: Inbox) -> None:
    for _ in range(100):
        inbox.hear("flood", b'{"state": "online"}', kind="status", retain=True)
    assert inbox.sheds.pending() == {}
    assert inbox.count("millrace_events_turned_away_total", device="flood") > 0


def test_a_picture_by_http_that_finds_no_room_is_told_so(inbox: Inbox) -> None:
    (arrived,) = admit("millrace", "millrace/device/http/reading/x", BARE, (), inbox.clock.now(), redelivered=False)
    replies = []
    for _ in range(3000):
        replies.append(Future())
        inbox.turns.put(Asked(arrived, replies[-1]))
    assert isinstance(replies[-1].exception(0), NoRoomNow)
    assert not replies[0].done()


def test_news_of_the_connection_comes_before_what_waits(inbox: Inbox) -> None:
    inbox.hear("cam-1", KEYED)
    inbox.turns.put(Connected(1, "5"))
    assert isinstance(inbox.turns.get(0), Connected)
    assert inbox.taken() == ["cam-1"]


def test_leftovers_and_refused_names_take_no_room(inbox: Inbox) -> None:
    inbox.hear("cam-1", KEYED, "retained", retain=True)
    inbox.hear("Cam_7", KEYED, "refused")
    assert inbox.acked == ["retained", "refused"]
    assert inbox.taken() == []
    assert inbox.turns.refused == {
        "millrace/device/Cam_7/reading/belt": "millrace/device/cam-7/reading/belt",
    }


def test_thousands_of_invented_names_are_counted_and_few_are_shown(
    inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(5000):
        inbox.hear(f"Cam_{number}", KEYED)
    assert inbox.count("millrace_topics_refused_total") == 5000
    assert len(inbox.turns.refused) == REFUSED_SHOWN
    assert len(caplog.records) <= REFUSED_SHOWN + 1


def test_thousands_of_invented_devices_take_no_room(inbox: Inbox) -> None:
    for number in range(5000):
        inbox.hear(f"invented-{number}", KEYED)
    assert inbox.count("millrace_events_crowded_out_total") == 4999
    assert inbox.taken() == ["invented-0"]
    assert len(inbox.acked) == 4999


def test_two_threads_that_ask_at_once_may_say_it_once(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    both = threading.Barrier(2)

    class Compared(float):
        """A time that is subtracted when both threads have looked at when it was said last."""

        def __sub__(self, other: float) -> float:
            with suppress(threading.BrokenBarrierError):  # broken: one waits until the other has done
                both.wait(0.2)
            return float(self) - other

    inbox.clock.seconds = Compared(100)
    threads = [threading.Thread(target=inbox.hear, args=(f"invented-{number}", KEYED)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inbox.count("millrace_events_crowded_out_total") == 1


def test_a_device_without_room_further_on_has_no_turn_until_there_is_some(inbox: Inbox) -> None:
    full, found = {"heavy"}, []
    for device in ("heavy", "heavy", "quiet"):
        inbox.hear(device, KEYED)

    def take() -> None:
        while (heard := inbox.turns.get(60, lambda device: device not in full)) is not None:
            assert isinstance(heard, Heard)
            found.append(heard.topic.owner)
            if len(found) == 3:
                return

    taker = threading.Thread(target=take)
    taker.start()
    wait_until(lambda: found == ["quiet"], "the quiet one has its turn")
    full.clear()
    inbox.turns.wake()
    taker.join(60)
    assert found == ["quiet", "heavy", "heavy"]


def test_who_floods_and_has_no_room_further_on_is_not_served_for_its_impatience(inbox: Inbox) -> None:
    for _ in range(100):
        inbox.hear("flood", KEYED)
    inbox.hear("quiet", KEYED)
    assert inbox.turns.get(0, lambda device: device != "flood") is not None
    assert inbox.turns.get(0, lambda device: device != "flood") is None
    assert inbox.taken()[0] == "flood"
