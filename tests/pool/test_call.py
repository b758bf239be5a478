"""A call: its contents, and when it unpickles its answer."""

from __future__ import annotations

import gc
import sys
import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest

from nearfar.coordinator.task import Mode, TaskStatus
from nearfar.pool import call as calls
from nearfar.pool.call import Call, Chunk
from nearfar.pool.engine import Engine
from nearfar.pool.executor import Future
from nearfar.pool.results import AsyncResult, MapResult
from tests.pool.engines import ManualEngine


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The answers that were unpickled, in order, by fake readers."""
    read: list[Any] = []

    def value(blob: bytes, buffers: Any) -> str:
        read.append(blob)
        return blob.decode() + "".join(map(bytes.decode, buffers))

    def error(blob: bytes) -> Exception:
        read.append(blob)
        return KeyError(blob.decode())

    monkeypatch.setattr(calls, "load_result", value)
    monkeypatch.setattr(calls, "load_error", error)
    return read


@pytest.mark.parametrize(
    "make",
    [
        lambda: Call(print, ()),
        lambda: Chunk(print, (), Mode.MAP, print),
        lambda: AsyncResult(None, None, print, ()),  # type: ignore[arg-type]
        lambda: Future(None, print, ()),  # type: ignore[arg-type]
    ],
)
def test_a_pending_call_is_small(make: Callable[[], Call]) -> None:
    make()
    kept: list[Any] = [None] * 1000
    gc.collect()
    tracemalloc.start()
    for number in range(1000):
        kept[number] = make()
    size = tracemalloc.get_traced_memory()[0] / 1000
    tracemalloc.stop()
    # From 3.14 on, an object whose class has a dictionary (the standard's Future) keeps room for it inside.
    assert size < (250 if sys.version_info >= (3, 14) and type(kept[0]) is Future else 216)


def test_the_manual_engine_is_an_engine() -> None:
    assert isinstance(ManualEngine(), Engine)


def test_a_call_drops_its_arguments_when_they_are_taken_and_when_it_is_settled() -> None:
    taken, settled = Call(print, (1,), {"sep": ""}), Call(print, (1,))
    assert taken.take() == (print, (1,), {"sep": ""})
    settled.settle(5, None)
    assert (taken.function, taken.blob, taken.buffers) == (None, None, None)
    assert (settled.function, settled.blob, settled.buffers) == (b"", b"", ())
    assert settled.result() == 5


def test_an_answer_is_unpickled_once_on_request(readings: list[Any]) -> None:
    call = Call(print, ())
    call.answered(TaskStatus.VALUE, b"a", [b"b"])
    assert call.settled
    assert not call.raised
    assert readings == []
    assert call.result() == call.result() == "ab"
    assert call.error() is None
    assert readings == [b"a"]
    assert (call.blob, call.buffers) == (b"", ())


def test_an_error_is_unpickled_once_on_request(readings: list[Any]) -> None:
    call = Call(print, ())
    call.answered(TaskStatus.ERROR, b"a", [])
    assert call.raised
    assert readings == []
    for _ in range(2):
        with pytest.raises(KeyError, match="a"):
            call.result()
    assert isinstance(call.error(), KeyError)
    assert readings == [b"a"]


def test_an_answer_that_cannot_be_read_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    call = Call(print, ())
    call.answered(TaskStatus.VALUE, b"", [])
    monkeypatch.setattr(calls, "load_result", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call.result()
    assert isinstance(call.error(), ZeroDivisionError)


def test_a_call_without_an_answer_is_not_cancelled_unless_it_was() -> None:
    failed, cancelled = Call(print, ()), Call(print, ())
    failed.failed(ValueError("x"))
    cancelled.failed(CancelledError())
    assert not failed.cancelled()
    assert cancelled.cancelled()
    with pytest.raises(CancelledError):
        cancelled.result()


def test_threads_may_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    barrier = threading.Barrier(4)

    def slow(blob: bytes, _buffers: Any) -> str:
        barrier.wait(10)
        return blob.decode()

    monkeypatch.setattr(calls, "load_result", slow)
    call = Call(print, ())
    call.answered(TaskStatus.VALUE, b"a", [])
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(call.result())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["a"] * 4


def test_a_callback_gets_the_answer_read_and_a_plain_result_is_left_unread(readings: list[Any]) -> None:
    seen: list[Any] = []
    engine = ManualEngine()
    plain = AsyncResult(engine, None, print, ())
    called = AsyncResult(engine, None, print, (), None, (seen.append, None))
    failed = AsyncResult(engine, None, print, (), None, (None, seen.append))
    plain.answered(TaskStatus.VALUE, b"plain", [])
    called.answered(TaskStatus.VALUE, b"called", [])
    failed.answered(TaskStatus.ERROR, b"failed", [])
    assert readings == [b"called", b"failed"]
    assert seen[0] == "called"
    assert isinstance(seen[1], KeyError)


def test_a_callback_that_is_interrupted_leaves_the_call_settled() -> None:
    def interrupt(_value: Any) -> None:
        raise KeyboardInterrupt

    result = AsyncResult(ManualEngine(), None, print, (), None, (interrupt, None))
    with pytest.raises(KeyboardInterrupt):
        result.settle(1, None)
    assert result.ready()


def test_a_map_unpickles_its_answers_on_request(readings: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "load_result", lambda blob, _buffers: (readings.append(blob), list(blob))[1])
    engine = ManualEngine()
    result = MapResult(engine, None)
    result.send(print, [[1, 2], [3, 4]], Mode.MAP, (None, 0))
    for chunk, blob in zip(reversed(engine.calls), (b"cd", b"ab"), strict=True):
        assert not result.ready()
        chunk.answered(TaskStatus.VALUE, blob, [])
    assert result.ready()
    assert readings == []
    assert result.get() == result.get() == list(b"abcd")
    assert readings == [b"ab", b"cd"]


def test_a_map_unpickles_only_the_first_error(readings: list[Any]) -> None:
    engine = ManualEngine()
    seen: list[Any] = []
    result = MapResult(engine, None, (None, seen.append))
    result.send(print, [[1], [2], [3]], Mode.MAP, (None, 0))
    for chunk, status, blob in zip(engine.calls, (0, 1, 1), (b"a", b"b", b"c"), strict=True):
        chunk.answered(status, blob, [])
    assert readings == [b"b"]
    with pytest.raises(KeyError, match="b"):
        result.get()
    assert [type(error) for error in seen] == [KeyError]
