"""The demo as a newcomer runs it: real processes, a link that is really cut, a strict account."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from millrace.chaos.plan import has_mosquitto
from millrace.demo.account import Account

FIELDS = {"captured", "inferred", "cloud", "lost", "duplicated", "accuracy", "offline_s", "drain_s", "p50_ms", "p99_ms"}


def _demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "millrace", "demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)


Ended = dict[str, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def ended() -> Ended:
    """The demo at each broker that is here, both at the same time: they mostly wait."""
    here = [broker for broker in ("embedded", "mosquitto") if broker == "embedded" or has_mosquitto()]
    with ThreadPoolExecutor() as pool:
        done = pool.map(lambda broker: _demo("--seconds", "9", "--headless", "--json", "--broker", broker), here)
        return dict(zip(here, done, strict=True))


@pytest.mark.parametrize("broker", ["embedded", pytest.param("mosquitto", marks=pytest.mark.mosquitto)])
def test_demo_loses_and_doubles_nothing_through_a_cut_link_and_a_killed_cloud(ended: Ended, broker: str) -> None:
    if broker not in ended:
        pytest.skip("mosquitto is not installed here")
    done = ended[broker]
    assert done.returncode == 0, done.stdout + done.stderr
    account = json.loads(done.stdout)
    assert account.keys() >= FIELDS
    assert account["captured"] == account["inferred"] == account["cloud"] == 90
    assert account["lost"] == account["duplicated"] == 0
    assert account["accuracy"] >= 0.9
    assert account["offline_s"] >= 2.9
    assert account["p50_ms"] <= account["p99_ms"]


def test_demo_says_which_program_failed_and_what_it_said(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "manifest.yaml").write_text("name: broken\n")
    done = _demo("--seconds", "6", "--model", str(bundle))
    assert done.returncode == 1
    assert "gateway ended with status 78" in done.stderr
    assert "sha256: is needed and not there" in done.stderr


def test_demo_keeps_its_folder_when_asked_and_refuses_one_that_is_there(tmp_path: Path) -> None:
    done = _demo("--keep", str(tmp_path))
    assert done.returncode == 1
    assert "is there already; name a new folder" in done.stderr


@pytest.mark.parametrize(("lost", "duplicated", "cloud"), [(1, 0, 9), (0, 1, 10), (0, 0, 9)])
def test_an_account_that_is_not_whole_fails_the_demo(lost: int, duplicated: int, cloud: int) -> None:
    account = Account(10, 10, cloud, lost, duplicated, None, 3.0, 1.0, 5.0, 9.0, 0, 0)
    assert not account.whole
    assert f"lost {lost} · duplicated {duplicated}" in account.line()
