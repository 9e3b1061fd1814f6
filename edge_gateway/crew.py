"""Worker threads that share what waits: oldest first, but of each kind of work only so many at once.

What is of a kind that has its share already waits where it stands, and what is behind it goes on. So a heavy model
leaves workers to the others.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Job:
    number: int
    kinds: tuple[int, ...]
    work: Callable[[], Any]
    promised: Future[Any] = field(default_factory=Future)


class Crew:
    """A fixed number of threads; any thread may submit."""

    def __init__(self, count: int, most: Sequence[int]) -> None:
        """Have `count` threads; of kind k, at most `most[k]` pieces of work are under way at once."""
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="worker")
        self._holds_back = any(share < count for share in most)
        self._lock = threading.Lock()
        self._idle, self._room, self._number = count, list(most), 0
        self._waiting: defaultdict[tuple[int, ...], deque[_Job]] = defaultdict(deque)

    def submit(self, kinds: Sequence[int], work: Callable[[], T]) -> Future[T]:
        """Have `work` done once a thread is idle and each of its kinds has room; the future gives what it gives."""
        if not self._holds_back:  # the threads' own queue does, at a third of the processor time
            return self._pool.submit(work)
        with self._lock:
            self._number += 1
            job = _Job(self._number, tuple(kinds), work)
            self._waiting[job.kinds].append(job)
        self._begin()
        return job.promised

    def close(self) -> None:
        """End the threads; what is under way is finished, what waits is not begun."""
        with self._lock:
            waiting = [job for jobs in self._waiting.values() for job in jobs]
            self._waiting.clear()
        for job in waiting:
            job.promised.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self) -> None:
        while (job := self._take()) is not None:
            if job.promised.set_running_or_notify_cancel():
                self._pool.submit(self._run, job).add_done_callback(partial(_hand_on, job.promised))
            else:
                self._leave(job)

    def _run(self, job: _Job) -> Any:
        try:
            return job.work()
        finally:
            self._leave(job)
            self._begin()

    def _take(self) -> _Job | None:
        """Take the oldest piece of work that may begin now, and what it needs; None if there is none."""
        with self._lock:
            if not self._idle:
                return None
            heads = [
                jobs[0] for kinds, jobs in self._waiting.items() if jobs and all(self._room[kind] for kind in kinds)
            ]
            if not heads:
                return None
            job = min(heads, key=lambda head: head.number)
            self._waiting[job.kinds].popleft()
            self._idle -= 1
            for kind in job.kinds:
                self._room[kind] -= 1
            return job

    def _leave(self, job: _Job) -> None:
        with self._lock:
            self._idle += 1
            for kind in job.kinds:
                self._room[kind] += 1


def _hand_on(promised: Future[Any], done: Future[Any]) -> None:
    if (error := done.exception()) is not None:
        promised.set_exception(error)
    else:
        promised.set_result(done.result())
