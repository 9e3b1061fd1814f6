"""The pictures of each site, named by the SHA-256 of the bytes as sent; one site never sees another's."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

from millrace.blobs import BlobStore


class WrongDigest(ValueError):
    """The bytes are not those that their name promises; they were damaged on the way: send them again."""


class SiteBlobs:
    """One folder for each site under `folder`; any thread may call, one writes at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stores: dict[str, BlobStore] = {}
        self._mutex = threading.Lock()

    def put(self, site: str, sha256: str, content: bytes) -> bool:
        """Store a picture, on stable storage at return; False if it was there. Errors: WrongDigest, StorageFailed."""
        found = hashlib.sha256(content).hexdigest()
        if found != sha256:
            raise WrongDigest(f"the {len(content)} bytes sent have SHA-256 {found}, not {sha256}")
        with self._mutex:
            new = self.size(site, sha256) is None
            self._store(site).put({sha256: content})
        return new

    def path(self, site: str, sha256: str) -> Path:
        """Return where a picture lies, whether it is there or not."""
        return self._store(site).path(sha256)

    def size(self, site: str, sha256: str) -> int | None:
        """Return a picture's length in bytes, or None if the site has none of this digest."""
        try:
            return self.path(site, sha256).stat().st_size
        except FileNotFoundError:
            return None

    def _store(self, site: str) -> BlobStore:
        return self._stores.setdefault(site, BlobStore(self._folder / site))
