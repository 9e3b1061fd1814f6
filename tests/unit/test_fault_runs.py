"""docs/fault-runs.jsonl and the tables in docs/reliability.md that are made from it."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from faults.campaign import Campaign, record_what_ran
from faults.claims import CLAIMED, Claim
from faults.record import DURABLE_PATH, ROOT, RUNS, Run, path_digest, record, recorded
from faults.table import FAULTS, PAGE, PEERS, PROGRAMS, tables, with_tables


def test_the_page_has_the_tables_that_the_recorded_runs_make() -> None:
    page = PAGE.read_text(encoding="utf-8")
    wanted = with_tables(page, tables(recorded(), path_digest()))
    assert page == wanted, "run: PYTHONPATH=tests python -m faults.table"


def test_each_recorded_run_has_a_row_to_count_in() -> None:
    assert {run.fault for run in recorded()} <= {fault.name for fault in FAULTS} | {PEERS}


def test_nothing_is_written_unless_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / RUNS.name
    run = Run("kills", 7, 40, "ok", 12.5, "mosquitto, shipped", promised=4000, recovery_p99_s=1.5)
    monkeypatch.delenv("MILLRACE_RECORD", raising=False)
    record(run, file)
    assert recorded(file) == []
    monkeypatch.setenv("MILLRACE_RECORD", "1")
    record(run, file)
    assert recorded(file) == [run]


def test_a_change_to_the_durable_path_starts_its_rows_anew(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("one = 1\n")
    before = path_digest(["a.py"], tmp_path)
    run = Run("tears", 7, 500, "ok", 1.0, promised=5, path=before)
    row = "| a file truncated, zeroed, flipped, overwritten or gone | 500 |"
    assert f"{row} 500 | 5 | 0 | 0 | 0 | ok |" in tables([run], before)
    (tmp_path / "a.py").write_text("one = 2\n")
    assert f"{row}  |  |  |  |  | not yet run; on former states 500 ok |" in tables(
        [run], path_digest(["a.py"], tmp_path)
    )


def test_a_failure_stays_said_and_each_variant_must_have_its_runs() -> None:
    def said(*runs: Run) -> str:
        return next(line for line in tables(runs, "here").splitlines() if "death at a named point" in line)

    done = [Run("crash points", 1, 20, "ok", 1.0, program, path="here") for program in PROGRAMS]
    half = Run("crash points", 1, 10, "ok", 1.0, "cloud", path="here")
    failed = Run("crash points", 2, 10, "failed", 1.0, "cloud", lost=1, path="here")
    assert said().endswith("| not yet run |")
    assert said(*done).endswith("| 4 × 20 | 80 | 0 | 0 | 0 | 0 | ok |")
    assert said(*done[:3]).endswith("| ok so far |"), "one program has not run"
    assert said(*done[:3], half).endswith("| ok so far |")
    assert said(*done[:3], half, half).endswith("| ok |")
    old = [replace(done[0], path="there"), replace(failed, path="there")]
    assert said(*old).endswith("|  |  |  |  |  | not yet run; on former states 20 ok, 10 failed |")
    assert said(*done, failed).endswith("| 4 × 20 | 90 | 0 | 1 | 0 | 0 | failed |")
    assert said(*done, replace(failed, outcome="void")).endswith("| 4 × 20 | 80 | 0 | 0 | 0 | 0 | ok; 1 void |")


def test_a_run_counts_in_the_row_of_its_variant_alone() -> None:
    runs = [
        Run("kills", 1, 1000, "ok", 1.0, "mosquitto, shipped", path="here"),
        Run("kills", 1, 7, "failed", 1.0, "embedded, process", path="here"),
        Run("soak", 1, 1, "ok", 1.0, "embedded", path="here"),
    ]
    verdicts = {line.split(" | ")[0]: line.split(" | ")[-1] for line in tables(runs, "here").splitlines()}
    assert verdicts["| SIGKILL of a random process, Mosquitto without persistence"] == "ok |"
    assert verdicts["| the same on amqtt"] == "not yet run |"
    assert verdicts["| the same, all that devices hold in memory; at each broker"] == "failed |"
    assert verdicts["| everything at random, 50 devices × 2/s, 1 h"] == "ok |"


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Run]]:
    """What campaigns write here."""
    file = tmp_path / RUNS.name
    monkeypatch.setenv("MILLRACE_RECORD", "1")
    monkeypatch.setattr("faults.campaign.record", lambda run: record(run, file))
    return lambda: recorded(file)


def test_a_campaign_is_written_as_its_test_ended(lines: Callable[[], list[Run]]) -> None:
    def outcomes() -> list[tuple[str, int]]:
        return [(run.outcome, run.promised) for run in lines()]

    Campaign([], "kills", "embedded, power", 3).count(70)
    record_what_ran(failed=False, skipped=False)
    assert outcomes() == [("ok", 70)]
    Campaign([], "kills", "embedded, power", 3).count(80)
    record_what_ran(failed=True, skipped=False)
    assert outcomes()[1:] == [("failed", 80)], "what the test asserts after the account counts too"
    Campaign([], "kills", "embedded, power", 3)
    record_what_ran(failed=True, skipped=False)
    assert outcomes()[2:] == [("failed", 0)], "a line that stands still never comes to its account"
    Campaign([], "kills", "embedded, power", 3)
    record_what_ran(failed=False, skipped=True)
    assert len(outcomes()) == 3


def test_the_claimed_sizes_fill_every_row_and_what_is_done_is_not_run_again() -> None:
    done: list[Run] = []
    for claim in CLAIMED:
        assert not claim.is_kept(done, "here")
        variants = _variants(claim)
        each = claim.runs // len(variants)
        done += [Run(claim.fault, 1, each, "ok", 1.0, variant, path="here") for variant in variants]
        assert claim.is_kept(done, "here")
        assert not claim.is_kept(done, "elsewhere")
    verdicts = tables(done, "here").split("\n\n")[0].splitlines()[2:]
    assert [line for line in verdicts if not line.endswith("| ok |")] == []
    assert len(verdicts) == len(FAULTS)


def _variants(claim: Claim) -> tuple[str, ...]:
    """What a claim's tests write as their variants."""
    if claim.variant is not None:
        return (claim.variant,)
    return next(fault.variants for fault in FAULTS if fault.name == claim.fault) or ("",)


BESIDE_THE_PATH = {
    *(f"{room}/settings.py" for room in ("cloud_sync", "device_agent", "edge_gateway", "millrace")),
    "device_agent/feed.py",
    "edge_gateway/engines/engine.py",
    "edge_gateway/metrics.py",
    "edge_gateway/models.py",
    "edge_gateway/prediction.py",
    "edge_gateway/window_input.py",
    "millrace/certificates.py",
    "millrace/service.py",
}
"""What the durable path uses and what no event's fate hangs on."""


def test_what_the_durable_path_imports_is_on_its_list_or_known_to_be_beside_it() -> None:
    used = {file for name in DURABLE_PATH for file in _imported(ROOT / name)}
    assert used - set(DURABLE_PATH) == BESIDE_THE_PATH, "add it to DURABLE_PATH in faults/record.py, or here"
    assert list(DURABLE_PATH) == sorted(set(DURABLE_PATH))


def _imported(file: Path) -> set[str]:
    """Return the files of this project that a module names in its imports."""
    modules = {
        name
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module
        for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
    }
    files = {name.replace(".", "/") + ".py" for name in modules}
    return {file for file in files if (ROOT / file).is_file()}
