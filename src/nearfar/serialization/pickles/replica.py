"""Functions and classes by value, in parts that a worker need not read twice; `main_module` reads them.

A worker keeps a replica of what its client sends by value. Each part has a key:

=======================  ===================================================================================
key                      part
=======================  ===================================================================================
``(DEFINITION, n)``      the skeleton of a function or class: code, bases, slots. Others refer to it by `n`
``(STATE, n)``           its state: defaults, methods
``(ATTRIBUTE, n, name)`` the value of an attribute of a class
``(CELL, n)``            the value of a variable that closures share
``(GLOBAL, space, name)``  the value of a global
=======================  ===================================================================================

All parts of a call are sent each time; a worker reads only those whose bytes are new. So changes that tasks
make to a value stay until the client changes its own.

An object that several parts reach is in one of them, and the others refer to its place there (its number in
pickle's memo): so it is one object at the worker, too."""

from __future__ import annotations

import abc
import enum
import hashlib
import io
import itertools
import operator
import pickle
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from cloudpickle import cloudpickle as internals

from nearfar.serialization.names import MAINS, is_found
from nearfar.serialization.pickles import by_value
from nearfar.serialization.pickles.by_value import ValuePickler, heading, is_dispatching, parts_of
from nearfar.serialization.pickles.classes import METHODS, skeleton_of, state_of, tracker_id
from nearfar.serialization.pickles.pickler import BY_VALUE, SIMPLE, is_constant, keep_large

Key = tuple[Any, ...]

DEFINITION, STATE, ATTRIBUTE, CELL, GLOBAL = "d", "s", "a", "c", "g"
FUNCTION, CLASS, MADE = range(3)
"""The kinds of definitions; `MADE`: by a wrapper of the standard library, from a function."""
MAIN = "__main__"
"""The space of the client's own module."""
HEAP_TYPE = 1 << 9
"""The flag of classes that are made by Python code."""
MOST_PICKLED = 1024
"""Functions and classes that are kept here with their parts, at most."""
MOST_SPACES = 256
"""Namespaces that are kept alive here, at most: a program may execute code in new ones for ever."""

_RANK = {GLOBAL: 0, ATTRIBUTE: 1, CELL: 2, STATE: 3, DEFINITION: 4}
_NO_IDENTITY = (str, bytes, type, CodeType, ModuleType, FunctionType, BuiltinFunctionType, by_value.CACHED)
"""Types whose objects are not compared by identity, or whose identity is kept by other means."""
_ABOUT_MODULE = ("__package__", "__name__", "__path__", "__file__")

Place = tuple[Key, int, bytes]
"""The place of an object: the part, its number there, and the digest of the part."""


def definition(identity: Any) -> Any:
    """Represents a function or class in a pickle; the reader substitutes its own function for this one."""
    raise pickle.UnpicklingError(f"definition {identity!r} outside of a call")


def global_value(key: Key) -> Any:
    """Represents the value of a global in a pickle; the reader substitutes its own function for this one."""
    raise pickle.UnpicklingError(f"global {key!r} outside of a call")


def bare(kind: type) -> Any:
    """An instance of `kind`, made without its own `__new__`, which may need this very instance."""
    base: Any = next(each for each in kind.__mro__ if not each.__flags__ & HEAP_TYPE)
    return base.__new__(kind)


def digest_of(data: bytes | memoryview) -> bytes:
    """The digest that distinguishes parts with the same key."""
    return hashlib.blake2b(data, digest_size=16).digest()


