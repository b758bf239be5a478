"""Functions and arguments, pickled and read again within one process."""

from __future__ import annotations

import functools
import math
import multiprocessing
import operator
import pickle
import sys
import threading
import types
from array import array
from collections.abc import Callable, Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.errors import ItemError
from nearfar.serialization.pickles.calls import CallLoader, CallPickler
from nearfar.serialization.pickles.pickler import dumps_for_family, loads
from tests.support.pickling import garbage

CALL, MAP = 0, 1
BOTH = pytest.mark.parametrize("far", [False, True])


class Box:
    """Its method and inner class have dots in their names."""

    class Inner:
        def __init__(self, value: int = 0) -> None:
            self.value = value

    def __init__(self, value: int) -> None:
        self.value = value

    def plus(self, other: int) -> int:
        return self.value + other

    @staticmethod
    def doubled(value: int) -> int:
        return value * 2

    def __call__(self, value: int) -> int:
        return self.plus(value)


def add(a: int, b: int = 1) -> int:
    return a + b


@functools.lru_cache
def cached(value: int) -> int:
    return value + 1


def travel(func: Callable[..., Any], *args: Any, far: bool = True, **kwargs: Any) -> Any:
    function, blob, buffers = CallPickler(far=far, main=None).dump_call(func, args, kwargs)
    func, args, kwargs = CallLoader().load(function, CALL, blob, buffers, "me")
    return func(*args, **kwargs)


@BOTH
@pytest.mark.parametrize(
    ("func", "name"),
    [
        (add, b"tests.serialization.test_pickles_calls:add"),
        (cached, b"tests.serialization.test_pickles_calls:cached"),
        (Box.doubled, b"tests.serialization.test_pickles_calls:Box.doubled"),
        (Box.Inner, b"tests.serialization.test_pickles_calls:Box.Inner"),
        (abs, b"builtins:abs"),
        (int, b"builtins:int"),
        (math.sqrt, b"math:sqrt"),
        (str.upper, b"builtins:str.upper"),
        (operator.add, b"_operator:add"),
    ],
)
def test_a_function_that_can_be_imported_is_sent_by_name(func: Any, name: bytes, far: bool) -> None:
    function, blob, buffers = CallPickler(far=far, main=None).dump_call(func, (4,), {})
    assert (function, buffers) == (name, [])
    assert CallLoader().load(function, CALL, blob, buffers, "me") == (func, (4,), {})


@BOTH
@pytest.mark.parametrize(
    ("func", "args", "result"),
    [
        (lambda x: x + 1, (1,), 2),
        (functools.partial(add, b=5), (1,), 6),
        (functools.partial(lambda x, y: x * y, 5), (3,), 15),
        (Box(3).plus, (4,), 7),
        (Box(3), (5,), 8),
        ([3, 1].index, (1,), 1),
        (operator.itemgetter(1), ("ab",), "b"),
    ],
)
def test_other_callables_are_sent_by_value(func: Any, args: tuple[Any, ...], result: Any, far: bool) -> None:
    assert CallPickler(far=far, main=None).dump_call(func, args, {})[0] == b""
    assert travel(func, *args, far=far) == result


@BOTH
def test_a_closure_is_sent_with_its_variables(far: bool) -> None:
    held = [1, 2]
    assert travel(lambda more: [*held, more], 3, far=far) == [1, 2, 3]


@BOTH
def test_keyword_arguments_and_lists_of_arguments_arrive(far: bool) -> None:
    assert travel(add, 1, b=2, far=far) == 3
    assert travel(lambda *args, **kwargs: (args, kwargs), [1], x=2, far=far) == (([1],), {"x": 2})
    function, blob, buffers = CallPickler(far=far, main=None).dump_call(add, [1, 2], None)
    assert CallLoader().load(function, CALL, blob, buffers, "me") == (add, (1, 2), {})


@BOTH
@pytest.mark.parametrize("items", [[1, 2], (1, 2), range(5), [], [((1,), {})], [(), {}]])
@pytest.mark.parametrize("func", [add, lambda x: x])
def test_a_chunk_arrives_unchanged(func: Any, items: Any, far: bool) -> None:
    function, blob, buffers = CallPickler(far=far, main=None).dump_chunk(func, items)
    _, arrived, kwargs = CallLoader().load(function, MAP, memoryview(blob), buffers, "me")
    assert (arrived, kwargs) == (items, {})
    assert type(arrived) is type(items)


