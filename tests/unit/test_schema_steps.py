"""A file of an older schema is taken through the steps that it lacks, all or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from millrace import database
from millrace.blobs import StorageFailed
from millrace.database import Database

FIRST = "CREATE TABLE part (name TEXT); INSERT INTO part VALUES ('bolt');"
SECOND = "ALTER TABLE part ADD COLUMN grams INTEGER NOT NULL DEFAULT 7;"


def _make_old(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as past:
        past.setattr(database, "SCHEMA_VERSION", 1)
        Database(path, [FIRST]).close()


def test_an_older_file_keeps_its_rows_and_gains_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _make_old(tmp_path / "x.db", monkeypatch)
    monkeypatch.setattr(database, "SCHEMA_VERSION", 2)
    for _ in range(2):  # the second time there is nothing left to do
        file = Database(tmp_path / "x.db", [FIRST, SECOND])
        assert file.connection.execute("SELECT * FROM part").fetchall() == [("bolt", 7)]
        file.close()


def test_a_new_file_goes_through_all_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "SCHEMA_VERSION", 2)
    file = Database(tmp_path / "x.db", [FIRST, SECOND])
    assert file.connection.execute("SELECT * FROM part").fetchall() == [("bolt", 7)]
    file.close()


def test_a_step_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _make_old(tmp_path / "x.db", monkeypatch)
    monkeypatch.setattr(database, "SCHEMA_VERSION", 2)
    with pytest.raises(StorageFailed, match="nonsense"):
        Database(tmp_path / "x.db", [FIRST, f"{SECOND} INSERT INTO nonsense VALUES (1);"])
    with monkeypatch.context() as past:
        past.setattr(database, "SCHEMA_VERSION", 1)
        file = Database(tmp_path / "x.db", [FIRST])
        assert file.connection.execute("SELECT * FROM part").fetchall() == [("bolt",)]
        file.close()
