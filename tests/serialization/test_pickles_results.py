"""Results and errors on their way back to the client."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
import traceback
from multiprocessing import resource_sharer
from multiprocessing.pool import MaybeEncodingError, RemoteTraceback  # type: ignore[attr-defined]
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.errors import ItemError, NearfarError, RemoteError, WorkerLost
from nearfar.serialization.pickles.results import (
    dump_error,
    dump_result,
    dump_unsendable,
    load_error,
    load_result,
)
from tests.support.pickling import garbage

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
)


@given(plain)
def test_a_result_arrives_unchanged(value: Any) -> None:
    blob, buffers = dump_result(value)
    back = load_result(memoryview(blob), buffers)
    assert back == value
    assert type(back) is type(value)


def test_large_buffers_are_sent_beside_the_result() -> None:
    large = bytearray(40_000)
    blob, buffers = dump_result([pickle.PickleBuffer(large), 1])
    assert len(blob) < 100
    assert [buffer.raw().nbytes for buffer in buffers] == [40_000]
    large[0] = 7  # not a copy
    assert bytes(load_result(blob, buffers)[0])[0] == 7


def test_results_that_only_cloudpickle_can_send_arrive() -> None:
    class Local:
        value = 5

    back = load_result(*dump_result([Local(), lambda: 6]))
    assert type(back[0]) is Local
    assert back[1]() == 6


def test_a_text_that_mentions_main_arrives() -> None:
    value = [range(3), "__main__"]
    assert load_result(*dump_result(value)) == value


@pytest.mark.parametrize("value", [threading.Lock(), (x for x in ()), memoryview(b"")])
def test_a_result_that_cannot_be_pickled_raises_pickles_error(value: Any) -> None:
    with pytest.raises(TypeError) as expected:
        pickle.dumps([value], 5)
    with pytest.raises(TypeError) as caught:
        dump_result([value])
    assert str(caught.value) == str(expected.value)


def test_a_connection_is_sent_back_from_a_child_only() -> None:
    here, there = multiprocessing.Pipe()
    with here, there:
        for companion in (1, lambda: 1):
            try:
                (arrived, _) = load_result(*dump_result([there, companion], family=True))
                with arrived:
                    arrived.send("there")
                    assert here.recv() == "there"
            finally:
                resource_sharer.stop(timeout=5)
            with pytest.raises(TypeError, match="for another machine"):
                dump_result([there])


def test_an_exception_may_contain_a_connection() -> None:
    class Leaving:
        def __reduce__(self) -> Any:
            raise SystemExit

    assert type(home(ValueError(Leaving()))) is ValueError


def test_the_error_names_the_result_that_could_not_be_pickled() -> None:
    error = load_error(dump_unsendable(TypeError("no"), [1, "x"]))
    assert type(error) is MaybeEncodingError
    expected = MaybeEncodingError(TypeError("no"), [1, "x"])
    assert (str(error), error.exc, error.value) == (str(expected), expected.exc, expected.value)
    assert error.__cause__ is None


def test_a_result_without_a_repr_is_named_by_its_type() -> None:
    class Shy:
        def __repr__(self) -> str:
            raise ValueError

    assert "<a Shy whose repr() raises>" in str(load_error(dump_unsendable(TypeError("no"), Shy())))


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def home(error: BaseException) -> BaseException:
    back = load_error(dump_error(raised(error)))
    assert isinstance(back.__cause__, RemoteTraceback)
    assert "raise error" in str(back.__cause__)
    return back


class Coded(Exception):
    """Its constructor takes other arguments than it passes on, as in many exceptions."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"code {code}: {detail}")
        self.code = code


class Doubling(Exception):
    """Pickle reads it without an error, but as a different exception."""

    def __init__(self, code: Any) -> None:
        super().__init__(f"code {code}")


class Refusing(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("not me")


class Unreadable(Exception):
    def __reduce__(self) -> Any:
        return _fail, ()

    def __new__(cls, *args: Any) -> Any:
        if args == ("no more",):
            raise RuntimeError
        return super().__new__(cls, *args)


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("mute")


def _fail() -> None:
    raise OSError("never")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x", 1),
        KeyError("missing"),
        OSError(2, "No such file", "name"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
        Coded(5, "broken"),
        Doubling(6),
        Refusing("a", 2),
        Unreadable("once"),
        WorkerLost("w", "host", 5, "killed by SIGKILL", "m:f"),
        ItemError("x"),
    ],
)
def test_an_exception_keeps_its_type_and_content(error: BaseException) -> None:
    back = home(error)
    assert type(back) is type(error)
    assert (back.args, str(back)) == (error.args, str(error))
    state = dict(vars(error))
    assert vars(back) == state


