"""Bare arguments and values arrive unchanged."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from nearfar import Pool
from nearfar.coordinator.task import Mode, TaskStatus
from nearfar.net import interrupts
from nearfar.pool.call import Call, Chunk
from nearfar.serialization.bare import LONGEST_BARE, MOST_BARE, SHORT, are_bare
from nearfar.worker.channel import packer
from tests.pool.pools import both, far, near
from tests.support.injector import SOURCE

VALUES = [
    None,
    True,
    0,
    -1,
    2**63 - 1,
    2**63,
    2**64 - 1,
    2**64,
    -(2**63),
    -(2**63) - 1,
    10**300,
    -0.0,
    1.5,
    math.inf,
    math.nan,
    "",
    "plain",
    "\0é€😀",
    "\ud800",
    "x" * SHORT,
    "x" * (SHORT + 1),
    b"",
    b"\0\xff",
    b"y" * 100_000,
    (),
    (1, "two", b"three", None),
    ((1,),),
    tuple(range(MOST_BARE)),
    tuple(range(MOST_BARE + 1)),
    (2**64, "\ud800"),
    [1],
    {"a": (1,)},
]


MAKERS = {"near": near, "both": both, "far": far}


@pytest.fixture(scope="module", params=MAKERS)
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    with MAKERS[request.param](2) as made:
        made.map(abs, range(20), 1)
        yield made


def same(value: Any) -> Any:
    return value


def several(*values: Any) -> Any:
    return values


def die_once(mark: str, value: int) -> int:
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def told(value: Any) -> tuple[type, str]:
    return type(value), repr(value)


def test_which_values_are_bare() -> None:
    assert are_bare((1, 2.0, True, None, "short", b"short"))
    assert not are_bare(([],))
    assert not are_bare((1j,))
    assert not are_bare((signal.SIGINT,))
    assert not are_bare(("x" * (SHORT + 1),))
    assert not are_bare((0,) * (MOST_BARE + 1))


def test_each_value_arrives_unchanged(pool: Pool) -> None:
    for value in VALUES:
        assert told(pool.apply(same, (value,))) == told(value)
        assert told(pool.apply(several, (value, 1))) == told((value, 1))
        assert [told(each) for each in pool.imap(same, [value, 1])] == [told(value), told(1)]
        assert [told(each) for each in pool.map(same, [value] * 3, 2)] == [told(value)] * 3


def test_many_values_of_all_kinds_arrive_unchanged(pool: Pool) -> None:
    sent = VALUES * 20
    results = [pool.apply_async(same, (value,)) for value in sent]
    assert [told(result.get(20)) for result in results] == [told(value) for value in sent]
    assert [told(each) for each in pool.imap(same, sent)] == [told(value) for value in sent]


def test_a_blob_in_the_place_of_a_bare_value_is_an_error_when_it_is_asked_for() -> None:
    for blob in (b"\x91", b"\x91\xc1", packer()([b"x" * LONGEST_BARE]), b"\x91\x01\x02"):
        call = Call(same, (1,))
        call.answered(TaskStatus.VALUE, blob, ())
        assert call.settled
        assert call.error() is not None
    chunk = Chunk(same, (1, 2), Mode.MAP, None)
    chunk.answered(TaskStatus.VALUE, b"\x91\x01", ())
    assert chunk.error() is not None


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_task_that_runs_again_has_the_same_arguments(
    tmp_path: Path, make: Callable[[int], AbstractContextManager[Pool]]
) -> None:
    with make(1) as pool:
        pool.map(abs, range(3), 1)
        assert pool.apply(die_once, (str(tmp_path / "m"), 7), retries=1) == 7


@pytest.mark.parametrize(
    ("pool", "most_calls", "most_functions"), [("near", 88, 73), ("far", 100, 80)], indirect=["pool"]
)
def test_a_call_enters_few_functions(
    pool: Pool, most_calls: int, most_functions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the caller's thread, which leads: what is looked at in vain counts as well."""
    monkeypatch.setattr(interrupts, "struck_anywhere", lambda: False)  # or a deputy would make the call
    entered: list[Any] = []

    def note(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(SOURCE):
            entered.append(frame.f_code)

    runs = []
    for each in range(20):
        entered.clear()
        sys.setprofile(note)
        try:
            pool.apply(same, (each,))
        finally:
            sys.setprofile(None)
        runs.append((len(entered), len(set(entered))))
    calls, functions = min(runs)
    assert calls <= most_calls
    assert functions <= most_functions
