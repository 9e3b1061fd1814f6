"""The rooms and their doors: who imports whom, where a library is known, and what is nowhere."""

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from millrace import topics

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "millrace": "millrace",
    "broker_config": "broker_config",
    "device_agent": "device_agent",
    "edge_gateway": "edge_gateway",
    "cloud_sync": "cloud_sync",
    "millrace_models": "models",
}
MAY_IMPORT = {
    "millrace": set(),
    "broker_config": {"millrace"},
    "device_agent": {"millrace"},
    "edge_gateway": {"millrace"},
    "cloud_sync": {"millrace"},
    "millrace_models": {"millrace", "device_agent"},
}
RUNTIMES = {"ai_edge_litert", "tflite_runtime", "onnxruntime", "tensorflow"}
BROAD_CATCHERS = {"millrace.service", "millrace.mqtt.connection"}
DRAWERS = {"utils", "util", "helpers", "common", "manager", "misc"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for package, folder in FOLDERS.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = [package, *file.relative_to(ROOT / folder).with_suffix("").parts]
            yield ".".join(part for part in parts if part != "__init__"), ast.parse(file.read_text(encoding="utf-8"))


MODULES = dict(modules())


def imports(tree: ast.AST, *, in_functions: bool = True) -> Iterator[str]:
    """Yield what is imported, for type checkers alone too; `from a import b` as a.b."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif in_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports(node, in_functions=in_functions)


def top(name: str) -> str:
    return name.split(".", maxsplit=1)[0]


def importers(libraries: set[str]) -> set[str]:
    return {name for name, tree in MODULES.items() if libraries & {top(found) for found in imports(tree)}}


def texts(tree: ast.AST) -> Iterator[str]:
    """Yield every string but docstrings; what an f-string fills in is shown as X."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        yield from texts(node)


def test_each_package_imports_only_what_it_may() -> None:
    strangers = {
        f"{name} imports {found}"
        for name, tree in MODULES.items()
        for found in imports(tree)
        if top(found) in FOLDERS and top(found) not in MAY_IMPORT[top(name)] | {top(name)}
    }
    assert not strangers


def test_no_modules_know_each_other_in_a_circle() -> None:
    """An import for type checkers counts: who names the other's types has to change with it."""
    graph = {
        name: {near for found in imports(tree, in_functions=False) if (near := _module_of(found)) not in (None, name)}
        for name, tree in MODULES.items()
    }
    assert tuple(graphlib.TopologicalSorter(graph).static_order())


def _module_of(found: str) -> str | None:
    return found if found in MODULES else parent if (parent := found.rpartition(".")[0]) in MODULES else None


def test_one_package_knows_paho() -> None:
    assert {name.rpartition(".")[0] for name in importers({"paho"})} == {"millrace.mqtt"}


def test_four_modules_at_most_know_sqlite() -> None:
    assert importers({"sqlite3"}) == {"millrace.database"}


def test_a_runtime_is_known_only_to_its_engine() -> None:
    makers_of_models = {name for name in MODULES if top(name) == "millrace_models"}
    strangers = {name for name in importers(RUNTIMES) if not name.startswith("edge_gateway.engines.")}
    assert strangers <= makers_of_models


def test_only_the_table_spells_a_topic() -> None:
    words = "|".join(sorted({rule.pattern.split("/")[2] for rule in topics.TABLE.values()}))
    channels = "|".join(rule.pattern.split("/")[2] for rule in topics.TABLE.values() if "{channel}" in rule.pattern)
    spelled = re.compile(rf"(device|gateway)/[^/\s]*/({words})\b|(^|/)({channels})/[X{{#+]")
    found = {
        f"{name}: {text}"
        for name, tree in MODULES.items()
        for text in texts(tree)
        if spelled.search(text) and name != "millrace.topics"
    }
    assert not found


def test_every_error_that_is_caught_has_a_name() -> None:
    swallowed = {
        f"{name}:{node.lineno}"
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and _is_broad(node) and name not in BROAD_CATCHERS
    }
    assert not swallowed


def _is_broad(handler: ast.ExceptHandler) -> bool:
    """Say whether a handler takes any error; one that only puts things straight and raises it again does not."""
    named = set() if handler.type is None else {n.id for n in ast.walk(handler.type) if isinstance(n, ast.Name)}
    passes_on = isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None
    return (handler.type is None or bool({"Exception", "BaseException"} & named)) and not passes_on


def test_no_module_is_a_drawer() -> None:
    assert not {name for name in MODULES if DRAWERS & set(re.split(r"[._]", name))}


def test_an_agent_for_a_sensor_loads_no_pictures_and_no_runtime(tmp_path: Path) -> None:
    (tmp_path / "readings.csv").write_text("temperature_c\n41.2\n")
    heavy = sorted(RUNTIMES | {"cv2", "numpy", "amqtt", "starlette", "uvicorn", "urllib3", "zstandard"})
    program = f"""
import sys
from pathlib import Path
import device_agent.app
from device_agent.settings import ReadingsSource
from device_agent.sources.opening import open_source
from millrace.clock import SystemClock
source = open_source(ReadingsSource(kind="readings", path=Path("readings.csv")), SystemClock())
print(source.read(1.0).content.values)
source.close()
print([name for name in {heavy} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["{'temperature_c': 41.2}", "[]"]
