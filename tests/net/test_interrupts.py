"""The deputies that run critical steps: each post box is served by one, however they start."""

from __future__ import annotations

import threading
from _thread import _count as count_threads
from collections.abc import Callable
from typing import Any

import pytest

from nearfar.net import interrupts
from tests.support.waiting import eventually


@pytest.mark.parametrize("fate", ["ended at its first step", "late"])
def test_a_post_box_is_served_even_if_its_first_deputy_does_not_begin(
    monkeypatch: pytest.MonkeyPatch, fate: str
) -> None:
    """Given a thread that ends, or is late, at its start, I expect another one to run the calls, in order."""
    start = interrupts.start_new_thread
    held: list[Callable[[], Any]] = []

    def spoil(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        if held:
            start(function, arguments)
        else:
            held.append(lambda: start(function, arguments))

    monkeypatch.setattr(interrupts, "RESTART", 0.01)
    monkeypatch.setattr(interrupts, "start_new_thread", spoil)
    post = interrupts._Post()
    if fate == "late":
        held[0]()
    done: list[int] = []
    over = threading.Event()
    for number in range(100):
        post.put(lambda number=number: done.append(number))  # type: ignore[misc]
    post.put(over.set)
    assert over.wait(10)
    assert done == list(range(100))
    before = count_threads()
    del post
    assert eventually(lambda: count_threads() < before)
