"""Unit tests are about rules and files, not about the disk: theirs lie in memory, where a sync costs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def tmp_path(quick_path: Path) -> Path:
    return quick_path