@BOTH
@pytest.mark.parametrize("func", [len, lambda x: len(x)])
def test_large_buffers_are_sent_beside_the_pickle_and_small_ones_in_it(func: Any, far: bool) -> None:
    large, small = pickle.PickleBuffer(bytearray(32 * 1024)), pickle.PickleBuffer(bytearray(32 * 1024 - 1))
    function, blob, buffers = CallPickler(far=far, main=None).dump_call(func, ([large, small],), {})
    assert [buffer.raw().nbytes for buffer in buffers] == [32 * 1024]
    assert 32 * 1024 <= len(blob) < 34 * 1024
    _, ((first, second),), _ = CallLoader().load(function, CALL, blob, buffers, "me")
    assert (len(memoryview(first)), len(second)) == (32 * 1024, 32 * 1024 - 1)


@BOTH
@pytest.mark.parametrize("func", [print, lambda x: x])
def test_an_object_that_cannot_be_pickled_raises_pickles_error(func: Any, far: bool) -> None:
    pickler = CallPickler(far=far, main=None)
    with pytest.raises(TypeError, match=r"cannot pickle '_thread.lock' object"):
        pickler.dump_call(func, (threading.Lock(),), {})
    with pytest.raises(TypeError, match="cannot pickle 'generator' object"):
        pickler.dump_call(func, ((x for x in ()),), {})
    with Path(__file__).open() as file, pytest.raises(TypeError, match=r"cannot pickle '.*TextIOWrapper'"):
        pickler.dump_call(func, (file,), {})
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises((RecursionError, pickle.PicklingError), match=r"recursion|Stack overflow"):  # 3.14
        pickler.dump_call(func, (deep,), {})


@BOTH
def test_what_a_reduce_raises_is_raised(far: bool) -> None:
    with pytest.raises(ZeroDivisionError):
        CallPickler(far=far, main=None).dump_call(print, (Refusing(),), {})


class Refusing:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError


@BOTH
def test_local_classes_and_lambdas_can_be_arguments(far: bool) -> None:
    class Local:
        value = 5

    assert travel(getattr, Local(), "value", far=far) == 5
    assert travel(map, lambda x: x + 1, [1], far=far).__next__() == 2


@BOTH
@pytest.mark.parametrize("make", [multiprocessing.Queue, multiprocessing.Lock])
def test_queues_and_locks_are_refused_as_in_multiprocessing(make: Any, far: bool) -> None:
    shared = make()
    with pytest.raises(RuntimeError, match="only be shared between processes through inheritance"):
        CallPickler(far=far, main=None).dump_call(print, (shared,), {})


def test_a_connection_can_be_sent_near_and_is_refused_far() -> None:
    from multiprocessing import resource_sharer

    here, there = multiprocessing.Pipe()
    with here, there:
        try:
            function, blob, buffers = CallPickler(far=False, main=None).dump_call(print, ([there],), {})
            _, ((arrived,),), _ = CallLoader().load(function, CALL, blob, buffers, "me")
            with arrived:
                assert arrived.fileno() != there.fileno()
                arrived.send("there")
                assert here.recv() == "there"
        finally:
            resource_sharer.stop(timeout=5)
        with pytest.raises(TypeError, match="for another machine"):
            CallPickler(far=True, main=None).dump_call(print, ([there],), {})


class Registered:
    """Plain pickle can send it, but multiprocessing has another reducer for it."""

    def __init__(self, how: str = "plainly") -> None:
        self.how = how


def test_types_registered_with_forking_pickler_later_are_used_near() -> None:
    pickler = CallPickler(far=False, main=None)
    pickler.dump_call(print, (Registered(),), {})
    registry = ForkingPickler._extra_reducers  # type: ignore[attr-defined]
    ForkingPickler.register(Registered, lambda thing: (Registered, ("specially",)))
    try:
        for func in (print, lambda x: x):
            for args in ((Registered(),), (Registered(), lambda: 1)):
                _, arrived, _ = CallLoader().load(*_with_mode(pickler.dump_call(func, args, {})), "me")
                assert arrived[0].how == "specially"
        assert loads(dumps_for_family(Registered())).how == "specially"
        far = CallPickler(far=True, main=None).dump_call(print, (Registered(),), {})
        assert CallLoader().load(*_with_mode(far), "me")[1][0].how == "plainly"
    finally:
        del registry[Registered]


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    made = types.ModuleType("passing_module")
    exec("m = 2\ndef f(x): return x * m", vars(made))
    sys.modules["passing_module"] = made
    yield made
    sys.modules.pop("passing_module", None)


