"""Calls and results without pickle, written and read within one process."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.errors import ItemError, NearfarError, RemoteError, Untrusted
from nearfar.serialization import plain
from nearfar.serialization.names import find
from nearfar.serialization.pickles.pickler import loads
from nearfar.serialization.plain import BESIDE, PLAIN, Allowed, PlainCalls, PlainLoader, name_of
from tests.pool import offered
from tests.pool.offered import _private
from tests.support.bombs import bomb, wrapped

pytestmark = pytest.mark.pure

CALL, MAP, PREPARE = 0, 1, 3
ALLOWED = ("tests.pool.offered",)
DOUBLE = b"tests.pool.offered:double"

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def travel(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A call as a plain worker receives it."""
    name, blob, buffers = PlainCalls().dump_call(func, args, kwargs)
    return PlainLoader(Allowed(ALLOWED).find).load(
        bytes(name), CALL, blob, list(map(memoryview, buffers)), "me"
    )


@given(st.lists(values, max_size=4), st.dictionaries(st.text(max_size=5), values, max_size=2))
def test_arguments_arrive_as_they_were(args: list[Any], kwargs: dict[str, Any]) -> None:
    func, got, keywords = travel(offered.double, *args, **kwargs)
    assert func is offered.double
    assert repr((got, keywords)) == repr((tuple(args), kwargs))


@given(st.lists(values, max_size=4))
def test_the_items_of_a_chunk_arrive_as_they_were(items: list[Any]) -> None:
    name, blob, buffers = PlainCalls().dump_chunk(offered.double, items)
    assert repr(PlainLoader(find).load(name, MAP, blob, buffers, "me")[1]) == repr(items)


def test_a_range_is_sent_as_its_numbers() -> None:
    name, blob, buffers = PlainCalls().dump_chunk(offered.double, range(3))
    assert PlainLoader(find).load(name, MAP, blob, buffers, "me")[1] == [0, 1, 2]


@given(values)
def test_a_plain_result_arrives_unchanged(value: Any) -> None:
    assert repr(plain.load_result(*plain.dump_result(value))) == repr(value)


def test_large_bytes_are_sent_beside_the_blob_uncopied() -> None:
    large, small = bytes(BESIDE), bytes(BESIDE - 1)
    _, blob, buffers = PlainCalls().dump_call(offered.double, (large, small, large))
    assert [each is large for each in buffers] == [True, True]
    assert len(blob) < BESIDE + 100
    assert travel(offered.double, large, small, large)[1] == (large, small, large)
    for result in (large, [small, large], (large,)):
        blob, buffers = plain.dump_result(result)
        assert len(buffers) == 1
        assert buffers[0] is large
        assert plain.load_result(blob, [memoryview(buffers[0])]) == result


@pytest.mark.parametrize("func", [offered.double, offered.cached, offered.exported, abs])
def test_functions_have_names(func: Callable[..., Any]) -> None:
    name = f"{func.__module__}:{func.__qualname__}"
    assert name_of(func) == name.encode()
    assert Allowed([name]).find(name.encode()) is func


def test_a_function_of_a_private_module_has_the_name_of_the_exporting_package() -> None:
    assert name_of(offered.published) == b"tests.pool.offered:published"
    assert travel(offered.published, 1)[0] is offered.published
    assert name_of(_private.kept) == b"tests.pool.offered._private:kept"
    with pytest.raises(Untrusted):
        travel(_private.kept, 1)


def of_main() -> None:
    """Moved to `__main__` by the test."""


@pytest.mark.parametrize(
    ("func", "said"),
    [
        (lambda x: x, "stands inside something else"),
        (offered.Door.knock, "stands inside something else"),
        (offered.Door, "a class is none"),
        (offered.enter, "an object of type method is none"),
        (functools.partial(offered.double, 1), "an object of type partial is none"),
        (3, "an object of type int is none"),
        ([].append, "stands inside something else"),
    ],
)
def test_a_function_without_a_name_is_refused_with_the_reason(func: Any, said: str) -> None:
    with pytest.raises(ItemError, match=f"a plain pool calls functions by their names; .*{said}"):
        PlainCalls().dump_call(func, ())


def test_a_function_of_main_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_main, "__module__", "__main__")
    with pytest.raises(ItemError, match="put it into a module of its own"):
        name_of(of_main)


