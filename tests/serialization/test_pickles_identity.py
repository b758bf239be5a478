"""An object of a program is a single object in its workers, call after call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nearfar.serialization.pickles import main_module
from nearfar.serialization.pickles.calls import CallLoader, CallPickler
from tests.serialization.test_pickles_main_module import FAR, program, program_for_all
from tests.support.pickling import run_script

STATELESS = """
UNSET = object()
CONFIG = {"unset": object(), "list": []}
PAIR = (object(), [])
NAN, LONG, TEXT, DATA = float("nan"), 10**50, "".join(["a ", "b"]), bytes([1, 200]) * 3
FIXED = frozenset({1, 2}), (1, (2, 3)), 1j, range(5)
def default(x=UNSET): return x is UNSET
def keyword(*, x=UNSET): return x is UNSET
def nested_default(x=CONFIG["unset"]): return x is CONFIG["unset"]
def tuple_default(x=PAIR): return x is PAIR and x[1] is PAIR[1]
def scalars(a=NAN, b=LONG, c=TEXT, d=DATA): return a is NAN and b is LONG and c is TEXT and d is DATA
def constants(a=FIXED): return a is FIXED and a[0] is FIXED[0]
def function_default(x=default): return x is default
def make():
    held = UNSET
    inner = object()
    def closure(x=inner): return held is UNSET and x is inner
    return closure
closure = make()
def calls_closure(): return closure()
REGISTRY = {"default": default}
class Holder:
    registry = REGISTRY
    unset = UNSET
    def check(self, x=UNSET): return x is UNSET and self.unset is UNSET and self.registry is REGISTRY
    @staticmethod
    def static(x=UNSET): return x is UNSET
    @classmethod
    def clas(cls, x=UNSET): return x is cls.unset
def attributes(): return Holder.registry is REGISTRY and Holder.unset is UNSET and Holder().check()
def methods(): return Holder.static() and Holder.clas() and Holder.unset is CONFIG_TWIN["unset"]
CONFIG_TWIN = {"unset": UNSET}
def registered(): return REGISTRY["default"] is default and REGISTRY["default"]()
THINGS = [Holder, default, Holder()]
def things(): return THINGS[0] is Holder and THINGS[1] is default and type(THINGS[2]) is Holder
class Colour: pass
Colour.RED = Colour()
Colour.ALL = [Colour.RED]
def of_its_class(): return Colour.ALL[0] is Colour.RED and type(Colour.RED) is Colour
class Node:
    def __init__(self): self.me, self.unset = self, UNSET
NODE = Node()
def circle(): return NODE.me is NODE and NODE.unset is UNSET
class Key:
    def __init__(self, value): self.value = value
    def __hash__(self): return hash(self.value) + OFFSET
    def __eq__(self, other): return isinstance(other, Key) and other.value == self.value
OFFSET = 3
TABLE = {Key(1): "a"}
def hashed(): return TABLE[Key(1)] == "a" and Key(2) not in TABLE
class Single:
    one = None
    def __new__(cls):
        if cls.one is None: cls.one = super().__new__(cls)
        return cls.one
SINGLE = Single()
def single(): return Single() is SINGLE
def itself(): return itself.me is itself
itself.me = itself
def all_of_it(): return default() and keyword() and nested_default() and attributes() and closure()
class Sentinel:
    one = None
    def __new__(cls):
        if cls.one is None: cls.one = super().__new__(cls)
        return cls.one
    def __reduce__(self): return "SENTINEL"
SENTINEL = Sentinel()
SENTINELS = [SENTINEL]
def sentinel(x=SENTINEL): return x is SENTINEL and SENTINELS[0] is SENTINEL
def is_sentinel(x): return x is SENTINEL and sentinel(x)
def give_sentinel(): return [SENTINEL]
MISSING = dataclasses.MISSING
def missing(x=dataclasses.MISSING): return x is MISSING and x is dataclasses.MISSING
def parameter(x): return x is default
def class_parameter(x): return x is Holder
"""

CALLS = """[(default,), (keyword,), (nested_default,), (tuple_default,), (scalars,), (constants,),
    (function_default,), (calls_closure,), (attributes,), (methods,), (registered,), (things,),
    (of_its_class,), (circle,), (hashed,), (single,), (itself,), (sentinel,),
    (is_sentinel, SENTINEL), (all_of_it,), (missing,),
    (parameter, default), (class_parameter, Holder), (Holder().check,), (Holder.static,), (Holder.clas,),
    (functools.partial(default),), (functools.partial(parameter, default),)]"""


def test_one_object_stays_one_object(tmp_path: Path) -> None:
    body = f"""
calls = {CALLS}
for turn in range(3):
    for func, *args in calls:
        assert call(func, *args) is True, (turn, func, args)
assert call(lambda x=UNSET: x is UNSET) is True
assert call(lambda: [default(), Holder().check(), single()]) == [True] * 3
assert call(give_sentinel)[0] is SENTINEL
class Later: pass
for func, *args in calls:
    assert call(func, *args) is True, ("later", func, args)
assert call(closure) is True
"""
    run_script(tmp_path, program_for_all(STATELESS, body))


STATEFUL = """
A = []
B = A
def aliased():
    A.append(1)
    return len(B)
def gather(seen=[]):
    seen.append(1)
    return len(seen)
CACHE = {}
def cached(x, cache=CACHE):
    cache[x] = True
    return len(CACHE)
def pair():
    count = 0
    def increase():
        nonlocal count
        count += 1
        return count
    def look(): return count
    return increase, look
increase, look = pair()
again, _ = pair()
def closures(): return increase(), increase(), look(), again()
def attribute():
    attribute.count = getattr(attribute, "count", 0) + 1
    return attribute.count