def test_the_traceback_reads_as_the_standards() -> None:
    error = raised(ValueError("x"))
    text = "".join(traceback.format_exception(error))
    assert str(load_error(dump_error(error)).__cause__) == f'\n"""\n{text}"""'
    assert str(load_error(dump_error(error, "given")).__cause__) == '\n"""\ngiven"""'
    assert load_error(dump_error(error, "")).__cause__ is None


def test_notes_are_sent_back_and_causes_are_in_the_text() -> None:
    error = ValueError("x")
    error.add_note("a note")
    error.__cause__ = KeyError("the cause")
    back = home(error)
    assert back.__notes__ == ["a note"]
    assert "KeyError: 'the cause'" in str(back.__cause__)


def test_parts_of_an_exception_that_cannot_be_pickled_are_left_out() -> None:
    error = ValueError("x", threading.Lock())
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    error.code = 5  # type: ignore[attr-defined]
    back = home(error)
    assert type(back) is ValueError
    assert back.args[0] == "x"
    assert back.args[1].startswith("<unlocked _thread.lock")
    assert vars(back) == {"code": 5}


def test_a_group_is_sent_back_with_its_members() -> None:
    error = ExceptionGroup("g", [ValueError("a"), ExceptionGroup("h", [Coded(1, "b"), Refusing("c")])])
    error.add_note("noted")
    back = home(error)
    assert isinstance(back, ExceptionGroup)
    assert back.message == "g"
    assert back.__notes__ == ["noted"]
    first, second = back.exceptions
    assert (type(first), str(first)) == (ValueError, "a")
    assert isinstance(second, ExceptionGroup)
    assert [type(each) for each in second.exceptions] == [Coded, Refusing]


def test_a_group_has_a_substitute_for_a_member_that_cannot_be_pickled() -> None:
    back = home(ExceptionGroup("g", [KeyError("a"), local_stubborn()]))
    assert isinstance(back, ExceptionGroup)
    assert [type(each) for each in back.exceptions] == [KeyError, RemoteError]


def local_stubborn() -> Exception:
    """Its class cannot be pickled."""

    class Stubborn(Exception):
        lock = threading.Lock()

        def __str__(self) -> str:
            return "stubborn"

    Stubborn.__qualname__ = "Stubborn"
    return Stubborn()


class Particular(Exception):
    """It contains objects that exist only in its own module."""

    def __new__(cls, *args: Any) -> Any:
        if not args or args[0] is not _KEY:
            raise RuntimeError
        return super().__new__(cls, *args)


_KEY = object()


def test_an_exception_with_an_unusual_constructor_is_sent_back() -> None:
    assert type(home(Particular(_KEY))) is Particular


def test_an_exception_that_cannot_be_recreated_has_a_substitute() -> None:
    back = home(local_stubborn())
    assert isinstance(back, RemoteError)
    assert isinstance(back, NearfarError)
    assert (back.kind, back.message) == (f"{__name__}.Stubborn", "stubborn")
    assert str(back) == f"{__name__}.Stubborn: stubborn"
    assert str(home(raised(back))) == str(back)


def test_an_exception_whose_class_is_missing_has_a_substitute() -> None:
    global Passing

    class Passing(Exception):
        pass

    Passing.__qualname__ = "Passing"
    blob = dump_error(raised(Passing("x")))
    del Passing
    back = load_error(blob)
    assert isinstance(back, RemoteError)
    assert str(back) == f"{__name__}.Passing: x"
    assert "raise error" in str(back.__cause__)


def test_an_exception_without_a_message_is_sent_back() -> None:
    assert type(home(Mute())) is Mute


def test_a_deep_chain_of_exceptions_is_sent_back() -> None:
    error: BaseException = ValueError("first")
    for _ in range(3000):
        following = ValueError("next")
        following.__cause__ = error
        error = following
    assert type(load_error(dump_error(error))) is ValueError


@given(garbage(80))
def test_garbage_is_an_error(blob: bytes) -> None:
    for start in (b"", b"\x80\x05", b"C\x80\x05"):
        assert isinstance(load_error(start + blob), BaseException)
        with pytest.raises(Exception):  # noqa: B017
            load_result(start + blob + b"\xff")
            raise ValueError("chance made it a pickle")


def test_a_truncated_or_foreign_error_is_an_item_error() -> None:
    blob = dump_error(ValueError("x"))
    for end in range(len(blob)):
        assert type(load_error(blob[:end])) is ItemError
    for value in (None, 5, (1, 2, 3, 4), ("kind", "message", [b"x"], 5), ("k", "m", None, "t")):
        assert isinstance(load_error(pickle.dumps(value)), NearfarError)
