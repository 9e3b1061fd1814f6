"""Two agents under one name, and two gateways on one floor, as real programs: said, and nothing is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from millrace import events
from millrace.chaos.line import Line
from millrace.chaos.plan import Plan
from millrace.demo.ports import free_port
from millrace.demo.stage import Program, wait_until
from millrace.entries import Lane
from millrace.outbox_reader import Reader
from millrace.tail import SpoolReader

pytestmark = pytest.mark.faults

DEVICE = "line-1"
ORIGIN = f"device/{DEVICE}"


@contextmanager
def beside(line: Line, of: str, name: str, **changes: Any) -> Iterator[Program]:
    """Run another program with the settings of one of the line's, in a folder of its own."""
    settings = yaml.safe_load((line.home / f"{of}.yaml").read_text(encoding="utf-8"))
    file = line.home / f"{name}.yaml"
    file.write_text(yaml.safe_dump(settings | {"state_dir": name} | changes), encoding="utf-8")
    kind = "agent" if of == DEVICE else of
    program = Program(name, [kind, "--config", str(file)], line.home)
    program.start()
    try:
        yield program
    finally:
        program.stop()


def keys(home: Path, *lanes: Lane) -> set[str]:
    reader = Reader(home / "gateway.db")
    try:
        rows = [row for lane in lanes for row in reader.read(lane, 0, 100_000)]
        return {f"{row.epoch}-{row.seq}" for row in rows}
    finally:
        reader.close()


def promised(*epochs: dict[str, int]) -> set[str]:
    return {f"{epoch}-{seq}" for each in epochs for epoch, minted in each.items() for seq in range(1, minted + 1)}


def cloud_ids(line: Line) -> Counter[str]:
    return Counter(str(event["id"]) for event in line.cloud.events(ORIGIN))


def test_all_events_of_two_agents_under_one_name_reach_the_cloud_once_and_an_alarm_names_both(tmp_path: Path) -> None:
    with Line(tmp_path, Plan(devices=1)) as line:
        line.wait_for_flow(20)
        channels = yaml.safe_load((tmp_path / f"{DEVICE}.yaml").read_text(encoding="utf-8"))["channels"]
        channels["force"]["source"]["count"] = 400
        channels["top"]["source"]["count"] = 30
        spool = {"durability": {"frame": "power", "reading": "power"}}
        with beside(line, DEVICE, "twin", spool=spool, channels=channels) as twin:
            twins = SpoolReader(tmp_path / "twin" / "spool.db")
            assert wait_until(lambda: bool(twins.epochs()), 20), twin.last_words()
            log = line.programs["gateway"].log
            for _ in range(6):  # each makes both agents say their status again, once the gateway listens
                line.wait_for_flow(30)
                line.kill("broker")
                if wait_until(lambda: b"name=two_agents" in log.read_bytes(), 5):
                    break
            assert b"name=two_agents" in log.read_bytes(), line.last_words()
            line.hush()
            assert wait_until(lambda: twin.log.read_bytes().count(b"source_finished") == 2, 30), twin.last_words()

            def missing() -> set[str]:
                return promised(line.minted()[ORIGIN], twins.epochs()) - set(cloud_ids(line))

            # The embedded broker speaks to one of two of one client id: the other may hold on to what is here.
            assert wait_until(lambda: line.is_empty() and not missing(), 40), (missing(), line.last_words())
            held = cloud_ids(line)
            assert set(held.values()) == {1}
            assert len({events.parse_id(each)[0] for each in held}) == 2
            assert [finding["missing"] for finding in line.cloud.audit()["origins"] if finding["missing"]] == []
            twins.close()


def test_nothing_is_lost_when_one_of_two_gateways_dies_and_each_names_the_other(tmp_path: Path) -> None:
    with Line(tmp_path, Plan(devices=1)) as line:
        line.wait_for_flow(20)
        policies = [{"channels": "*/*", "frames": "all"}]
        with beside(line, "gateway", "second", gateway="gw-2", http={"port": free_port()}, policies=policies) as second:
            first = line.programs["gateway"]
            assert wait_until(lambda: b"gateway_beside gateway=gw-2" in first.log.read_bytes(), 20), line.last_words()
            assert wait_until(lambda: b"gateway_beside gateway=gw-1" in second.log.read_bytes(), 20)
            first.kill()
            before = len(keys(tmp_path / "second", Lane.BULK))
            assert wait_until(lambda: len(keys(tmp_path / "second", Lane.BULK)) > before + 100, 30)
            line.start("gateway")
            line.wait_for_flow(30)
            second.kill()
            line.wait_for_flow(30)
            line.hush()
            assert wait_until(line.is_empty, 60), line.last_words()
            in_cloud = cloud_ids(line)
            stored = keys(tmp_path / "second", Lane.BULK, Lane.FRAME)
            assert promised(line.minted()[ORIGIN]) - set(in_cloud) - stored == set()
            assert promised(line.minted()[ORIGIN]) - set(in_cloud), "the second alone took some"
            assert set(in_cloud.values()) == {1}
