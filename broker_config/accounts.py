"""The accounts' secrets: one private file each, made once, never printed; and Mosquitto's hashed password file."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from broker_config.settings import BrokerConfig
from millrace.settings import ConfigError, read_secret

SECRET_BYTES = 24


class ProgramUnusable(Exception):
    """A program of Mosquitto's is not on this machine, or does not work. Exit 69."""


def program(name: str) -> str:
    """Return the path of one of Mosquitto's programs; ProgramUnusable with the package to install."""
    # Debian installs the broker in /usr/sbin, which is not on an ordinary user's PATH.
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise ProgramUnusable(f"{name} is not on this machine; run: sudo apt install mosquitto")
    return found


def make_secrets(config: BrokerConfig) -> list[Path]:
    """Make a secret for each account that has none yet, and return the new files (mode 0600)."""
    config.password_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    missing = [path for name in config.accounts.names if not (path := config.password_dir / name).exists()]
    for path in missing:
        write_private(path, secrets.token_urlsafe(SECRET_BYTES) + "\n")
    return missing


def read_secrets(config: BrokerConfig) -> dict[str, str]:
    """Return every account's secret by name; ConfigError with all that is wrong with the files."""
    found: dict[str, str] = {}
    problems: list[str] = []
    for name in config.accounts.names:
        path = config.password_dir / name
        if not path.exists():
            problems.append(f"{path}: account {name} has no secret; run: millrace broker accounts --config …")
            continue
        try:
            found[name] = read_secret(path)
        except ConfigError as error:
            problems += error.problems
        if ":" in found.get(name, "") or "\n" in found.get(name, ""):
            problems.append(f"{path}: a secret is one line without ':' (mosquitto_passwd would cut it there)")
    if problems:
        raise ConfigError(problems)
    return found


def password_file(passwords: Mapping[str, str]) -> str:
    """Return Mosquitto's password file for these accounts, each secret salted and hashed by `mosquitto_passwd`."""
    tool = program("mosquitto_passwd")
    with tempfile.TemporaryDirectory(prefix="millrace-") as private:
        path = Path(private, "passwords")
        # The tool's -b takes the secret as an argument, which every user of the machine can read; -U takes a file.
        write_private(path, "".join(f"{name}:{secret}\n" for name, secret in passwords.items()))
        done = subprocess.run([tool, "-U", path], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ProgramUnusable(f"{tool} -U failed: {done.stderr.strip() or done.stdout.strip()}")
        return path.read_text(encoding="ascii")


def write_private(path: Path, text: str) -> None:
    """Write a new file that only its owner may read; FileExistsError if it is there."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
