"""Side by side: what people use today and ours, under the same seed, load and kills; lost and doubled for each.

MILLRACE_PEER_KILLS sets how many kills each gets, MILLRACE_SEED repeats them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.campaign import Campaign, sized
from faults.peers import Kill, Peer, mosquitto_bridge, schedule, thingsboard_storage, usual_paho
from faults.record import Run, record
from faults.table import PEERS

from bench.measures import Measure
from millrace.chaos.kills import chosen_seed
from millrace.chaos.line import Line
from millrace.chaos.plan import Plan
from millrace.chaos.reckoning import reckon

pytestmark = [pytest.mark.faults, pytest.mark.mosquitto, pytest.mark.timeout(3600)]
BESIDE: dict[str, Callable[[Path], Peer | None]] = {
    "paho: queue in memory, automatic acknowledgement, insert": usual_paho,
    "Mosquitto bridge, persistence on, defaults": mosquitto_bridge,
    "ThingsBoard gateway's SQLite storage": thingsboard_storage,
}


def test_what_people_use_today_and_ours_under_the_same_kills(tmp_path: Path, measures: list[Measure]) -> None:
    seed, count = chosen_seed(), sized("MILLRACE_PEER_KILLS", 6)
    sys.stdout.write(f"MILLRACE_SEED={seed} MILLRACE_PEER_KILLS={count}\n")
    kills = schedule(seed, count)
    for number, (name, made) in enumerate(BESIDE.items()):
        home = tmp_path / f"peer-{number}"
        home.mkdir()
        peer = made(home)
        if peer is None:
            sys.stdout.write(f"{name}: its package cannot be had here\n")
            continue
        _run(peer, name, seed, kills, measures)
    (tmp_path / "ours").mkdir()
    with Line(tmp_path / "ours", Plan("mosquitto")) as line:
        campaign = Campaign(measures, PEERS, "Millrace", count, seed=seed)
        line.wait_for_flow(1)
        names = list(line.programs)
        for kill in kills:
            time.sleep(kill.pause_s)
            line.kill(names[int(kill.share * len(names))])
        campaign.end(reckon(line))


def _run(peer: Peer, name: str, seed: int, kills: list[Kill], measures: list[Measure]) -> None:
    begun_s = time.monotonic()
    with peer:
        for kill in kills:
            time.sleep(kill.pause_s)
            peer.kill(peer.mortal[int(kill.share * len(peer.mortal))])
        time.sleep(kills[-1].pause_s)
        peer.end()
        came = peer.reckon()
    title = f"{PEERS}: {name}, {len(kills)} kills, seed {seed}"
    measures += [
        Measure(f"{title}: lost of {came.promised}", came.lost, came.promised, None, "(told)", ok=True),
        Measure(f"{title}: doubled", came.duplicated, came.promised, None, "(told)", ok=True),
    ]
    seconds = round(time.monotonic() - begun_s, 1)
    record(
        Run(PEERS, seed, len(kills), "ok", seconds, name, came.promised, came.lost, came.duplicated, came.out_of_order)
    )
    assert came.promised > len(kills)
