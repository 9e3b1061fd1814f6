"""A process that has outboxes written and killed: each line on its input starts a writer, which goes on until SIGKILL.

A writer says `pid N`, then after each commit `kept LAST FORGOTTEN`; when it is dead, its parent says `ended`.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
from pathlib import Path

from millrace.blobs import BlobStore
from millrace.entries import Draft, Lane
from millrace.outbox import Outbox


def write_for_ever(folder: Path, chance: random.Random) -> None:
    """Append batches, and forget from the front; a body names its batch's first and last seq, and so does a picture."""
    outbox = Outbox(folder / "spool.db", BlobStore(folder / "frames"), "machine-1")
    while True:
        size = chance.randrange(1, 6)
        first = outbox.next_seq
        picture = b"picture %d " % first * chance.randrange(1, 300)
        digest = hashlib.sha256(picture).hexdigest() if chance.random() < 0.5 else None
        body = b"%d %d" % (first, first + size - 1)
        held_from = outbox.first_position() or first
        forgotten = chance.randrange(held_from, first) if outbox.held_rows > 20 else held_from - 1
        with outbox.transaction():
            if digest is not None:
                outbox.put_pictures({digest: picture})
            seqs = [outbox.mint() for _ in range(size)]
            outbox.append([Draft(Lane.FRAME, outbox.epoch, seq, body, digest, len(picture)) for seq in seqs], 0.0)
            outbox.forget_range(0, forgotten)
        os.write(1, b"kept %d %d\n" % (seqs[-1], forgotten))


def main() -> None:
    """Start one writer after the other."""
    folder = Path(sys.argv[1])
    for number, _ in enumerate(sys.stdin):
        child = os.fork()
        if child == 0:
            os.write(1, b"pid %d\n" % os.getpid())
            write_for_ever(folder, random.Random(number))
        os.waitpid(child, 0)
        os.write(1, b"ended\n")


if __name__ == "__main__":
    main()
