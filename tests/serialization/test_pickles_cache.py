"""When a function's pickle is reused, and when it must not be."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from nearfar.serialization.pickles.cache import MOST_KEPT
from nearfar.serialization.pickles.calls import CallLoader, CallPickler

pytestmark = pytest.mark.pure

SOURCE = """
import math
n = 3
items = [1]
text = ("a", 1)
def helper(x): return x + n
def uses_helper(x): return helper(x)
def uses_constants(x, y=2): return math.floor(x) + n + y + len(text)
def uses_list(x): return x + len(items)
def annotated(x: "list") -> int: return x
def with_mutable_default(x, seen=[]): return x
def recursive(x): return 0 if x == 0 else 1 + recursive(x - 1)
def changes(x):
    global n
    n += x
    return n
class Thing: pass
def uses_class(x): return Thing and x
def inner_list(x): return (lambda: items)() and x
"""


@pytest.fixture
def main() -> types.ModuleType:
    """A module that is called `__main__`, but is not this process's."""
    made = types.ModuleType("__main__")
    exec(SOURCE, vars(made))
    return made


def is_kept(pickler: CallPickler, func: Any) -> bool:
    return pickler.dump_call(func, (1,), {})[1][:1] == b"F"


@pytest.mark.parametrize(
    "name", ["helper", "uses_helper", "uses_constants", "annotated", "recursive", "changes"]
)
def test_a_function_of_constants_is_pickled_once(main: types.ModuleType, name: str) -> None:
    pickler, func = CallPickler(far=True, main=None), getattr(main, name)
    assert is_kept(pickler, func)
    assert pickler.dump_call(func, (1,), {}) == pickler.dump_call(func, (1,), {})


@pytest.mark.parametrize("name", ["uses_list", "with_mutable_default", "uses_class", "inner_list"])
def test_a_function_of_what_may_change_is_pickled_each_time(main: types.ModuleType, name: str) -> None:
    pickler = CallPickler(far=True, main=None)
    assert not is_kept(pickler, getattr(main, name))
    assert not is_kept(pickler, getattr(main, name))


def test_a_closure_is_pickled_each_time() -> None:
    held = 1
    assert not is_kept(CallPickler(far=True, main=None), lambda x: x + held)


class Pair:
    """Pickler and loader, in one process."""

    def __init__(self) -> None:
        self.pickler = CallPickler(far=True, main=None)
        self.loader = CallLoader()

    def __call__(self, func: Any, *args: Any) -> Any:
        function, blob, buffers = self.pickler.dump_call(func, args, {})
        func, args, kwargs = self.loader.load(function, 0, blob, buffers, "me")
        return func(*args, **kwargs)


def test_every_change_is_detected(main: types.ModuleType) -> None:
    call = Pair()
    assert call(main.uses_helper, 1) == 4
    main.n = 10
    assert call(main.uses_helper, 1) == 11
    main.n = 3
    assert call(main.uses_helper, 1) == 4
    main.helper = main.recursive
    assert call(main.uses_helper, 5) == 5
    main.helper.__code__ = (lambda x: x * 100).__code__
    assert call(main.uses_helper, 5) == 500
    main.uses_constants.__defaults__ = (50,)
    assert call(main.uses_constants, 1) == 56
    main.math = types.SimpleNamespace(floor=lambda x: 7)
    assert call(main.uses_constants, 1) == 62
    main.len = lambda x: 1000
    assert call(main.uses_constants, 1) == 1060


def test_a_module_imported_later_is_sent_too(main: types.ModuleType) -> None:
    """A package's submodules go with the function that uses them, once they are imported."""
    exec("import xml\ndef parser(): return xml.dom.minidom.__name__", vars(main))
    sys.modules.pop("xml.dom.minidom", None)
    call = Pair()
    pickler = call.pickler
    before = pickler.dump_call(main.parser, (), {})
    import xml.dom.minidom

    assert b"xml.dom.minidom" not in before[1]
    assert b"xml.dom.minidom" in pickler.dump_call(main.parser, (), {})[1]
    assert call(main.parser) == xml.dom.minidom.__name__


def test_changes_of_globals_by_tasks_stay_while_the_function_is_cached(main: types.ModuleType) -> None:
    call = Pair()
    assert [call(main.changes, 1), call(main.changes, 1), call(main.helper, 0)] == [4, 5, 5]
    main.n = 30
    assert [call(main.changes, 1), call(main.changes, 1)] == [31, 32]
    main.n = 3
    assert call(main.changes, 1) == 4


def test_the_number_of_cached_functions_is_limited() -> None:
    pickler = CallPickler(far=True, main=None)
    for _ in range(1000):
        pickler.dump_call(lambda x: x, (1,), {})
    assert len(pickler._kept._kept) <= MOST_KEPT


def test_a_forgotten_client_starts_from_scratch(main: types.ModuleType) -> None:
    call = Pair()
    call(main.changes, 1)
    call.loader.forget("me")
    assert call(main.changes, 1) == 4
