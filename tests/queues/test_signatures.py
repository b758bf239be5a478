"""A queue is called like the standard library's: parameters have the same names, places and defaults."""

from __future__ import annotations

import inspect
import multiprocessing.queues
import queue as of_threads
from typing import Any

import pytest

from nearfar import JoinableQueue, Queue
from nearfar.queues.base import BaseJoinableQueue, BaseQueue
from nearfar.queues.far import FarJoinableQueue, FarQueue
from nearfar.queues.near import NearJoinableQueue, NearQueue
from tests.queues.contract import LIMIT
from tests.support import redis_server

IN_REDIS: list[type] = []
if not redis_server.MISSING:
    from nearfar.queues.redis.queue import RedisJoinableQueue, RedisQueue

    IN_REDIS += [RedisQueue, RedisJoinableQueue]
PAIRS = [
    (ours, standard)
    for kinds, standard in (
        ((BaseQueue, NearQueue, FarQueue, *IN_REDIS[:1]), multiprocessing.queues.Queue),
        (
            (BaseJoinableQueue, NearJoinableQueue, FarJoinableQueue, *IN_REDIS[1:]),
            multiprocessing.queues.JoinableQueue,
        ),
    )
    for ours in kinds
]
Parameter = tuple[str, Any, Any]


def methods(kind: type) -> list[str]:
    return [name for name, value in vars(kind).items() if callable(value) and not name.startswith("_")]


def parameters(function: Any) -> list[Parameter]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize(("ours", "standard"), PAIRS, ids=lambda kind: kind.__name__)
def test_every_method_of_multiprocessings_takes_the_same(ours: type, standard: type) -> None:
    names = {name for kind in standard.__mro__[:-1] for name in methods(kind)}
    assert {"put", "get", "put_nowait", "get_nowait", "close"} <= names
    for name in names:
        assert parameters(getattr(ours, name)) == parameters(getattr(standard, name)), name


@pytest.mark.parametrize(
    "ours", [NearJoinableQueue, FarJoinableQueue, *IN_REDIS[1:]], ids=lambda kind: kind.__name__
)
def test_every_method_of_queue_queue_takes_as_much_in_the_same_places(ours: type) -> None:
    """`queue.Queue` calls the parameter `item`, multiprocessing `obj`: so only the others are compared."""
    for name in methods(of_threads.Queue):
        theirs, mine = parameters(getattr(of_threads.Queue, name)), parameters(getattr(ours, name))
        assert [("obj" if n == "item" else n, *rest) for n, *rest in theirs] == [(n, *r) for n, *r in mine], (
            name
        )


@pytest.mark.parametrize("front", [Queue, JoinableQueue], ids=["Queue", "JoinableQueue"])
def test_a_queue_is_made_as_the_standards(front: Any) -> None:
    (first, *_) = parameters(front)
    assert first == parameters(multiprocessing.get_context().Queue)[0]
    queue = front(maxsize=2)
    queue.put(obj="named", block=True, timeout=LIMIT)
    queue.put_nowait(obj="named")
    assert queue.full()
    assert queue.get(block=True, timeout=LIMIT) == "named"
    assert queue.get(True, LIMIT) == "named"
    queue.close()
    queue.join_thread()
