"""Memory that a producer shares with consumers: no two messages in one place, and all of it comes back."""

from __future__ import annotations

import multiprocessing
import resource
from multiprocessing.connection import Connection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.download.messages import LONG
from nearfar.download.near_transport import Arena
from nearfar.serialization.shared_memory import Ring

SIZE = 100


@given(st.lists(st.tuples(st.integers(1, SIZE + 1), st.integers(0, 3)), max_size=60), st.randoms())
def test_places_never_overlap_and_all_of_it_comes_back(steps: list[tuple[int, int]], dice: Any) -> None:
    ring, held = Ring(SIZE), list[tuple[int, int]]()
    for size, returns in steps:
        start = ring.take(size)
        if start is not None:
            assert start >= 0 and start + size <= SIZE
            assert all(start + size <= other or end <= start for other, end in held)
            held.append((start, start + size))
        else:
            assert held or size > SIZE
        for _ in range(min(returns, len(held))):
            ring.give_back(held.pop(dice.randrange(len(held)))[0])
    while held:
        ring.give_back(held.pop()[0])
    assert ring.take(SIZE) == 0


def message() -> list[Any]:
    return [b"fields", b"few", *(bytes([number]) * (LONG + number) for number in range(3))]


def test_bytes_are_laid_out_and_filled_in_again() -> None:
    arena, sent = Arena(), message()
    places, start = arena.lay_out(sent)
    assert start == 0
    assert sent == [b"fields", b"few", None, None, None], "little ones stay"
    arena.fill_in(sent, places)
    assert sent == message()
    arena.close()
    assert sent == message(), "views outlive the arena"


def test_where_there_is_no_room_bytes_travel_in_the_message() -> None:
    arena, sent = Arena(LONG), message()
    assert arena.lay_out(sent) == ([], None)
    arena.fill_in(sent, [])
    assert sent == message()
    arena.close()


def read(arena: Arena, pipe: Connection) -> None:
    sent, places = pipe.recv()
    arena.fill_in(sent, places)
    pipe.send([bytes(part) if isinstance(part, memoryview) else part for part in sent])
    arena.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_reads_them_in_place(method: str) -> None:
    context = multiprocessing.get_context(method)
    arena, (ours, theirs) = Arena(), context.Pipe()
    process = context.Process(target=read, args=(arena, theirs))  # type: ignore[attr-defined]
    process.start()
    sent: list[Any] = [b"fields", b"x" * LONG]
    places, _ = arena.lay_out(sent)
    ours.send((sent, places))
    assert ours.recv() == [b"fields", b"x" * LONG]
    process.join()
    process.close()
    for each in (arena, ours, theirs):
        each.close()


def test_where_files_may_not_be_long_it_is_small_and_the_rest_is_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (LONG, resource.RLIM_INFINITY))
    arena = Arena()
    try:
        small, large = [b"fields", bytes(LONG)], [b"fields", bytes(LONG + 1)]
        assert arena.lay_out(large) == ([], None)
        assert large == [b"fields", bytes(LONG + 1)]
        assert arena.lay_out(small) == ([(1, 0, LONG)], 0)
    finally:
        arena.close()
