"""docs/dependencies.md has a row for each requirement of setup.cfg, with its bounds and its extras, and no other."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def required() -> dict[str, set[str]]:
    """Return requirement -> extras that name it, as setup.cfg has it; `none` is the core."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    lists = {"none": parser["options"]["install_requires"], **parser["options.extras_require"]}
    found: dict[str, set[str]] = {}
    for extra, text in lists.items():
        for line in text.strip().splitlines():
            requirement = line.split(";")[0].strip()
            if requirement and not requirement.startswith(("%(", "#")):
                found.setdefault(requirement, set()).add(extra)
    return found


def test_each_requirement_has_its_row_and_each_row_its_requirement() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+[<>=][^`]+)` \| ([a-z, ]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", page, re.MULTILINE)
    assert {requirement: set(extras.split(", ")) for requirement, extras, *_ in rows} == required()
    assert all(why.strip() and licence.strip() and size.strip() for _, _, why, licence, size in rows)
