"""Which bundles were put in the place of those in the settings: a file in the state_dir, so that a swap lasts.

It is on stable storage before a swap counts. A binding whose bundle is another one in the settings since then follows
the settings.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

from edge_gateway.bundle import Bundle
from edge_gateway.settings import ModelSettings
from millrace import jsontext
from millrace.blobs import StorageFailed, sync_folder

log = logging.getLogger(__name__)

FILE = "swaps.json"
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Swap:
    """What serves a binding: the folder and the bundle's digest, and which folder the settings named then."""

    configured: str
    folder: str
    digest: str


class Swaps:
    """The file of one gateway, written by it alone. One thread uses it."""

    def __init__(self, state_dir: Path) -> None:
        """Read it; one that is missing or cannot be read says nothing."""
        self.path = state_dir / FILE
        self._known = _read(self.path)

    def of(self, model: ModelSettings) -> Swap | None:
        """Return what was put in the place of a model's bundle, if its settings name the same one still."""
        swap = self._known.get(model.binding)
        return swap if swap is not None and swap.configured == str(model.bundle) else None

    def follow(self, models: Sequence[ModelSettings]) -> None:
        """Forget for good what the settings overrule, so that no way back in them brings it back.

        Where the disk does not take that, it is forgotten at a later start.
        """
        known = {model.binding: swap for model in models if (swap := self.of(model)) is not None}
        if known != self._known:
            try:
                self._write(known)
            except StorageFailed as error:
                log.warning("swaps_not_forgotten error=%s", error)

    def note(self, model: ModelSettings, bundle: Bundle) -> None:
        """Write that from now on a bundle serves in the place of the one in the settings. Errors: StorageFailed."""
        known = dict(self._known)
        known.pop(model.binding, None)
        if bundle.folder != model.bundle:
            known[model.binding] = Swap(str(model.bundle), str(bundle.folder), bundle.digest)
        self._write(known)

    def _write(self, known: dict[str, Swap]) -> None:
        content = jsontext.dump({name: asdict(swap) for name, swap in known.items()})
        half = self.path.with_name(FILE + ".part")
        try:
            with half.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            half.rename(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise StorageFailed(f"{self.path}: {error.strerror}") from None
        self._known = known


def _read(path: Path) -> dict[str, Swap]:
    try:
        value = jsontext.parse(path.read_bytes(), _MAX_BYTES)
        if not isinstance(value, dict):
            raise TypeError("no JSON object")
        known = {name: Swap(**swap) for name, swap in value.items()}
        if not all(isinstance(text, str) for swap in known.values() for text in astuple(swap)):
            raise TypeError("what is no text")
        return known
    except FileNotFoundError:
        return {}
    except (OSError, jsontext.BadJson, TypeError) as error:
        log.error('swaps_unreadable file=%s error="%s": the bundles in the settings serve', path, error)
        return {}
