"""When a folder that refuses its pictures is no longer waited for."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from edge_gateway.bad_folders import PATIENCE_S, BadFolders

FOLDER, OTHER = Path("frames/ab"), Path("frames/cd")


def test_a_fault_that_passes_within_minutes_gives_nothing_up() -> None:
    folders = BadFolders()
    assert not any(folders.refused(FOLDER, "EIO", float(second)) for second in range(0, int(PATIENCE_S), 60))
    assert folders.said(PATIENCE_S) == ["EIO"]
    folders.took(FOLDER)
    assert folders.said(PATIENCE_S) == []
    assert not folders.refused(FOLDER, "EIO", PATIENCE_S + 60)


def test_a_folder_that_refuses_all_for_long_is_given_up_and_no_other() -> None:
    folders = BadFolders()
    for second in (0.0, 300.0, 600.0):
        assert not folders.refused(FOLDER, "EIO", second)
    assert not folders.refused(OTHER, "EUCLEAN", PATIENCE_S)
    assert folders.refused(FOLDER, "EIO again", PATIENCE_S)
    assert folders.refused(FOLDER, "EIO again", PATIENCE_S + 60)
    assert folders.said(PATIENCE_S + 60) == ["EIO again", "EUCLEAN"]


def test_a_fault_of_long_ago_that_nobody_tried_since_begins_a_new_wait() -> None:
    folders = BadFolders()
    folders.refused(FOLDER, "EIO", 0.0)
    assert not folders.refused(FOLDER, "EIO", 10 * PATIENCE_S)


def test_a_folder_is_named_as_long_as_it_is_tried_and_refuses_and_not_for_ever_after() -> None:
    folders = BadFolders()
    tries_s = [float(second) for second in range(0, 10 * int(PATIENCE_S), int(PATIENCE_S) - 1)]
    for now_s, next_s in pairwise(tries_s):
        folders.refused(FOLDER, "EIO", now_s)
        assert folders.said(now_s) == folders.said(next_s) == ["EIO"]
    assert folders.said(tries_s[-1] + PATIENCE_S) == []
    folders.refused(FOLDER, "EIO", tries_s[-1] + 86400)
    assert folders.said(tries_s[-1] + 86400) == ["EIO"]
