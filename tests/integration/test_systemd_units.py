"""The systemd units: systemd itself finds nothing to say about them, and their sandboxes stay shut."""

from __future__ import annotations

import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
EXPOSURE_MAX = 1.7
# What a unit's default dependencies and its own After= name, and sysusers would have made.
TARGETS = ("basic", "multi-user", "network", "shutdown", "sysinit", "time-sync")
USERS = ("root", "millrace", "millrace-agent", "video")

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on this machine (Debian: systemd)"
)


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    """A root with the units, a program at the place that they name, and their users."""
    units = tmp_path / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    for unit in UNITS:
        shutil.copy(unit, units)
    for target in TARGETS:
        (units / f"{target}.target").write_text("[Unit]\nDescription=staged\n", encoding="ascii")
    program = tmp_path / "opt/millrace/bin/millrace"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n", encoding="ascii")
    program.chmod(0o755)
    (tmp_path / "etc").mkdir()
    passwd = [f"{name}:x:{number}:{number}::/:/bin/false" for number, name in enumerate(USERS)]
    (tmp_path / "etc/passwd").write_text("\n".join(passwd) + "\n", encoding="ascii")
    group = [f"{name}:x:{number}:" for number, name in enumerate(USERS)]
    (tmp_path / "etc/group").write_text("\n".join(group) + "\n", encoding="ascii")
    return tmp_path


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True)


@needs_systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_has_nothing_to_say_about_a_unit(unit: Path, staged: Path) -> None:
    done = analyze("verify", f"--root={staged}", "--man=no", unit.name)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
def test_a_misspelt_setting_in_a_unit_would_be_noticed(staged: Path) -> None:
    unit = staged / "usr/lib/systemd/system/millrace-sync.service"
    unit.write_text(unit.read_text(encoding="utf-8").replace("WatchdogSec", "WatchDogSec"), encoding="utf-8")
    assert "Unknown key 'WatchDogSec'" in analyze("verify", f"--root={staged}", "--man=no", unit.name).stderr


@needs_systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_sandbox_is_as_shut_as_we_say(unit: Path) -> None:
    done = analyze("security", "--offline=yes", "--no-pager", unit)
    found = re.search(rf"level for {re.escape(unit.name)}: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= EXPOSURE_MAX


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_comes_back_after_any_night_but_not_with_bad_settings(unit: Path) -> None:
    settings = ConfigParser(strict=False, interpolation=None)
    settings.read(unit, encoding="utf-8")
    assert settings["Unit"]["StartLimitIntervalSec"] == "0"
    assert settings["Service"]["Restart"] == "always"
    assert settings["Service"]["RestartPreventExitStatus"] == "78"
    assert settings["Service"]["Type"] == "notify"
    assert int(settings["Service"]["WatchdogSec"]) > 0


def test_sysusers_makes_each_user_that_a_unit_runs_as() -> None:
    made = re.findall(r"^u\s+(\S+)", (DEPLOY / "sysusers.d/millrace.conf").read_text(encoding="utf-8"), re.MULTILINE)
    texts = [unit.read_text(encoding="utf-8") for unit in UNITS]
    used = {name for text in texts for name in re.findall(r"^User=(.+)$", text, re.MULTILINE)}
    assert set(made) == used
