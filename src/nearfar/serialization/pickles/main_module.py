"""The namespace of a client's functions by value in a worker process; `replica` defines their parts."""

from __future__ import annotations

import io
import operator
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from types import CellType, FunctionType
from typing import Any, NamedTuple, cast

from nearfar.errors import ItemError
from nearfar.serialization.names import MAINS
from nearfar.serialization.pickles import classes
from nearfar.serialization.pickles.by_value import (
    CACHED,
    ValuePickler,
    ValueUnpickler,
    check_heading,
    set_state,
)
from nearfar.serialization.pickles.pickler import MUTABLE, Buffers, is_constant, lasting
from nearfar.serialization.pickles.replica import (
    ATTRIBUTE,
    CELL,
    CLASS,
    DEFINITION,
    FUNCTION,
    GLOBAL,
    MAIN,
    STATE,
    Key,
    definition,
    digest_of,
    global_value,
    read_table,
)

MOST_PASSING = 4096
MOST_PASSING_BYTES = 64 << 20
"""Parts of functions that are kept, and their bytes, at most: a client may make new functions for ever."""
LONGEST_SCALAR = 1000
"""Characters or bytes of a scalar that is shared by all equal ones, at most."""
MOST_SCALARS = 4096
_SCALARS = frozenset({bytes, int, float, complex})
_MOST_KEPT = 256
_ORDER = DEFINITION + STATE + CELL + ATTRIBUTE + GLOBAL
_DEEPEST = 20
"""Levels of nested definitions; beyond that, they are read one after another."""
_MISSING = object()


class _Read(NamedTuple):
    """A part that was read: its value, and the objects in it by their numbers."""

    digest: bytes
    value: Any
    memo: Mapping[int, Any]
    size: int


class Namespace:
    """One client's `__main__`, as far as it was received with functions: one lasting dict for all of them.

    A global, an attribute of a class or a variable of a closure is only set here if the client's value has
    changed since it was last received (its pickle differs), so that changes that tasks made here to an
    unchanged one stay. `names` is the dict; `start` is the part of that `__main__` that the process had at
    first (it was forked, or imported the client's main module): it counts as received. `unnamed`: the client
    sends even that by value, so a received class or function may be one of those.
    """

    def __init__(self, names: dict[str, Any], start: Mapping[str, Any], unnamed: bool) -> None:
        self.names = names
        self.start = start
        self.revision = 0
        """Incremented whenever a value is set."""
        self.read: dict[Key, _Read] = {}
        self.bytes = 0
        """Bytes of the functions and classes that were read and are kept, without globals."""
        self._most, self._most_bytes = MOST_PASSING, MOST_PASSING_BYTES
        self.cells: dict[int, CellType] = {}
        self._unnamed = unnamed
        self._spaces = {MAIN: names}
        self._kept: dict[bytes, tuple[Any, int]] = {}
        self._scalars: dict[tuple[type, str], Any] = {}

    def load(self, blob: Any, buffers: Buffers) -> Any:
        """What `Shipment.write` wrote, without the mark. Raises what unpickling raises, and `ItemError` for
        functions of another Python.
        """
        parts, last = read_table(check_heading(blob))
        reading = _Reading(self, parts)
        reading.read_parts()
        value = reading.unpickler(last, buffers).load()
        self._forget_passing(parts)
        return value

    def load_kept(self, blob: bytes) -> Any:
        """As `load`, for a function that depends only on constants: read once, until a value is set."""
        function, revision = self._kept.get(blob, (None, -1))
        if revision != self.revision:
            function = self.load(memoryview(blob)[1:], ())
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[blob] = function, self.revision
        return function

    def space(self, name: str, about: Mapping[str, Any]) -> dict[str, Any]:
        """The globals of the client's functions of the namespace called `name`."""
        names = self._spaces.setdefault(name, {})
        for key, value in about.items():
            names.setdefault(key, value)
        names.setdefault("__builtins__", __builtins__)
        return names

    def one_of(self, value: Any) -> Any:
        """`value`; for a scalar, one object for all equal ones, because pickle does not preserve identity."""
        kind = type(value)
        if kind is str:
            return sys.intern(value) if len(value) <= LONGEST_SCALAR else value
        if kind not in _SCALARS or (kind is bytes and len(value) > LONGEST_SCALAR):
            return value
        if len(self._scalars) >= MOST_SCALARS:
            self._scalars.clear()
        return self._scalars.setdefault((kind, repr(value)), value)

    def own(self, module: str, name: str) -> Any:
        """The definition in this process's own `__main__` that corresponds to the client's; None: none."""
        found = self.start.get(name) if self._unnamed and module in MAINS else None
        is_it = isinstance(found, type | FunctionType | CACHED) and found.__qualname__ == name
        return found if is_it and found.__module__ in MAINS else None

    def _forget_passing(self, used: Mapping[Key, Any]) -> None:
        """Forget functions without a name here, if there are many of them."""
        if len(self.read) <= self._most and self.bytes <= self._most_bytes:
            return
        named = {id(value) for names in self._spaces.values() for value in names.values()}
        kept = set(used)
        for key, read in self.read.items():
            if key[0] == DEFINITION and not _is_passing(read.value, named):
                kept.update((key, (STATE, key[1])))
        held = {
            id(cell)
            for key in kept
            if key[0] == DEFINITION and key in self.read
            for cell in getattr(self.read[key].value, "__closure__", None) or ()
        }
        kept.update((CELL, number) for number, cell in self.cells.items() if id(cell) in held)
        for key in list(self.read):
            if key not in kept and key[0] in (DEFINITION, STATE, CELL):
                self.bytes -= self.read.pop(key).size
                self.cells.pop(key[1], None)
        self._most = max(MOST_PASSING, 2 * len(self.read))
        self._most_bytes = max(MOST_PASSING_BYTES, 2 * self.bytes)


