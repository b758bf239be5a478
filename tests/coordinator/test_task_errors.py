"""Errors of a coordinator keep their type over the network."""

from __future__ import annotations

import contextlib
from concurrent.futures import CancelledError

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.coordinator import task
from nearfar.errors import InitializerFailed, NearfarError, ProtocolError, TaskTimeout, WorkerLost

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    "error",
    [
        WorkerLost("a/0.1", "host", 7, "killed by SIGKILL", "m:f"),
        TaskTimeout("ran longer than 3 s"),
        InitializerFailed("3 workers died in it"),
        CancelledError(),
    ],
)
def test_an_error_keeps_its_type_and_text(error: BaseException) -> None:
    read = task.read(task.describe(error), ValueError)
    assert type(read) is type(error) and str(read) == str(error)


def test_an_initializers_error_stays_pickled() -> None:
    read = task.read(task.describe(task.Unread(memoryview(b"pickle"))), ValueError)
    assert type(read) is ValueError and read.args == (b"pickle",)


def test_an_error_of_another_kind_keeps_its_text() -> None:
    read = task.read(task.describe(KeyError("x")), ValueError)
    assert type(read) is NearfarError and str(read) == "'x'"


@given(
    st.binary(max_size=30) | st.lists(st.text(max_size=5) | st.integers(0, 9), max_size=5).map(msgpack.packb)
)
def test_anything_else_is_a_protocol_error(description: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        assert isinstance(task.read(description, ValueError), BaseException)


@pytest.mark.parametrize(
    "words", [[], ["Oops", "x"], ["TaskTimeout"], ["WorkerLost", "a"], ["NearfarError", 1]]
)
def test_a_wrong_description_is_a_protocol_error(words: list[object]) -> None:
    with pytest.raises(ProtocolError):
        task.read(msgpack.packb(words), ValueError)
