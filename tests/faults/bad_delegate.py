"""A TensorFlow Lite delegate of our own that works until it does what its options say; built where there is a cc."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("bad_delegate.c")


def build(folder: Path) -> Path:
    """Return the delegate's library, built into a folder; skips the test where nothing can build it."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler (cc) to build the delegate that misbehaves")
    library = folder / "bad_delegate.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE)]
    subprocess.run(command, check=True)
    return library
