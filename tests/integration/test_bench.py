"""`millrace bench` on this machine, and what the repository's bench loads and slows others with."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from integration.brokers import skip_without_mosquitto

from bench import native, readings


def test_the_users_bench_tells_the_limit_what_the_gateway_does_and_what_to_change(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "millrace", "bench", "--seconds", "2", "--json", "--dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["model"] == "parts@1"
    assert found["ratio"] == pytest.approx(found["ours_per_s"] / found["share_per_s"], abs=0.001)
    assert 0 < found["share_per_s"] < found["limit_per_s"]
    assert found["lone_p50_ms"] > 0
    assert found["advice"]
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_is_none_is_refused() -> None:
    command = [sys.executable, "-m", "millrace", "bench", "--size", "640"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "'640' is no size such as 640x480" in done.stderr


@pytest.fixture
def publisher() -> Path:
    skip_without_mosquitto()
    try:
        return native.publisher()
    except native.LeftOut as reason:
        pytest.skip(str(reason))


def column(database: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(database)) as connection:
        return [value for (value,) in connection.execute(sql)]


def test_each_reading_of_the_publisher_is_in_the_bare_receivers_database_once(tmp_path: Path, publisher: Path) -> None:
    assert readings._bare(tmp_path, publisher, 700, {}).per_s > 0
    (database,) = tmp_path.glob("bare-*.db")
    ids = column(database, "SELECT id FROM reading ORDER BY position")
    epoch = ids[0].rpartition("-")[0]
    assert ids == [f"{epoch}-{seq}" for seq in range(1, 701)]


def test_the_gateway_takes_what_the_publisher_sends_as_readings_with_their_keys(
    tmp_path: Path, publisher: Path
) -> None:
    assert readings._ours(tmp_path, publisher, 700, {}).per_s > 0
    (database,) = tmp_path.glob("gateway-*/state/gateway.db")
    sql = "SELECT seq FROM entry WHERE epoch LIKE 'bench%' ORDER BY position"
    assert column(database, sql) == list(range(1, 701))


def test_the_library_that_makes_syncs_slow_is_loaded_into_a_program() -> None:
    try:
        environment = native.slow_disk()
    except native.LeftOut as reason:
        pytest.skip(str(reason))
    program = f"open('/proc/self/maps').read().index('{environment['LD_PRELOAD']}')"
    subprocess.run([sys.executable, "-c", program], env={**os.environ, **environment}, check=True)
