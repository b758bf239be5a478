"""Copies of a script's classes behave like the originals: slots, enums, nested ones, stateful decorators."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serialization.test_pickles_main_module import FAR, program, program_for_all
from tests.support.pickling import run_script

CLASSES = """
import abc, asyncio, collections, contextlib, inspect, typing
UNSET = object()
TAGS = []
class Base:
    def __init__(self, x): self.x = x
    def who(self): return "base" + str(self.x)
    @classmethod
    def make(cls, x): return cls(x)
    @staticmethod
    def twice(x): return x * 2
    @property
    def shown(self): return self.x
    def __init_subclass__(cls, tag, **rest):
        cls.tag = tag
        TAGS.append(tag)
class Kid(Base, tag="kid"):
    "documented"
    def who(self): return "kid" + super().who()
def inherits(): return Kid.make(2).who(), Kid.twice(3), Kid(4).shown, Kid.tag, TAGS, Kid.__doc__
class Meta(type):
    made = []
    def __new__(meta, name, bases, space, flag=False):
        Meta.made.append(name)
        return super().__new__(meta, name, bases, space)
    def hello(cls): return cls.__name__
class Made(metaclass=Meta, flag=True): pass
def metaclass(): return Made.hello(), Meta.made, type(Made) is Meta
class Op(enum.Enum):
    ADD = "+"
    SUB = "-"
    PLUS = "+"
    def apply(self, a, b): return TABLE[self](a, b)
TABLE = {Op.ADD: lambda a, b: a + b, Op.SUB: lambda a, b: a - b}
def operations(): return Op.ADD.apply(1, 2), Op("-").apply(3, 1), Op.PLUS is Op.ADD, list(Op.__members__)
class Planet(enum.Enum):
    EARTH = (6, 3)
    def __init__(self, mass, radius): self.mass, self.radius = mass, radius
    @property
    def density(self): return self.mass / self.radius
def planets(): return Planet.EARTH.density, Planet((6, 3)) is Planet.EARTH, Planet.EARTH.mass
class Coordinate(bytes, enum.Enum):
    def __new__(cls, value, label):
        made = bytes.__new__(cls, [value])
        made._value_, made.label = value, label
        return made
    X = (0, "x")
    Y = (1, "y")
