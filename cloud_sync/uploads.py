"""Pictures on their way up, several at once, each over a kept connection of its own; whoever asks need not wait.

No more pictures are in memory than connections there are, all of batches that were cut to a size. A picture that the
cloud has taken is remembered, so that a link that fails often gets on by one at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from time import monotonic

from cloud_sync.submit import Cloud, LinkDown, Rejected
from millrace.blobs import StorageFailed

REMEMBERED_AT_MOST = 10_000
_END_WITHIN_S = 2.0

Outcome = int | Rejected | None
"""What became of a picture: its bytes are in the cloud, the cloud refuses it, or it could not be read here."""


class Shipment:
    """The pictures of one batch, and what became of them. `failed` is what stopped the others."""

    def __init__(self, digests: Iterable[str] = ()) -> None:
        self.left = dict.fromkeys(digests)
        self.outcomes: dict[str, Outcome] = {}
        self.failed: LinkDown | StorageFailed | None = None
        self._first = next(iter(self.left), None)
        self._count = len(self.left)

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes of it."""
        return self.failed is not None or len(self.outcomes) == self._count

    @property
    def has_first(self) -> bool:
        """Whether it is known what became of the first picture."""
        return self._first is None or self._first in self.outcomes


class Uploads:
    """The threads that bring shipments up, in their order. Any thread may ask."""

    def __init__(
        self, clouds: Sequence[Cloud], read: Callable[[str], bytes | None], came_up: Callable[[], None]
    ) -> None:
        """One thread for each of `clouds`; `read` gives a picture, and `came_up` hears of each one in its thread."""
        self._read, self._came_up = read, came_up
        self._changed = threading.Condition()
        self._shipments: list[Shipment] = []
        self._under_way: set[str] = set()
        self._taken: dict[str, int] = {}
        self._life = 0
        self._is_ended = False
        self._threads = [
            threading.Thread(target=self._work, args=(cloud,), name=f"upload-{number}", daemon=True)
            for number, cloud in enumerate(clouds)
        ]

    def start(self) -> None:
        """Start the threads, if nobody has."""
        if self._threads[0].ident is None:
            for thread in self._threads:
                thread.start()

    def close(self) -> None:
        """End the threads; one that waits for an answer ends by its request's deadline, or with the process."""
        with self._changed:
            self._is_ended = True
            self._shipments.clear()
            self._changed.notify_all()
        end_s = monotonic() + _END_WITHIN_S
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, end_s - monotonic()))

    def begin(self, digests: Iterable[str]) -> Shipment:
        """Bring these pictures up behind all that was begun before."""
        shipment = Shipment(digests)
        if shipment.left:
            self.start()
            with self._changed:
                self._shipments.append(shipment)
                self._changed.notify_all()
        return shipment

    def abandon(self, shipment: Shipment) -> None:
        """Begin no more of it; what is under way goes on, and is remembered if it gets there."""
        with self._changed:
            if shipment in self._shipments:
                self._shipments.remove(shipment)

    def wait(self, shipment: Shipment, timeout_s: float) -> bool:
        """Wait until a shipment is over; return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: shipment.is_over, timeout_s)

    def forget(self) -> None:
        """Bring every picture up again from now on, over new connections."""
        with self._changed:
            self._taken.clear()
            self._life += 1

    def _work(self, cloud: Cloud) -> None:
        life = 0
        while (order := self._next()) is not None:
            shipment, digest, life_now = order
            if life_now != life:
                cloud.close()
                life = life_now
            self._bring(cloud, shipment, digest)
        cloud.close()

    def _next(self) -> tuple[Shipment, str, int] | None:
        """Wait for a picture that nobody brings up yet; None for the end."""
        with self._changed:
            while not self._is_ended:
                for shipment in self._shipments:
                    digest = next((digest for digest in shipment.left if digest not in self._under_way), None)
                    if digest is not None:
                        del shipment.left[digest]
                        self._under_way.add(digest)
                        return shipment, digest, self._life
                self._changed.wait()
            return None

    def _bring(self, cloud: Cloud, shipment: Shipment, digest: str) -> None:
        outcome: Outcome = None
        failed: LinkDown | StorageFailed | None = None
        try:
            outcome = self._upload(cloud, digest)
        except Rejected as error:
            outcome = error
        except (LinkDown, StorageFailed) as error:
            failed = error
        with self._changed:
            self._under_way.discard(digest)
            if failed is None:
                shipment.outcomes[digest] = outcome
            elif shipment.failed is None:
                shipment.failed = failed
            if shipment.is_over and shipment in self._shipments:
                self._shipments.remove(shipment)
            self._changed.notify_all()

    def _upload(self, cloud: Cloud, digest: str) -> int | None:
        """Return how many bytes the cloud has of a picture, None if it cannot be read here.

        Errors: Rejected, LinkDown, StorageFailed.
        """
        known = self._taken.get(digest)
        if known is not None:
            return known
        picture = self._read(digest)
        if picture is None:
            return None
        life = self._life
        cloud.upload(digest, picture)
        with self._changed:
            if life == self._life:
                if len(self._taken) >= REMEMBERED_AT_MOST:
                    self._taken.clear()
                self._taken[digest] = len(picture)
        self._came_up()
        return len(picture)
