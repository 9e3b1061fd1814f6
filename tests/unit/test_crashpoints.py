"""Every crash point that the table names stands in the code, and none stands there that it does not name."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from millrace.crashpoints import POINTS, SELDOM, Trap, UnknownPoint

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("millrace", "device_agent", "edge_gateway", "cloud_sync")


def _calls(file: Path) -> list[str]:
    return [
        node.args[0].value
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith("crashpoints.reached")
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    ]


def test_each_point_of_the_table_stands_in_the_code_once_and_no_other_does() -> None:
    found = [name for folder in PROGRAMS for file in (ROOT / folder).rglob("*.py") for name in _calls(file)]
    assert sorted(found) == sorted([*POINTS, *SELDOM])


def test_a_trap_springs_at_its_own_point_the_nth_time_and_once() -> None:
    trap = Trap("agent.admitted:3")
    assert [trap.springs("agent.admitted") for _ in range(5)] == [False, False, True, False, False]
    assert not Trap("agent.admitted").springs("agent.forgot")
    assert Trap("agent.admitted").springs("agent.admitted")
    assert not any(Trap("").springs(name) for name in POINTS)


@pytest.mark.parametrize("wish", ["agent.admited", "agent.admitted:x", ":2"])
def test_a_point_that_is_not_there_is_refused(wish: str) -> None:
    with pytest.raises(UnknownPoint, match=r"agent\.admitted"):
        Trap(wish)


def test_a_process_dies_at_its_point_without_flushing_a_word() -> None:
    program = """
import sys
from millrace import crashpoints
sys.stdout.write("first ")
crashpoints.reached("sync.settled")
sys.stdout.write("second ")
sys.stdout.flush()
crashpoints.reached("sync.settled")
print("third", flush=True)
"""
    environment = {"MILLRACE_CRASH_AT": "sync.settled:2", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-9, "first second ")
