"""Real file systems of a few MiB that fill up, in bytes or in files, and are freed again. Mounting needs root."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

HOG = "hog"
BLOCK_BYTES = 64 << 10
LEFT_BYTES = (0, 0, 4096, 100_000)


@contextlib.contextmanager
def mounted(folder: Path, size_bytes: int, files: int) -> Iterator[SmallDisk | None]:
    """Mount a file system of its own at `folder`; None where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},nr_inodes={files},mode=700", "none", folder]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        yield None
        return
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


class SmallDisk:
    """One of them; what fills it is a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._hog = folder / HOG
        self._hog.mkdir()

    def fill(self, chance: random.Random) -> None:
        """Take all bytes, or all but a few."""
        with (self._hog / "bytes").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(BLOCK_BYTES)) == BLOCK_BYTES:
                pass
        left = chance.choice(LEFT_BYTES)
        size = (self._hog / "bytes").stat().st_size
        os.truncate(self._hog / "bytes", max(0, size - left))

    def fill_with_files(self) -> None:
        """Take all files that it can hold, and hardly any bytes."""
        with contextlib.suppress(OSError):
            for number in range(1 << 20):
                (self._hog / f"{number}").touch()

    def free(self) -> None:
        """Give all of it back."""
        for file in self._hog.iterdir():
            file.unlink()