class PartLedger:
    """The numbers by which one client names its functions, namespaces and variables. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant: a garbage collection inside may run any code
        self._numbers = itertools.count(1)
        self._functions: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._cells: dict[int, tuple[int, Callable[[], FunctionType | None]]] = {}
        self._spaces: dict[int, tuple[dict[str, Any], str]] = {}
        self._order: dict[Key, int] = {}
        self.owners: dict[Key, frozenset[Key]] = {}
        """The globals whose parts contain objects that others refer to."""
        self._pickled: dict[int, Pickled] = {}  # by id; keeps the object alive

    def number(self, function: Any) -> int:
        """The number of a function."""
        with self._lock:
            found = self._functions.get(function)
            if found is None:
                found = self._functions[function] = next(self._numbers)
            return found

    def cell(self, cell: CellType, function: FunctionType) -> int:
        """The number of a variable in the closure of `function`."""
        with self._lock:
            number, holder = self._cells.get(id(cell), (0, _nobody))
            held = holder()
            if held is None or not any(each is cell for each in held.__closure__ or ()):
                number = next(self._numbers)
                self._cells[id(cell)] = (
                    number,
                    weakref.ref(function, partial(self._forget_cell, id(cell), number)),
                )
            return number

    def _forget_cell(self, place: int, number: int, _: object) -> None:
        if self._cells.get(place, (0,))[0] == number:
            del self._cells[place]

    def space(self, names: dict[str, Any]) -> str:
        """The name of a namespace: `MAIN`, or its module's name, with a number if it is not that module's."""
        known = self._spaces.get(id(names))
        if known is not None:
            return known[1]
        name = str(names.get("__name__"))
        if getattr(sys.modules.get(name), "__dict__", None) is not names:
            name = f"{name}#{next(self._numbers)}"
        elif name in MAINS:
            name = MAIN
        if len(self._spaces) >= MOST_SPACES:
            self._spaces.clear()
        self._spaces[id(names)] = names, name
        return name

    def named(self, space: str) -> dict[str, Any]:
        """The namespace called `space`; empty if it is gone."""
        return next((names for names, name in list(self._spaces.values()) if name == space), {})

    def pickled(self, thing: Any, facts: Components) -> Pickled | None:
        """The stored parts of a function or class, if its facts are unchanged."""
        known = self._pickled.get(id(thing))
        return known if known is not None and known.facts.are(facts) else None

    def keep(self, pickled: Pickled) -> None:
        """Store parts for `pickled`."""
        if len(self._pickled) >= MOST_PICKLED:
            self._pickled.clear()
        self._pickled[id(pickled.thing)] = pickled

    def order(self, key: Key) -> tuple[int, int]:
        """The sort key of parts with shared objects: globals first, in the order of their first use."""
        if key[0] != GLOBAL:
            return _RANK[key[0]], 0
        return 0, self._order.setdefault(key, len(self._order))


def _nobody() -> FunctionType | None:
    return None


class ShippedPart(NamedTuple):
    """A part as it is sent, and the client's data about it."""

    data: bytes
    shared: Mapping[int, tuple[int, Any]]
    """The objects in it that others may reach, too: by id, their numbers and the objects."""
    mentions: tuple[Any, ...]
    """The functions and classes that it refers to."""
    has_code: bool
    value: Any
    needs: tuple[Key, ...] = ()


class Pickled(NamedTuple):
    """The parts of a function or class, which are valid as long as its facts are unchanged."""

    thing: Any
    facts: Components
    skeleton: ShippedPart
    state: ShippedPart