def counting(func):
    @functools.wraps(func)
    def wrapper(*args):
        wrapper.calls += 1
        return wrapper.calls
    wrapper.calls = 0
    return wrapper
@counting
def wrapped(): pass
@functools.cache
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
def filled():
    fib(20)
    return fib.cache_info().currsize
class Counts:
    made = []
    total = 0
    def add(self):
        Counts.total += 1
        self.made.append(1)
        return Counts.total, len(Counts.made)
def counts(): return Counts().add()
"""


def test_the_next_task_finds_the_changes_of_a_task(tmp_path: Path) -> None:
    body = """
for turn in (1, 2, 3):
    assert call(aliased) == turn
    assert call(gather) == turn
    assert [call(cached, 2 * turn), call(cached, 2 * turn + 1)] == [2 * turn - 1, 2 * turn]
    assert call(closures) == (2 * turn - 1, 2 * turn, 2 * turn, turn)
    assert call(attribute) == turn
    assert call(wrapped) == turn
    assert call(filled) == 21
    assert call(counts) == (turn, turn)
assert call(fib, 30) == 832040
assert call(filled) == 31
"""
    run_script(tmp_path, program_for_all(STATEFUL, body))


def test_a_clients_change_is_sent_with_all_references_to_it(tmp_path: Path) -> None:
    definitions = """
UNSET = object()
LIST = [UNSET]
ALIAS = LIST
def default(x=UNSET): return x is UNSET
def lists(): return ALIAS is LIST, LIST[-1] is UNSET, len(LIST)
def look(): return ALIAS[:], LIST[:]
class Holder:
    unset = UNSET
    def check(self): return self.unset is UNSET
def held(): return Holder().check(), default()
"""
    body = """
assert call(default) and call(lists) == (True, True, 1) and call(held) == (True, True)
LIST.append(UNSET)
assert call(lists) == (True, True, 2)
assert call(default) and call(held) == (True, True)
ALIAS = LIST[:]
assert call(lists) == (False, True, 2)
LIST.append(5)
assert call(look)[1][-1] == 5 and len(call(look)[0]) == 2
UNSET = object()
assert call(default) is False and call(held) == (False, False)
default.__defaults__ = (UNSET,)
assert call(default) is True and call(held) == (False, True)
Holder.unset = UNSET
assert call(held) == (True, True)
default = lambda: "new"
assert call(held) == (True, "new")
Holder.check = lambda self: "patched"
assert call(held) == ("patched", "new")
"""
    run_script(tmp_path, program(definitions, FAR, body))


def test_closures_of_the_same_code_are_distinguished(tmp_path: Path) -> None:
    definitions = """
def counter():
    count = 0
    def increase():
        nonlocal count
        count += 1
        return count
    return increase
"""
    body = """
one, two = counter(), counter()
assert [call(one), call(one), call(two), call(one), call(two)] == [1, 2, 1, 3, 2]
assert [call(counter()) for _ in range(3)] == [1, 1, 1]
"""
    run_script(tmp_path, program(definitions, FAR, body))


def test_a_long_chain_of_functions_is_read(tmp_path: Path) -> None:
    chain = "def f0(): return 0\n" + "".join(f"def f{n}(): return 1 + f{n - 1}()\n" for n in range(1, 200))
    run_script(tmp_path, program(chain, FAR, "assert call(f199) == 199\nassert call(f199) == 199"))


def test_a_function_already_read_is_used_again(tmp_path: Path) -> None:
    definitions = """
class Loud:
    def __reduce__(self): return make, ()
def make():
    counts.append(1)
    return Loud()
counts = []
LOUD = [Loud()]
def uses(x, loud=LOUD): return len(counts)
"""
    body = """
assert [call(uses, 1) for _ in range(5)] == [1] * 5
LOUD.append(5)
assert [call(uses, 1) for _ in range(5)] == [2] * 5
"""
    run_script(tmp_path, program(definitions, FAR, body))


def test_functions_of_a_single_call_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main_module, "MOST_PASSING", 50)
    monkeypatch.setattr(main_module, "MOST_PASSING_BYTES", 100_000)
    pickler, loader = CallPickler(far=True, main=None), CallLoader()

    def make(held: list[int]) -> Callable[[], list[int]]:
        return lambda: held

    for number in range(200):
        held = [number] * (20_000 if number % 10 == 0 else 1)
        name, blob, buffers = pickler.dump_call(make(held), ())
        func, args, _ = loader.load(name, 0, blob, buffers, "me")
        assert func(*args) == held
        assert len(loader.space("me").read) <= 60


def test_named_functions_are_not_dropped(tmp_path: Path) -> None:
    definitions = """
def pair():
    count = 0
    def increase():
        nonlocal count
        count += 1
        return count
    return increase, lambda: count
increase, look = pair()
def first(): return increase(), look()
class Holder:
    def method(self): return gather()
def gather(seen=[]):
    seen.append(1)
    return len(seen)
BIG = list(range(1000))
"""
    body = """
module = "__import__('importlib').import_module('nearfar.serialization.pickles.main_module')"
call(eval, f"setattr({module}, 'MOST_PASSING', 10)")
call(eval, f"setattr({module}, 'MOST_PASSING_BYTES', 1000)")
for turn in range(1, 30):
    assert call(first) == (turn, turn)
    assert call(gather) == 2 * turn - 1
    assert call(Holder().method) == 2 * turn
    assert call(lambda: (turn, len(BIG))) == (turn, 1000)
"""
    run_script(tmp_path, program(definitions, FAR, body))
