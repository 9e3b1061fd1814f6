"""Which bundles were put in the place of those in the settings: a file in the state_dir, so that a swap lasts.

It is on stable storage before a swap counts. A binding whose bundle is another one in the settings since then follows
the settings.
"""

from __future__ import annotations

import logging
import os
from dataclasses import asdict, dataclass
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

    def note(self, model: ModelSettings, bundle: Bundle) -> None:
        """Write that from now on a bundle serves in the place of the one in the settings. Errors: StorageFailed."""
        known = dict(self._known)
        known.pop(model.binding, None)
        if bundle.folder != model.bundle:
            known[model.binding] = Swap(str(model.bundle), str(bundle.folder), bundle.digest)
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
        return {name: Swap(**swap) for name, swap in value.items()}
    except FileNotFoundError:
        return {}
    except (OSError, jsontext.BadJson, TypeError) as error:
        log.error('swaps_unreadable file=%s error="%s": the bundles in the settings serve', path, error)
        return {}