def coordinates(): return Coordinate.Y.label, Coordinate(1) is Coordinate.Y, bytes(Coordinate.Y)
class Right(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()
    BOTH = READ | WRITE
def flags(): return (Right.READ | Right.WRITE) is Right.BOTH, (~Right.READ).value, Right(3) is Right.BOTH
class Number(enum.IntEnum): ONE = 1
class Word(enum.StrEnum): ONE = "one"
class Bits(enum.IntFlag):
    ONE = 1
    TWO = 2
def mixed(): return Number.ONE + 1, Word.ONE + "s", int(Bits.ONE | 4), f"{Word.ONE}", Number(1) is Number.ONE
@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    a: int = 1
    b: typing.Any = UNSET
    c: list = dataclasses.field(default_factory=list, compare=False)
def frozen():
    try:
        Frozen().a = 3
    except dataclasses.FrozenInstanceError:
        pass
    else:
        return "changed"
    field = dataclasses.fields(Frozen)[0]
    return (Frozen() == Frozen(), Frozen().b is UNSET, field.default_factory is dataclasses.MISSING,
        dataclasses.replace(Frozen(), a=5).a, hasattr(Frozen(), "__dict__"), Frozen(1).c,
        inspect.signature(Frozen).parameters["a"].kind.name)
class Abstract(abc.ABC):
    @abc.abstractmethod
    def do(self): ...
class Concrete(Abstract):
    def do(self): return 1
class Virtual: pass
Abstract.register(Virtual)
def abstract():
    try:
        Abstract()
    except TypeError:
        return Concrete().do(), issubclass(Virtual, Abstract), isinstance(Virtual(), Abstract)
class Named:
    def __set_name__(self, owner, name): self.name = name
    def __get__(self, one, owner=None): return self if one is None else vars(one).get(self.name, UNSET)
    def __set__(self, one, value): vars(one)[self.name] = value
class Described:
    a = Named()
    b = Named()
def descriptors():
    one = Described()
    one.a = 1
    return one.a, one.b is UNSET, Described.a.name
Pair = collections.namedtuple("Pair", "x y", defaults=[UNSET])
class Triple(typing.NamedTuple):
    x: int = 5
class Keys(typing.TypedDict): a: int
def tuples(): return Pair(1).y is UNSET, Pair._fields, Triple(), Pair(1, 2)._replace(x=3).x, Keys(a=1)
class Outer:
    class Inner:
        class Deep: value = 1
        def __eq__(self, other): return type(other) is Outer.Inner
    class Kind(enum.Enum):
        ONE = 1
        TWO = 2
    def make(self): return Outer.Inner()
def nested():
    return (isinstance(Outer().make(), Outer.Inner), Outer.Kind.ONE is Outer.Kind(1),
        Outer.Inner.__qualname__, Outer.Inner.Deep.__qualname__)
def is_inner(x): return isinstance(x, Outer.Inner), type(x) is Outer.Inner, isinstance(x, Outer.Inner.Deep)
def is_one(x): return x is Outer.Kind.ONE
T = typing.TypeVar("T")
class Generic(typing.Generic[T]): pass
class OfInt(Generic[int]): pass
UserId = typing.NewType("UserId", int)
def generic():
    return OfInt.__orig_bases__[0].__args__, Generic.__parameters__[0] is T, UserId(4), UserId.__name__
class Slotted:
    __slots__ = ("a", "__b", "__weakref__")
    def __init__(self): self.a, self.__b = UNSET, 2
    def look(self): return self.__b, self.a is UNSET
class SlottedKid(Slotted):
    __slots__ = "c"
def slots():
    one = SlottedKid()
    one.c = 1
    try:
        one.other = 1
    except AttributeError:
        return one.look(), one.c, hasattr(one, "__dict__")
@functools.singledispatch
def show(x): return "object"
@show.register
def _(x: int): return "int"
@show.register(Base)
def _(x): return "base"
def dispatches(): return show(1), show("x"), show(Kid(1)), show.registry[int] is show.dispatch(bool)
class Shows:
    @functools.singledispatchmethod
    def show(self, x): return "object"
    @show.register
    def _(self, x: int): return "int"
    def add(self, a, b): return a + b
    increase = functools.partialmethod(add, 1)
    @functools.cached_property
    def value(self):
        self.asked = getattr(self, "asked", 0) + 1
        return self.asked
    @functools.lru_cache
    def kept(self): return 7
def methods():
    one = Shows()
    return one.show(1), one.show(""), one.increase(2), one.value, one.value, one.kept()
@functools.total_ordering
class Ordered:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return self.x == other.x
    def __lt__(self, other): return self.x < other.x
def ordered(): return Ordered(1) <= Ordered(2), Ordered(1) > Ordered(2), Ordered(2) >= Ordered(2)
@contextlib.contextmanager
def context(): yield 4
def contexts():
    with context() as value:
        return value
async def coroutine(): return 5
def runs(): return asyncio.run(coroutine())
def singles(a=dataclasses.MISSING, b=inspect.Parameter.empty, c=..., d=NotImplemented, e=typing.Any):
    return (a is dataclasses.MISSING, b is inspect.Parameter.empty, c is ..., d is NotImplemented,
        e is typing.Any, type(None) is type(a and None))
checks = [inherits, metaclass, operations, planets, coordinates, flags, mixed, frozen, abstract, descriptors,
    tuples, nested, generic, slots, dispatches, methods, ordered, contexts, runs, singles]
inner, deep = Outer.Inner(), Outer.Inner.Deep()
def same(x): return x
values = [Slotted(), SlottedKid(), Frozen(), Op.ADD, Planet.EARTH, Coordinate.Y, Right.BOTH, Bits.ONE,
    Pair(1), inner, deep, Outer.Kind.TWO, OfInt(), Kid(1), Made(), Virtual(), Concrete(), Shows(), Ordered(1),
    Word.ONE]
def made(name): return {kind.__qualname__: kind for kind in (Slotted, Frozen, Outer.Inner, Shows)}[name]()
"""

HOME = """
for value in values:
    back = call(same, value)
    assert type(back) is type(value), value
    assert not isinstance(value, enum.Enum) or back is value
assert call(same, SlottedKid()).look()[0] == 2
for kind in (Slotted, Frozen, Outer.Inner, Shows):
    assert type(call(made, kind.__qualname__)) is kind
    assert call(same, kind) is kind
"""


def test_a_copy_behaves_as_the_original_does(tmp_path: Path) -> None:
    body = f"""
for check in checks:
    assert call(check) == check() == call(check), (check, call(check), check())
assert call(is_inner, inner) == (True, True, False) and call(is_inner, deep) == (False, False, True)
assert call(is_one, Outer.Kind.ONE) is True and call(is_one, Outer.Kind.TWO) is False
{HOME}
"""
    run_script(tmp_path, program_for_all(CLASSES, body))


@pytest.mark.parametrize(
    "later", ["class Later: pass", "def later(): pass", "Outer.Later = type('Later', (), {})"]
)
def test_a_nested_class_stays_what_it_was_after_a_later_definition(tmp_path: Path, later: str) -> None:
    body = f"""
assert call(is_inner, inner) == (True, True, False)
{later}
assert call(is_inner, inner) == (True, True, False) and call(is_inner, deep) == (False, False, True)
assert call(is_one, Outer.Kind.ONE) is True and call(is_one, Outer.Kind.TWO) is False
assert type(call(Outer().make)) is Outer.Inner
assert call(Outer.Inner) == inner
{HOME}
"""
    run_script(tmp_path, program_for_all(CLASSES, body, ["near_worker('fork')", "near_worker('spawn')", FAR]))


def test_a_near_nested_class_that_was_replaced_is_the_new_one(tmp_path: Path) -> None:
    definitions = """
class Outer:
    class Inner: value = 1
def look(x): return x.value
"""
    body = """
old = Outer.Inner
class Inner: value = 2
Inner.__qualname__ = "Outer.Inner"
Outer.Inner = Inner
assert call(look, Outer.Inner()) == 2
assert call(look, old()) == 1
back = call(lambda: Inner())
assert type(back) is Inner
"""
    run_script(tmp_path, program(definitions, "near_worker('fork')", body))
