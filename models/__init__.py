"""Model bundles that come with Millrace, and the recipes that made them."""

from __future__ import annotations

from pathlib import Path

_SHIPPED = Path(__file__).parent


class UnknownBundle(Exception):
    """No bundle of this name is shipped."""


def bundle_path(name: str) -> Path:
    """Return the folder of a shipped bundle (its manifest.yaml, model file and CARD.md).

    UnknownBundle: none has this name; the text names the known ones.
    """
    known = sorted(manifest.parent.name for manifest in _SHIPPED.glob("*/manifest.yaml"))
    if name not in known:
        raise UnknownBundle(f"no shipped bundle {name!r}; known are: {', '.join(known) or 'none'}")
    return _SHIPPED / name
