"""Functions by value between different Pythons are refused, with both named; by name they work."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nearfar.errors import ItemError
from nearfar.net.process import BYTECODE, PYTHON
from nearfar.serialization.pickles import by_value
from nearfar.serialization.pickles.calls import CallLoader, CallPickler
from nearfar.serialization.pickles.results import dump_error, dump_result, load_error, load_result
from tests.support.interpreters import another_python
from tests.support.pickling import run_script

OTHER = "Python 3.99.1"


def elsewhere(monkeypatch: pytest.MonkeyPatch, do: Callable[[], Any]) -> Any:
    """The result of `do` in another Python, as far as its output shows."""
    with monkeypatch.context() as patch:
        patch.setattr(by_value, "BYTECODE", "CPython-9999")
        patch.setattr(by_value, "PYTHON", OTHER)
        return do()


def local_things() -> dict[str, Any]:
    held = [1]

    class Method:
        def twice(self) -> int:
            return 2

    class Bare:
        value = 5

    return {
        "lambda": lambda: 1,
        "closure": lambda: held,
        "partial": functools.partial(lambda x: x, 1),
        "method": Method().twice,
        "instance": Method(),
        "class": Method,
        "bare instance": Bare(),
    }


WITH_CODE = ["lambda", "closure", "partial", "method", "instance", "class"]


@pytest.mark.parametrize("what", WITH_CODE)
@pytest.mark.parametrize("place", ["function", "argument"])
def test_code_of_another_python_is_refused_before_it_is_read(
    monkeypatch: pytest.MonkeyPatch, what: str, place: str
) -> None:
    thing = local_things()[what]
    func, args = (thing, ()) if place == "function" and callable(thing) else (len, ([thing],))
    pickler = CallPickler(far=True, main=None)
    name, blob, buffers = elsewhere(monkeypatch, lambda: pickler.dump_call(func, args))
    with pytest.raises(ItemError) as caught:
        CallLoader().load(name, 0, blob, buffers, "me")
    said = str(caught.value)
    assert OTHER in said
    assert PYTHON in said
    assert "put it into a module" in said


@pytest.mark.parametrize(("func", "args"), [(math.hypot, (3, 4)), (functools.partial(pow, 2), (5,))])
def test_calls_by_name_are_not_refused(monkeypatch: pytest.MonkeyPatch, func: Any, args: Any) -> None:
    name, blob, buffers = elsewhere(
        monkeypatch, lambda: CallPickler(far=True, main=None).dump_call(func, args)
    )
    made, found, _ = CallLoader().load(name, 0, blob, buffers, "me")
    assert made(*found) == func(*args)


def test_data_by_value_without_code_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = local_things()["bare instance"]
    parts = elsewhere(monkeypatch, lambda: dump_result([bare, 7]))
    assert load_result(*parts)[0].value == 5


@pytest.mark.parametrize("what", WITH_CODE)
def test_a_result_from_another_python_is_refused(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    blob, buffers = elsewhere(monkeypatch, lambda: dump_result(local_things()[what]))
    with pytest.raises(ItemError, match=f"{OTHER}, whose bytecode {PYTHON} cannot run"):
        load_result(blob, buffers)


def test_an_error_of_a_class_from_another_python_arrives_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    class Trouble(Exception):
        def __str__(self) -> str:
            return "in words"

    back = load_error(elsewhere(monkeypatch, lambda: dump_error(Trouble())))
    assert type(back).__name__ == "RemoteError"
    assert "in words" in str(back)


def test_the_format_names_the_interpreter_and_its_magic_number() -> None:
    implementation, _, number = BYTECODE.partition("-")
    assert implementation and int(number) > 3000


MIXED = """
import math
from tests.support.interpreters import another_python
from tests.support.pickling import far_worker
from nearfar.errors import ItemError
from nearfar.net.process import PYTHON

def check(value):
    return value is True
class Point:
    def __init__(self, x): self.x = x
    def same(self, x): return x

if __name__ == "__main__":
    with far_worker(another_python()) as call:
        assert call(math.hypot, 3, 4) == 5
        assert call(sorted, [3, 1], reverse=True) == [3, 1]
        for func, argument in [(check, True), (lambda x: x, 1), (len, [Point(1)]), (Point(1).same, 1)]:
            for _ in range(2):
                try:
                    call(func, argument)
                except ItemError as error:
                    assert PYTHON in str(error) and str(error).count("Python 3.") == 2, error
                else:
                    raise AssertionError(func)
        assert call(math.hypot, 3, 4) == 5
"""


@pytest.mark.skipif(another_python() is None, reason="this machine has no Python with other bytecode")
def test_a_real_worker_of_another_python(tmp_path: Path) -> None:
    run_script(tmp_path, MIXED)
