"""docs/design.md: the rooms of section 3 are there, each package is among them, and each decision has its page."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")


def rooms() -> list[str]:
    """Return the paths that section 3 names; two spaces mean: inside the folder above."""
    block = PAGE.split("## 3. The rooms")[1].split("```")[1]
    found, folder = [], ""
    for indent, entry in re.findall(r"^( *)([\w./]+) ", block, re.MULTILINE):
        if not indent:
            folder = entry
        found.append(folder + entry if indent else entry)
    return found


def test_each_room_is_there() -> None:
    assert [path for path in rooms() if not (ROOT / path).exists()] == []


def test_each_package_is_a_room() -> None:
    packages = {f"{file.parent.relative_to(ROOT)}/" for file in ROOT.glob("[a-z]*/__init__.py")}
    assert packages <= set(rooms())


def test_each_decision_is_linked_and_has_the_three_parts() -> None:
    for decision in sorted((ROOT / "docs" / "adr").glob("*.md")):
        assert f"(adr/{decision.name})" in PAGE
        text = decision.read_text(encoding="utf-8")
        assert text.startswith(f"# {decision.name[:4]}: ")
        assert re.findall(r"^## (\w+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