class Shipment:
    """The parts of one call. `main` as in `CallPickler`; `family` as in `dump_by_value`."""

    def __init__(self, ledger: PartLedger, main: Mapping[str, Any] | None, family: bool) -> None:
        self._ledger = ledger
        self._main = main or {}
        self._pickler = _pickler_of_parts(family)
        self._parts: dict[Key, ShippedPart] = {}
        self._waiting: deque[Callable[[], None]] = deque()
        self._known: set[Key] = set()

    def write(self, root: Any) -> tuple[bytes, list[pickle.PickleBuffer]]:
        """`root` and the parts that it needs, with the mark, and the large buffers of `root`.

        Raises what pickling raises.
        """
        buffers: list[pickle.PickleBuffer] = []
        last = self._dump(root, partial(keep_large, buffers))
        while self._waiting:
            self._waiting.popleft()()
        self._share()
        has_code = last.has_code or any(part.has_code for part in self._parts.values())
        table = [(key, len(part.data), part.needs) for key, part in self._parts.items()]
        head = pickle.dumps((table, len(last.data)), 5)
        data = [part.data for part in self._parts.values()]
        mark = BY_VALUE + heading(has_code) + len(head).to_bytes(4, "big")
        return b"".join((mark, head, *data, last.data)), buffers

    def _dump(
        self, value: Any, keep: Callable[[Any], Any] | None = None, owned: Mapping[int, Place] | None = None
    ) -> ShippedPart:
        file = io.BytesIO()
        pickler = self._pickler(self, file, keep, self._main)
        if owned is not None:
            pickler.persistent_id = lambda thing: owned.get(id(thing))
        pickler.root = value
        pickler.dump(value)
        shared = {
            place: numbered
            for place, numbered in pickler.memo.copy().items()
            if not isinstance(numbered[1], _NO_IDENTITY)
        }
        return ShippedPart(file.getvalue(), shared, tuple(pickler.mentions), pickler.has_code, value)

    # -- objects that several parts reach ----------------------------------------------------------

    def _share(self) -> None:
        """Write each shared object into only one part."""
        owned: dict[int, tuple[Key, int]] = {}
        for key in sorted(self._parts, key=self._ledger.order):
            part = self._parts[key]
            if key[0] == DEFINITION:
                continue
            if met := owned.keys() & part.shared.keys():
                places = {each: (*owned[each], digest_of(self._parts[owned[each][0]].data)) for each in met}
                part = self._dump(part.value, owned=places)._replace(needs=part.needs)
                self._parts[key] = part
                if key[0] == GLOBAL:
                    self._ledger.owners[key] = frozenset(owned[each][0] for each in met)
            for place, (index, _) in part.shared.items():
                owned.setdefault(place, (key, index))

    # -- collecting parts --------------------------------------------------------------------------

    def refer(self, thing: Any) -> Any:
        """The identity of a function or class, which is added to the shipment."""
        identity = tracker_id(thing) if isinstance(thing, type) else self._ledger.number(thing)
        if (DEFINITION, identity) not in self._known:
            self._known.add((DEFINITION, identity))
            self._waiting.append(partial(self._add_definition, thing, identity))
        return identity

    def _add_definition(self, thing: Any, identity: Any) -> None:
        facts = facts_of(thing)
        pickled = None if facts is None else self._ledger.pickled(thing, facts)
        if pickled is None:
            skeleton, state = map(self._dump, self._parts_of_definition(thing))
            if facts is not None:
                self._ledger.keep(Pickled(thing, facts, skeleton, state))
        else:
            _, _, skeleton, state = pickled
        self._parts[DEFINITION, identity] = skeleton
        self._parts[STATE, identity] = state._replace(needs=tuple(self._needs_of(thing, identity)))
        for mentioned in (*skeleton.mentions, *state.mentions):
            self.refer(mentioned)

    def _add_value(self, key: Key, value: Any) -> None:
        self._parts[key] = part = self._dump(value)
        for mentioned in part.mentions:
            self.refer(mentioned)

    def _parts_of_definition(self, thing: Any) -> tuple[Any, Any]:
        if isinstance(thing, type):
            state = {name: value for name, value in state_of(thing).items() if not _is_data(name, value)}
            return (CLASS, is_found(thing), *skeleton_of(thing)), state
        if type(thing) is not FunctionType or is_dispatching(thing):
            make, arguments, made_state = parts_of(thing)
            return (MADE, make, arguments, thing.__qualname__), made_state
        attributes, slots = internals._function_getstate(thing)
        names = thing.__globals__
        cells = tuple(self._ledger.cell(cell, thing) for cell in thing.__closure__ or ())
        about = {name: names[name] for name in _ABOUT_MODULE if name in names}
        skeleton = FUNCTION, thing.__code__, thing.__qualname__, self._ledger.space(names), about, cells
        modules = slots["_cloudpickle_submodules"]
        unsent = ("__globals__", "__closure__", "_cloudpickle_submodules")
        slots = {name: value for name, value in slots.items() if name not in unsent}
        return skeleton, (attributes, slots, modules)

    def _needs_of(self, thing: Any, identity: Any) -> Iterator[Key]:
        """The keys of the values that a function or class uses, which are separate parts."""
        if isinstance(thing, type):
            for name, value in list(vars(thing).items()):
                if _is_data(name, value) and name in state_of(thing):
                    yield self._need((ATTRIBUTE, identity, name), value)
        elif type(thing) is FunctionType and not is_dispatching(thing):
            names = thing.__globals__
            space = self._ledger.space(names)
            for name in internals._extract_code_globals(thing.__code__):
                if name in names:
                    yield self._need((GLOBAL, space, name), names[name])
                    yield from self._owners_of((GLOBAL, space, name))
            for cell in thing.__closure__ or ():
                try:
                    yield self._need((CELL, self._ledger.cell(cell, thing)), cell.cell_contents)
                except ValueError:  # it has no value yet
                    continue

    def refer_to_global(self, thing: Any, name: str) -> Key | None:
        """The key of the global of `__main__` that `thing` claims to be; None if it is not."""
        names = vars(sys.modules["__main__"])
        if names.get(name) is not thing:
            return None
        return self._need((GLOBAL, self._ledger.space(names), name), thing)

    def _owners_of(self, key: Key) -> Iterator[Key]:
        """The globals that own objects shared with that of `key`, so that these stay there."""
        for owner in self._ledger.owners.get(key, ()):
            names = self._ledger.named(owner[1]) if owner[0] == GLOBAL else {}
            if owner[0] == GLOBAL and owner not in self._known and owner[2] in names:
                yield self._need(owner, names[owner[2]])

    def _need(self, key: Key, value: Any) -> Key:
        if key not in self._known:
            self._known.add(key)
            if key[0] == GLOBAL:
                self._ledger.order(key)
            if type(value) in SIMPLE:
                self._parts[key] = ShippedPart(pickle.dumps(value, 5), {}, (), False, value)
            else:
                self._waiting.append(partial(self._add_value, key, value))
        return key