def test_a_function_that_its_module_lost_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "of_main", None)
    with pytest.raises(ItemError, match="is not this function now"):
        name_of(of_main_kept)


of_main_kept = of_main


def test_an_argument_that_is_not_plain_data_is_named() -> None:
    calls = PlainCalls()
    with pytest.raises(
        ItemError, match=r"argument 2 of tests\.pool\.offered:double, of type Door, is or holds"
    ):
        calls.dump_call(offered.double, (1, offered.Door()))
    with pytest.raises(ItemError, match=r"argument plus of .*, of type list, is or holds"):
        calls.dump_call(offered.double, (1,), {"plus": [offered.Door()]})
    with pytest.raises(ItemError, match="argument 3 of"):
        calls.dump_chunk(offered.double, [1, 2, {3: offered.Door()}])


def test_the_bombs_work_where_pickle_is_read(tmp_path: Path) -> None:
    loads(bomb(tmp_path / "crater"))
    assert (tmp_path / "crater").exists()


@pytest.mark.parametrize("mode", [CALL, MAP, PREPARE])
@pytest.mark.parametrize("function", [b"", DOUBLE])
def test_the_worker_reads_no_pickle(tmp_path: Path, function: bytes, mode: int) -> None:
    crater = tmp_path / "crater"
    loader = PlainLoader(Allowed(ALLOWED).find)
    for blob in wrapped(crater):
        for buffers in ([], [bomb(crater)]):
            with pytest.raises((Untrusted, ItemError)):
                loader.load(function, mode, blob, buffers, "me")
    with pytest.raises(Untrusted):
        loader.load(bomb(crater), mode, PLAIN + msgpack.packb([[], [], None]), [], "me")
    assert not crater.exists()


def test_the_client_reads_no_pickle(tmp_path: Path) -> None:
    crater = tmp_path / "crater"
    for blob in wrapped(crater):
        assert isinstance(plain.load_error(blob), NearfarError)
        with pytest.raises((Untrusted, ItemError)):
            plain.load_result(blob, [bomb(crater)])
    assert not crater.exists()


@given(st.binary(max_size=60), st.lists(st.binary(max_size=5), max_size=2))
def test_any_bytes_are_an_error_or_plain_data(data: bytes, buffers: list[bytes]) -> None:
    for blob in (data, PLAIN + data):
        with contextlib.suppress(ItemError, Untrusted):
            PlainLoader(Allowed(ALLOWED).find).load(DOUBLE, CALL, blob, buffers, "me")
        with contextlib.suppress(ItemError, Untrusted):
            plain.load_result(blob, buffers)
        assert isinstance(plain.load_error(blob), NearfarError)


@pytest.mark.parametrize(
    "words", [[[1], [5], None], [[1], [-1], None], [[1], ["0"], None], [[1], [True], None]]
)
def test_references_to_large_bytes_must_be_valid(words: list[Any]) -> None:
    with pytest.raises(ItemError, match="wrong shape"):
        plain.load_result(PLAIN + msgpack.packb(words), [b"x"])


@pytest.mark.parametrize("keywords", [[], {1: 2}, "x", 0])
def test_keywords_must_be_strings(keywords: Any) -> None:
    with pytest.raises(ItemError, match="in the place of keyword arguments"):
        PlainLoader(find).load(DOUBLE, CALL, PLAIN + msgpack.packb([[], [], keywords]), [], "me")


def test_an_error_arrives_as_text() -> None:
    try:
        offered.complain("over here")
    except KeyError as error:
        blob = plain.dump_error(error)
    read = plain.load_error(blob)
    assert isinstance(read, RemoteError)
    assert (read.kind, read.message) == ("KeyError", "'over here'")
    assert "in complain" in str(read.__cause__)


def test_a_refusal_keeps_its_type() -> None:
    read = plain.load_error(plain.dump_error(Untrusted("not so")))
    assert type(read) is Untrusted
    assert str(read) == "not so"


class Awkward(Exception):
    def __init__(self, says: str | None) -> None:
        self.says = says

    def __str__(self) -> str:
        return self.says  # type: ignore[return-value]


@pytest.mark.parametrize("says", [None, "\udc80", "x" * 1_000_000])
def test_any_text_of_an_error_arrives(says: str | None) -> None:
    read = plain.load_error(plain.dump_error(Awkward(says)))
    assert isinstance(read, RemoteError)
    assert len(read.message) <= plain.LONGEST_TEXT + 7
