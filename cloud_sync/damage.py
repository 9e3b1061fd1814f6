"""Damage met in the gateway's file: whoever meets it twice in the same file has the gateway end for it and heal it."""

from __future__ import annotations

from pathlib import Path

from millrace import healing
from millrace.birth import birth
from millrace.database import Damaged


class DamageMet:
    """What one reader has met; the sync worker itself writes nothing there."""

    def __init__(self, path: Path) -> None:
        """`path` is the gateway's file."""
        self._path = path
        self._met_in = ""

    def none(self) -> None:
        """Take note that the file was read."""
        self._met_in = ""

    def ask_for_healing(self, error: Damaged) -> str:
        """Have the gateway heal its file if damage is met in the same one twice; say what is waited for.

        Once may be a file that was being replaced while it was read. Errors: the same again if it is of another file.
        """
        if error.path != self._path:
            raise error
        try:
            present = birth(self._path)
        except OSError:
            present = ""
        was, self._met_in = self._met_in, present
        if not present or was != present:
            return "it is read once more"
        return healing.ask_for_healing(self._path) or "the gateway ends for it, and its next start salvages it"
