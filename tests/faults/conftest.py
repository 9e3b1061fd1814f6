"""What long runs find is gathered, printed as one table and written to build/faults.json."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from faults.campaign import record_what_ran

from bench.measures import Measure, report

FOUND = pytest.StashKey[list[Measure]]()


@pytest.fixture
def measures(request: pytest.FixtureRequest) -> list[Measure]:
    """The list that a test adds its measures to, before it asserts anything."""
    return request.config.stash.setdefault(FOUND, [])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        record_what_ran(failed=report.failed, skipped=report.skipped)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(config: pytest.Config) -> Iterator[None]:
    yield
    if found := config.stash.get(FOUND, []):
        report("faults", found)
