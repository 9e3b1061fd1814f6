"""The READMEs and pages say what is there: files, commands, tests; and both languages go in step."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from millrace.cli import COMMANDS

ROOT = Path(__file__).parents[2]
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# What begins like a path of this repository; generated files and a user's own are none of ours.
OURS = re.compile(
    r"`((?!millrace/(?:device|gateway)/)(?:millrace|broker_config|device_agent|edge_gateway|cloud_sync|models|deploy|tests|bench|docs)/[\w./-]*)(?:::(\w+))?`"
)


def code_blocks(page: Path) -> list[str]:
    return re.findall(r"^```.*?^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def headings(page: Path) -> list[int]:
    return [len(marks) for marks in re.findall(r"^(#+) ", prose(page), re.MULTILINE)]


def links(page: Path) -> set[str]:
    return set(re.findall(r"\]\(([^)\s]+)\)", prose(page)))


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_both_languages_have_the_same_headings_code_and_tests() -> None:
    assert headings(CHINESE) == headings(ENGLISH)
    assert code_blocks(CHINESE) == code_blocks(ENGLISH)
    assert OURS.findall(prose(CHINESE)) == OURS.findall(prose(ENGLISH))


def test_both_languages_link_to_the_same_pages_and_to_each_other() -> None:
    assert links(CHINESE) - {"README.md"} == links(ENGLISH) - {"README.zh-CN.md"}
    assert "README.md" in links(CHINESE)
    assert "README.zh-CN.md" in links(ENGLISH)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_linked_file_is_there(page: Path) -> None:
    targets = {link.partition("#")[0] for link in links(page) if "://" not in link} - {""}
    assert sorted(target for target in targets if not (page.parent / target).exists()) == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_file_and_test_that_is_named_is_there(page: Path) -> None:
    missing = []
    for path, test in OURS.findall(prose(page)):
        file = ROOT / path
        if not file.exists() or (test and f"def {test}(" not in file.read_text(encoding="utf-8")):
            missing.append(f"{path}::{test}" if test else path)
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_that_is_named_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    code = "\n".join([*code_blocks(page), *re.findall(r"`([^`\n]+)`", text)])
    named = set(re.findall(r"(?:^|[\s`])make ([a-z0-9]+)\b", code))
    called = set(re.findall(r"(?:^|[\s`/])millrace ([a-z]+)\b(?! =)", code))
    assert sorted(named - targets) == []
    assert sorted(called - set(COMMANDS)) == []


def test_every_package_and_folder_of_the_table_is_there() -> None:
    listed = set(re.findall(r"^\| `(\w+)/` \|", ENGLISH.read_text(encoding="utf-8"), re.MULTILINE))
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and re.fullmatch(r"[a-z_]+", path.name)}
    assert listed <= folders
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} <= listed
