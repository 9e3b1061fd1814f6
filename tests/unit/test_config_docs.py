"""The settings' page and explanations: every key described, and docs/config.md is what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from millrace import programs, reference
from millrace.config_command import command

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "config.md"
PROSE = [*ROOT.glob("README*.md"), *sorted((ROOT / "docs").rglob("*.md"))]

AGENT = """
device: cam-1
state_dir: state
channels:
  top:
    source: {kind: stream, url: "rtsp://someone:hunter2@camera.local/stream"}
    gate: {interval_s: 1}
"""


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(command, words)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_page_in_docs_is_what_the_code_says() -> None:
    models = {program: programs.model_of(program) for program in programs.MODELS}
    assert PAGE.read_text(encoding="utf-8") == reference.markdown(models), "run: millrace config docs > docs/config.md"


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.name)
def test_a_setting_that_a_page_names_exists(page: Path) -> None:
    """A name in two parts, of which the first is a section and the second has an underscore, is meant as a setting."""
    known = {key.path for program in programs.MODELS for key in reference.keys_of(programs.model_of(program))}
    sections = {path.split(".")[0] for path in known if "." in path}
    named = re.findall(r"`(([a-z_]+)\.[a-z]+_[a-z_]+)[`:]", page.read_text(encoding="utf-8"))
    assert [name for name, section in named if section in sections and name not in known] == []


@pytest.mark.parametrize("program", programs.MODELS)
def test_every_key_has_a_description(program: str) -> None:
    keys = reference.keys_of(programs.model_of(program))
    assert [f"{key.path} {key.when or ''}" for key in keys if not key.description] == []


def test_each_kind_of_source_has_its_own_keys() -> None:
    keys = reference.keys_of(programs.model_of("agent"))
    when = {key.when for key in keys if key.path == "channels.NAME.source.path"}
    assert when == {"kind: folder", "kind: video", "kind: readings", "kind: waveform"}


def test_explain_finds_a_key_under_a_name_of_the_users_own() -> None:
    status, text = run("explain", "channels.top.gate.interval_s")
    assert status == 0
    assert "unit: seconds; default: 0" in text


def test_explain_of_a_wrong_key_says_the_nearest() -> None:
    status, text = run("explain", "broker.prot", "--program", "agent")
    assert status == 2
    assert "broker.port" in text


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.yaml", AGENT, ["agent"]),
        ("gateway.yaml", "gateway: g1\nstate_dir: s\n", ["gateway"]),
        ("line3-sync.yaml", "gateway: g1\nstate_dir: s\n", ["sync"]),
        ("a.yaml", "gateway: g1\ncloud: {}\n", ["sync"]),
        ("agent.yaml", "anonymous: true\n", ["broker"]),
        ("agent.yaml", "", ["agent"]),
        ("a.yaml", "gateway: g1\n", ["gateway", "sync"]),
    ],
)
def test_the_program_is_seen_from_the_keys_and_then_from_the_name(name: str, text: str, expected: list[str]) -> None:
    keys = [line.split(":")[0] for line in text.splitlines() if line and not line.startswith(" ")]
    known = {program: programs.model_of(program).model_fields for program in programs.MODELS}
    assert programs.guess(keys, name, known) == expected


def test_check_shows_the_problems_of_all_files(tmp_path: Path) -> None:
    good = written(tmp_path / "good.yaml", AGENT)
    bad = written(tmp_path / "bad.yaml", AGENT.replace("cam-1", "Cam_1").replace("state_dir", "state_dri"))
    status, text = run("check", str(bad), str(good))
    assert status == 78
    assert f"{bad}:2: device: " in text
    assert f'{bad}:3: state_dri: unknown key (did you mean "state_dir"?)' in text
    assert f"{good}: ok (agent)" in text


def test_check_asks_where_a_file_may_be_for_two_programs(tmp_path: Path) -> None:
    path = written(tmp_path / "a.yaml", f"gateway: g1\nstate_dir: {tmp_path}\n")
    status, text = run("check", str(path))
    assert (status, "--program" in text) == (78, True)
    assert run("check", str(path), "--program", "gateway") == (0, f"{path}: ok (gateway)\n")


def test_show_says_where_each_value_comes_from_and_no_secret(tmp_path: Path) -> None:
    status, text = run("show", str(written(tmp_path / "agent.yaml", AGENT)))
    assert status == 0
    assert "      interval_s: 1.0  # file" in text
    assert "      keepalive_s: 60.0  # default" in text
    assert "hunter2" not in text


def test_what_show_prints_are_good_settings_with_the_same_values(tmp_path: Path) -> None:
    """Only a secret must be filled in again."""
    text = "gateway: g1\nstate_dir: s\nmodels: [{bundle: b, channels: ['*/top', x]}]\nbroker: {protocol: '5'}\n"
    first = written(tmp_path / "gateway.yaml", text)
    _, shown = run("show", str(first))
    second = written(tmp_path / "second-gateway.yaml", shown)
    _, again = run("show", str(second))
    assert [line.split("  #")[0] for line in again.splitlines()[1:]] == [
        line.split("  #")[0] for line in shown.splitlines()[1:]
    ]