def _is_passing(value: Any, named: set[int]) -> bool:
    """Whether `value` is an anonymous or local function that is not in a namespace."""
    return type(value) is FunctionType and "<" in value.__qualname__ and id(value) not in named


class _Reading:
    """The reading of one call's parts into a namespace."""

    def __init__(self, namespace: Namespace, parts: Mapping[Key, tuple[memoryview, tuple[Key, ...]]]) -> None:
        self._namespace = namespace
        self._parts = parts
        self._done: dict[Key, _Read] = {}
        self._open: dict[Key, ValueUnpickler] = {}
        self._own: list[Any] = []
        """Definitions that this process had at first, and that are received for the first time."""

    def read_parts(self) -> None:
        """Read the parts that are not known here."""
        waiting = sorted(self._parts, key=lambda key: _ORDER.index(key[0]))
        while waiting:
            left = [key for key in waiting if not self._try(key)]
            if len(left) == len(waiting):
                raise ItemError(f"functions came by value that refer to each other in a circle: {left[0]}")
            waiting = left

    def unpickler(self, data: Any, buffers: Buffers = ()) -> ValueUnpickler:
        """An unpickler for data that refers to the parts."""
        own = {definition: self._definition, global_value: self._global}
        return ValueUnpickler(data, buffers, own, self._shared)

    def _global(self, key: Key) -> Any:
        return self._ensure(key).value

    def _try(self, key: Key) -> bool:
        """Read a part; False if another one must be read first."""
        try:
            self._ensure(key)
        except _InTheMiddle:
            return False
        return True

    def _ensure(self, key: Key) -> _Read:
        done = self._done.get(key)
        if done is None:
            if key in self._open:
                raise _InTheMiddle
            try:
                data, _ = self._parts[key]
            except KeyError:
                raise ItemError(f"a function came by value without its part {key}") from None
            digest = digest_of(data)
            known = self._namespace.read.get(key)
            done = known if known and known.digest == digest else self._read(key, data, digest, known)
            self._done[key] = done
        return done

    def _read(self, key: Key, data: memoryview, digest: bytes, known: _Read | None) -> _Read:
        self._open[key] = unpickler = self.unpickler(data)
        try:
            value = self._namespace.one_of(unpickler.load())
            memo: Mapping[int, Any] = cast(Any, unpickler).memo.copy()
            if key[0] == DEFINITION:
                value = self._define(key, value, known)
            else:
                value, memo = self._set(key, value, memo, data, known)
        finally:
            del self._open[key]
        if key[0] in (DEFINITION, STATE, CELL):
            self._namespace.bytes += len(data) - (known.size if known else 0)
        self._namespace.read[key] = read = _Read(digest, value, memo, len(data))
        return read

    def _shared(self, place: tuple[Key, int, bytes]) -> Any:
        """An object that is in another part."""
        key, index, _ = place
        if key in self._open:
            memo = cast(Any, self._open[key]).memo.copy()
            if index not in memo:
                raise _InTheMiddle
            return memo[index]
        return self._ensure(key).memo[index]

    # -- definitions -------------------------------------------------------------------------------

    def _definition(self, identity: Any) -> Any:
        """A function or class, complete if possible now: the data being read may call it."""
        made = self._ensure((DEFINITION, identity)).value
        state = (STATE, identity)
        if state not in self._done and len(self._open) < _DEEPEST:
            for key in (state, *self._parts[state][1]):
                if key not in self._open:
                    self._try(key)
        return made

    def _define(self, key: Key, skeleton: Any, known: _Read | None) -> Any:
        kind, *words = skeleton
        if kind == FUNCTION:
            return self._function(known and known.value, *words)
        if kind == CLASS:
            return self._class(*words)
        make, arguments, name = words
        own = self._namespace.own(MAIN, name)
        if type(own) is CACHED and own.__wrapped__ is arguments[0]:
            self._own.append(own)
            return own
        return make(*arguments)

    def _function(
        self,
        known: Any,
        code: Any,
        name: str,
        space: str,
        about: Mapping[str, Any],
        cells: tuple[int, ...],
    ) -> FunctionType:
        closure = tuple(self._cell(each) for each in cells)
        names = self._namespace.space(space, about)
        if (
            type(known) is FunctionType
            and known.__globals__ is names
            and _are_same(known.__closure__, closure)
        ):
            known.__code__ = code
            return known
        own = self._namespace.own(MAIN, name) if space == MAIN else None
        while own is not None:  # a decorator may have put another in its place
            if type(own) is FunctionType and own.__code__ == code and not own.__closure__:
                self._own.append(own)
                return own
            own = getattr(own, "__wrapped__", None)
        return FunctionType(code, names, None, None, closure or None)

    def _cell(self, number: int) -> CellType:
        return self._namespace.cells.setdefault(number, CellType())

    def _class(self, of_main: bool, make: Callable[..., type], arguments: tuple[Any, ...]) -> type:
        identity = arguments[-1]
        known = classes.tracked(identity)
        if known is not None:
            return known
        about = arguments[3]
        own = self._namespace.own(about["__module__"], about["__qualname__"]) if of_main else None
        if isinstance(own, type) and not classes.is_tracked(own):
            self._own.append(own)
            return classes.track(identity, own)
        return make(*arguments)

    # -- values ------------------------------------------------------------------------------------

    def _set(
        self, key: Key, value: Any, memo: Mapping[int, Any], data: memoryview, known: _Read | None
    ) -> tuple[Any, Mapping[int, Any]]:
        """Set the received value. Returns the value that is there now, and the objects in it by number."""
        if key[0] == STATE:
            self._set_state(self._ensure((DEFINITION, key[1])).value, value, known)
        elif key[0] == CELL:
            self._cell(key[1]).cell_contents = value
        else:
            kept = self._kept_in_place_of(key, value) if known is None else _MISSING
            if kept is not _MISSING:
                return kept, self._aligned(kept, value, memo, data)
            if key[0] == GLOBAL:
                self._namespace.space(key[1], {})[key[2]] = value
            else:
                type.__setattr__(self._ensure((DEFINITION, key[1])).value, key[2], value)
        self._namespace.revision += 1
        return value, memo

    def _set_state(self, target: Any, state: Any, known: _Read | None) -> None:
        is_new_here = known is None and any(each is target for each in self._own)
        if isinstance(target, type):
            if is_new_here:
                own = vars(target)
                state = {
                    name: value
                    for name, value in state.items()
                    if isinstance(value, classes.METHODS)
                    and not _are_same(_code(value), _code(own.get(name)))
                }
            classes.set_class_state(target, state)
        elif type(target) is FunctionType and len(state) == 3:
            attributes, slots, _ = state
            if is_new_here and not _has_other_defaults(target, slots):
                return
            vars(target).clear()
            vars(target).update(attributes)
            for name, value in slots.items():
                setattr(target, name, value)
            one_of = self._namespace.one_of
            if target.__defaults__:
                target.__defaults__ = tuple(map(one_of, target.__defaults__))
            if target.__kwdefaults__:
                target.__kwdefaults__ = {name: one_of(value) for name, value in target.__kwdefaults__.items()}
        elif not is_new_here:
            set_state(target, state)

    def _kept_in_place_of(self, key: Key, value: Any) -> Any:
        """The value that this process had at first, for one received for the first time, unless the client
        has changed it.

        The original state of a mutable object is unknown: it counts as unchanged.
        """
        if key[0] == GLOBAL:
            here, first = self._namespace.names, self._namespace.start if key[1] == MAIN else {}
        else:
            owner = self._ensure((DEFINITION, key[1])).value
            here = dict(vars(owner)) if any(each is owner for each in self._own) else {}
            first = lasting({key[2]: here[key[2]]} if key[2] in here else {})
        if key[2] not in first or _is_another(first[key[2]], value):
            return _MISSING
        return here.get(key[2], _MISSING)

    def _aligned(self, kept: Any, value: Any, memo: Mapping[int, Any], data: memoryview) -> Mapping[int, Any]:
        """The objects in `kept`, which is used instead of `value`, by the numbers of those in `value`."""
        if is_constant(kept):
            return memo
        file = io.BytesIO()
        pickler = ValuePickler(file, None, self._namespace.start)
        try:
            pickler.dump(kept)
        except Exception:  # raised by its own methods: then only the object as a whole is known
            file.truncate(0)
        if file.getvalue() == data:
            return dict(pickler.memo.copy().values())
        return {number: kept if each is value else each for number, each in memo.items()}


