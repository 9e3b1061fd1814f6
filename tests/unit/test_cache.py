"""The cache gives what was made, makes it once, forgets the least recently used, and never holds more than it may."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_gateway.cache import ENTRY_BYTES, Cache, size_bytes
from edge_gateway.prediction import Prediction

PATIENCE_S = 30
MODEL = "m" * 64
SIZES = st.integers(0, 600)
NAMES = st.integers(0, 7).map(str)
MAX_BYTES = 4000


class Against(RuleBasedStateMachine):
    """The cache beside a plain list of keys in the order of their use."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: Cache[bytes] = Cache(MAX_BYTES)
        self.model: list[tuple[str, bytes]] = []
        self.hits = self.misses = 0

    @staticmethod
    def taken(name: str, value: bytes) -> int:
        return ENTRY_BYTES + size_bytes((name, MODEL)) + size_bytes(value)

    @precondition(lambda self: len(self.model) < 100)
    @rule(name=NAMES, size=SIZES, fails=st.booleans())
    def ask(self, name: str, size: int, fails: bool) -> None:
        known = dict(self.model)

        def make() -> bytes:
            assert name not in known
            if fails:
                raise LookupError(name)
            return b"x" * size

        if name not in known and fails:
            self.misses += 1
            with pytest.raises(LookupError, match=name):
                self.cache.get_or_make((name, MODEL), make)
            return
        value, was_there = self.cache.get_or_make((name, MODEL), make)
        assert (value, was_there) == (known.get(name, b"x" * size), name in known)
        self.hits, self.misses = self.hits + was_there, self.misses + (not was_there)
        self.model = [(other, held) for other, held in self.model if other != name]
        if was_there or self.taken(name, value) <= MAX_BYTES:
            self.model.append((name, value))
        while sum(self.taken(*entry) for entry in self.model) > MAX_BYTES:
            self.model.pop(0)

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        assert self.cache.held_bytes == sum(self.taken(*entry) for entry in self.model) <= MAX_BYTES
        assert (self.cache.hits, self.cache.misses) == (self.hits, self.misses)


TestAgainstAModel = Against.TestCase


def test_what_it_says_it_holds_is_what_it_takes_in_memory() -> None:
    cache: Cache[Prediction] = Cache(1 << 20)

    def made(number: int) -> Callable[[], Prediction]:
        return lambda: Prediction("parts@1", "scratch", number / 7, defect=True)

    tracemalloc.start()
    before_bytes, _ = tracemalloc.get_traced_memory()
    for number in range(5000):
        cache.get_or_make((f"{number:064}", MODEL), made(number))
    after_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 1 << 19 < cache.held_bytes <= 1 << 20
    assert after_bytes - before_bytes <= cache.max_bytes


def test_equal_questions_at_once_are_answered_by_one() -> None:
    cache: Cache[str] = Cache(MAX_BYTES)
    begun, may_end = threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        assert may_end.wait(PATIENCE_S)
        return "made once"

    def never() -> str:
        raise AssertionError("another makes it")

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(cache.get_or_make, ("a", MODEL), slow)
        assert begun.wait(PATIENCE_S)
        others = [pool.submit(cache.get_or_make, ("a", MODEL), never) for _ in range(2)]
        assert cache.get_or_make(("b", MODEL), lambda: "not held up") == ("not held up", False)
        may_end.set()
        assert first.result(PATIENCE_S) == ("made once", False)
        assert [other.result(PATIENCE_S) for other in others] == [("made once", True)] * 2


def test_who_waited_for_one_that_failed_makes_it_himself() -> None:
    cache: Cache[str] = Cache(MAX_BYTES)
    begun, may_end = threading.Event(), threading.Event()

    def fails() -> str:
        begun.set()
        assert may_end.wait(PATIENCE_S)
        raise LookupError("not this time")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get_or_make, ("a", MODEL), fails)
        assert begun.wait(PATIENCE_S)
        other = pool.submit(cache.get_or_make, ("a", MODEL), lambda: "made by the other")
        may_end.set()
        with pytest.raises(LookupError):
            first.result(PATIENCE_S)
        assert other.result(PATIENCE_S) == ("made by the other", False)


def test_with_no_bytes_nothing_is_held() -> None:
    cache: Cache[str] = Cache(0)
    assert [cache.get_or_make(("a", MODEL), lambda: "made") for _ in range(2)] == [("made", False)] * 2
    assert cache.held_bytes == 0