class _Referring:
    """A pickler of parts: refers to functions and classes, which are separate parts."""

    def __init__(
        self,
        shipment: Shipment,
        file: io.BytesIO,
        keep: Callable[[Any], Any] | None,
        main: Mapping[str, Any],
    ) -> None:
        super().__init__(file, keep, main)  # type: ignore[call-arg]
        self._shipment = shipment
        self.mentions: list[Any] = []
        self.root: Any = None
        """The object being pickled."""

    def _reduce_global(self, thing: Any, name: str) -> Any:
        key = None if thing is self.root else self._shipment.refer_to_global(thing, name)
        if key is None:
            return bare, (type(thing),), thing.__getstate__()
        return global_value, (key,)

    def _reduce_definition(self, thing: Any) -> Any:
        self.mentions.append(thing)
        return definition, (self._shipment.refer(thing),)


class _PartPickler(_Referring, ValuePickler):
    pass


class _FamilyPartPickler(_Referring, by_value.FamilyValuePickler):
    pass


def _is_data(name: str, value: Any) -> bool:
    """Whether an attribute of a class is a separate part."""
    return not isinstance(value, METHODS) and not name.startswith(("__", "<", "_abc_impl"))


def read_table(blob: memoryview) -> tuple[dict[Key, tuple[memoryview, tuple[Key, ...]]], memoryview]:
    """The parts and the root that `Shipment.write` wrote, from the bytes after the heading."""
    start = 4 + int.from_bytes(blob[:4], "big")
    table, last = pickle.loads(blob[4:start])
    parts = {}
    for key, size, needs in table:
        parts[key] = blob[start : start + size], needs
        start += size
    return parts, blob[start : start + last]


# -- reuse of parts ----------------------------------------------------------------------------------


class Components(NamedTuple):
    """The components of a function or class, all of them immutable."""

    things: tuple[Any, ...]
    names: tuple[str, ...]

    def are(self, others: Components) -> bool:
        """Whether they are the same."""
        return (
            self.names == others.names
            and len(self.things) == len(others.things)
            and all(map(operator.is_, self.things, others.things))
        )


def facts_of(thing: Any) -> Components | None:
    """The facts of a function or class; None if it may change unnoticed."""
    if isinstance(thing, type):
        return _facts_of_class(thing)
    if type(thing) is not FunctionType or is_dispatching(thing):
        return None
    spaces = [thing.__dict__, thing.__annotations__, thing.__kwdefaults__ or {}]
    values = [value for space in spaces for value in space.values()]
    if not is_constant(thing.__defaults__) or not all(map(_is_fixed, values)) or _holds_data(thing):
        return None
    own = (
        thing.__code__,
        thing.__defaults__,
        thing.__name__,
        thing.__qualname__,
        thing.__module__,
        thing.__doc__,
    )
    # The imported submodules of a package are sent with a function that uses them.
    names = [str(len(sys.modules)), *(name for space in spaces for name in space)]
    return Components((*own, *values, *(thing.__closure__ or ())), tuple(names))


def _holds_data(function: FunctionType) -> bool:
    """Whether its closure has more than classes: the parts kept here must not keep large data alive."""
    try:
        return not all(isinstance(cell.cell_contents, type) for cell in function.__closure__ or ())
    except ValueError:
        return True


def _facts_of_class(kind: type) -> Components | None:
    if isinstance(kind, enum.EnumMeta):
        return None
    held = {name: value for name, value in list(vars(kind).items()) if not _is_data(name, value)}
    if isinstance(kind, abc.ABCMeta):
        if next(iter(internals.abc._get_dump(kind)[0]), None) is not None:
            return None
        held.pop("_abc_impl", None)
    for name, value in held.items():
        if name not in _MADE_ONCE and not (isinstance(value, METHODS) or _is_fixed(value)):
            return None
    return Components((kind.__bases__, kind.__name__, kind.__qualname__, *held.values()), tuple(held))


_MADE_ONCE = frozenset(
    {
        "__annotations__",
        "__annotations_cache__",
        "__annotate_func__",
        "__dataclass_fields__",
        "__dataclass_params__",
        "__dict__",
        "__match_args__",
        "__orig_bases__",
        "__parameters__",
        "__slotnames__",
        "__type_params__",
        "__weakref__",
    }
)
"""What the interpreter and the standard library make with a class, and do not change."""


def _is_fixed(value: Any) -> bool:
    return isinstance(value, _NO_IDENTITY) or is_constant(value)


def _pickler_of_parts(family: bool) -> type[Any]:
    return _FamilyPartPickler if family else _PartPickler
