"""What long runs find is gathered, printed as one table and written to build/faults.json.

Campaigns may run in processes of their own (`-n 2`): what they find travels with the report of their test.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from faults.campaign import record_what_ran

from bench.measures import Measure, report

MEASURES = pytest.StashKey[list[Measure]]()
_found: list[Measure] = []


@pytest.fixture
def measures(request: pytest.FixtureRequest) -> list[Measure]:
    """The list that a test adds its measures to, before it asserts anything."""
    return request.node.stash.setdefault(MEASURES, [])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        record_what_ran(failed=report.failed, skipped=report.skipped)
        report.user_properties += [(one.measure, asdict(one)) for one in item.stash.get(MEASURES, [])]
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        _found.extend(Measure(**found) for _, found in report.user_properties)


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary() -> Iterator[None]:
    yield
    if _found:
        report("faults", _found)