def test_a_module_that_the_worker_lacks_is_named_with_the_host(module: types.ModuleType) -> None:
    function, blob, buffers = CallPickler(far=True, main=None).dump_call(module.f, (1,), {})
    loader = CallLoader()
    del sys.modules["passing_module"]
    with pytest.raises(ModuleNotFoundError, match=r"the worker on .+ cannot import passing_module") as caught:
        loader.load(function, CALL, blob, buffers, "me")
    assert caught.value.name == "passing_module"
    sys.modules["passing_module"] = module
    assert loader.load(function, CALL, blob, buffers, "me")[0] is module.f


def test_a_module_without_the_function_is_named(module: types.ModuleType) -> None:
    function, blob, buffers = CallPickler(far=True, main=None).dump_call(module.f, (1,), {})
    del module.f
    with pytest.raises(ImportError, match="has another passing_module, without f"):
        CallLoader().load(function, CALL, blob, buffers, "me")


def test_an_object_not_found_under_its_name_is_sent_by_value(module: types.ModuleType) -> None:
    func, module.f = module.f, len
    function, blob, buffers = CallPickler(far=True, main=None).dump_call(func, (4,), {})
    assert function == b""
    loaded, args, _ = CallLoader().load(function, CALL, blob, buffers, "me")
    assert loaded(*args) == 8


def test_a_module_registered_with_cloudpickle_is_sent_by_value(module: types.ModuleType) -> None:
    import cloudpickle

    cloudpickle.register_pickle_by_value(module)
    try:
        pickler = CallPickler(far=True, main=None)
        function, blob, buffers = pickler.dump_call(module.f, (4,), {})
        _, (inner,), _ = CallLoader().load(*_with_mode(pickler.dump_call(print, (module.f,), {})), "me")
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    assert function == b""
    del sys.modules["passing_module"]
    func, args, _ = CallLoader().load(function, CALL, blob, buffers, "me")
    assert (func(*args), inner(3)) == (8, 6)


def _with_mode(dumped: tuple[bytes, bytes, Any]) -> tuple[bytes, int, bytes, Any]:
    return dumped[0], CALL, dumped[1], dumped[2]


@given(garbage(60), st.binary(max_size=20) | st.just(b""), st.sampled_from([CALL, MAP]))
def test_garbage_raises(blob: bytes, function: bytes, mode: int) -> None:
    for start in (b"", b"\x80\x05", b"C\x80\x05", b"F\0\0\0\4", b"F"):
        with pytest.raises(Exception):  # noqa: B017
            func, args, kwargs = CallLoader().load(function, mode, start + blob, (), "me")
            func(*args, **kwargs)


@pytest.mark.parametrize("func", [add, lambda x: x, Box(1)])
def test_a_cut_call_raises(func: Any) -> None:
    function, blob, buffers = CallPickler(far=True, main=None).dump_call(func, ("abc",), {"b": 1})
    for end in range(len(blob)):
        with pytest.raises(Exception):  # noqa: B017
            CallLoader().load(function, CALL, blob[:end], buffers, "me")


@pytest.mark.parametrize(
    ("function", "payload"),
    [(b"math:pi", (1,)), (b"math:hypot", 5), (b"math:hypot", [1, 2]), (b"", 5), (b"x", ())],
)
def test_a_malformed_call_is_an_item_error(function: bytes, payload: Any) -> None:
    with pytest.raises(ItemError):
        CallLoader().load(function, CALL, pickle.dumps(payload), (), "me")


def test_arrays_and_subclasses_of_tuples_arrive() -> None:
    assert travel(len, array("d", [1.0, 2.0])) == 2


@pytest.mark.parametrize("far", [False, True])
def test_large_bytes_are_sent_beside_the_pickle_and_arrive_as_bytes(far: bool) -> None:
    large, small = b"\x93_main__" * 10_000, b"small"
    pickler, loader = CallPickler(far=far, main={}), CallLoader(far=far)
    name, blob, buffers = pickler.dump_call(max, (large, small), {"default": large})
    assert len(buffers) == 1
    assert bytes(buffers[0].raw()) == large
    func, args, kwargs = loader.load(name, 0, blob, [memoryview(large)], "client")
    assert func is max
    assert args == (large, small)
    assert type(args[0]) is bytes
    assert kwargs == {"default": large}
