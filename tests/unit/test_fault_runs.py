"""docs/fault-runs.jsonl and the tables in docs/reliability.md that are made from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.record import RUNS, Run, path_digest, record, recorded
from faults.table import FAULTS, PAGE, PEERS, tables, with_tables


def test_the_page_has_the_tables_that_the_recorded_runs_make() -> None:
    page = PAGE.read_text(encoding="utf-8")
    wanted = with_tables(page, tables(recorded(), path_digest()))
    assert page == wanted, "run: PYTHONPATH=tests python -m faults.table"


def test_each_recorded_run_has_a_row_to_count_in() -> None:
    assert {run.fault for run in recorded()} <= {fault.name for fault in FAULTS} | {PEERS}


def test_nothing_is_written_unless_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / RUNS.name
    run = Run("kills", 7, 40, "ok", 12.5, "mosquitto", promised=4000, recovery_p99_s=1.5)
    monkeypatch.delenv("MILLRACE_RECORD", raising=False)
    record(run, file)
    assert recorded(file) == []
    monkeypatch.setenv("MILLRACE_RECORD", "1")
    record(run, file)
    assert recorded(file) == [run]


def test_a_change_to_the_durable_path_starts_its_rows_anew(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("one = 1\n")
    before = path_digest(["a.py"], tmp_path)
    run = Run("backlog", 7, 3, "ok", 1.0, promised=5, path=before)
    assert "| offline backlog of 1,000,000 rows | 3 | 3 | 5 | 0 | 0 | 0 | ok |" in tables([run], before)
    (tmp_path / "a.py").write_text("one = 2\n")
    assert "| offline backlog of 1,000,000 rows | 3 |  |  |  |  |  | not yet run |" in tables(
        [run], path_digest(["a.py"], tmp_path)
    )


def test_a_failure_stays_said_and_each_variant_must_have_its_runs() -> None:
    def said(*runs: Run) -> str:
        return next(line for line in tables(runs, "here").splitlines() if "death at a named point" in line)

    done = Run("crash points", 1, 20, "ok", 1.0, "spool.committed", path="here")
    half = Run("crash points", 1, 10, "ok", 1.0, "store.committed", path="here")
    lost = Run("crash points", 2, 10, "failed", 1.0, "store.committed", lost=1, path="here")
    assert said(done).endswith("| ok |")
    assert said(done, half).endswith("| ok so far |")
    assert said(done, half, lost).endswith("| failed |")