class _InTheMiddle(Exception):
    """Raised if a part is needed that is being read."""


def _is_another(first: Any, value: Any) -> bool:
    """Whether `value` differs from `first` (of `lasting`), which was in its place."""
    if first is MUTABLE:
        return False
    if is_constant(first):
        return not is_constant(value) or pickle.dumps(first, 5) != pickle.dumps(value, 5)
    return value is not first


def _has_other_defaults(own: FunctionType, slots: Mapping[str, Any]) -> bool:
    some, others = own.__defaults__ or (), slots["__defaults__"] or ()
    named, other_named = own.__kwdefaults__ or {}, slots["__kwdefaults__"] or {}
    if len(some) != len(others) or named.keys() != other_named.keys():
        return True
    pairs = [*zip(some, others, strict=True), *((named[name], other_named[name]) for name in named)]
    return any(_is_another(lasting({"": first})[""], value) for first, value in pairs)


def _are_same(some: Sequence[Any] | None, others: Sequence[Any] | None) -> bool:
    return len(some or ()) == len(others or ()) and all(map(operator.is_, some or (), others or ()))


def _code(value: Any) -> tuple[Any, ...]:
    """The functions in an attribute of a class, such as a property."""
    if isinstance(value, property):
        return value.fget, value.fset, value.fdel
    return (getattr(value, "__func__", value),)
