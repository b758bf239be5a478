"""Functions and classes by value. Import this module late: cloudpickle costs about 20 ms."""

from __future__ import annotations

import functools
import io
import os
import pickle
import socket
import sys
import typing
from collections import ChainMap
from collections.abc import Callable, Mapping
from multiprocessing.reduction import ForkingPickler
from types import CodeType, FunctionType
from typing import Any, ClassVar

import cloudpickle
from cloudpickle import cloudpickle as internals

from nearfar.errors import ItemError
from nearfar.net.process import BYTECODE, PYTHON
from nearfar.net.validation import shown
from nearfar.serialization.names import MAINS, is_named
from nearfar.serialization.pickles import classes
from nearfar.serialization.pickles.classes import by_name, is_of_the_language, reduce_class
from nearfar.serialization.pickles.pickler import BY_VALUE, Buffers, held_by, keep_large, place_of

Substitutes = Mapping[Callable[..., Any], Callable[..., Any]]
"""Functions that a reader uses instead of those that a pickle names."""

_NO_REDUCE: Any = object.__reduce__
_NOWHERE = "<dynamic-code>"
CACHED = type(functools.lru_cache(abs))
_DISPATCHING: Any = functools.singledispatch(abs).__code__  # type: ignore[attr-defined]
_PARAMETERS = tuple(
    getattr(typing, name) for name in ("ParamSpec", "TypeVarTuple", "NewType") if hasattr(typing, name)
)


def dump_by_value(
    value: Any, main: Mapping[str, Any] | None = None, family: bool = False
) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """`value` by cloudpickle, marked as such, and its large buffers.

    `main` is the part of `__main__` that the reader has: it is sent by name. `family`: the reader is a
    process of this machine, started by this one. Raises what pickling raises.
    """
    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    pickler = pickler_for(family)(file, functools.partial(keep_large, buffers), main or {})
    pickler.dump(value)
    return BY_VALUE + heading(pickler.has_code) + file.getvalue(), buffers


def load_by_value(blob: Any, buffers: Buffers, substitutes: Substitutes) -> Any:
    """What `dump_by_value` dumped, without the mark. Raises what unpickling raises, and `ItemError` for
    functions of another Python.
    """
    return ValueUnpickler(check_heading(blob), buffers, substitutes).load()


# -- compatibility of bytecode -----------------------------------------------------------------------


def heading(has_code: bool) -> bytes:
    """The bytes before a pickle by value: the Python whose code it contains, or none."""
    words = f"{BYTECODE} {PYTHON}".encode() if has_code else b""
    return bytes((len(words),)) + words


def check_heading(blob: Any) -> memoryview:
    """What follows a `heading`. Raises `ItemError` if this Python cannot run the code that follows."""
    view = memoryview(blob)
    end = 1 + (view[0] if view else 0)
    if end > 1:
        bytecode, _, python = bytes(view[1:end]).decode(errors="replace").partition(" ")
        if bytecode != BYTECODE:
            raise ItemError(
                f"a function or class came by value from {shown(python)}, whose bytecode {PYTHON} cannot run"
                f" (process {os.getpid()} on {socket.gethostname()}): put it into a module that both can"
                " import, so that it is sent by name, or use the same Python on both sides"
            )
    return view[end:]


# -- writing -----------------------------------------------------------------------------------------


def _refuse(thing: Any) -> Any:
    raise TypeError(f"cannot pickle {type(thing).__name__!r} object")


def _reduce_file(file: io.TextIOWrapper) -> Any:
    return internals._file_reduce(file) if file in (sys.stdout, sys.stderr) else _refuse(file)


def _reduce_cached_property(thing: Any) -> Any:
    return _cached_property, (thing.func, thing.attrname)


def _reduce_partial_method(thing: Any) -> Any:
    return _partial_method, (thing.func, thing.args, dict(thing.keywords))


def _reduce_dispatching_method(thing: Any) -> Any:
    reduced: Any = object.__reduce_ex__(thing, 5)
    make, arguments, state, *rest = reduced
    if "_method_cache" in state:  # of Python 3.13: weak references; None disables it
        state = {**state, "_method_cache": None}
    return make, arguments, state, *rest


def _reduce_parameter(thing: Any) -> Any:
    """A type parameter or a new type, which pickle can only send by name."""
    name: str = thing.__name__
    if thing.__module__ not in MAINS and vars(sys.modules[thing.__module__]).get(name) is thing:
        return name
    supertype = (thing.__supertype__,) if hasattr(thing, "__supertype__") else ()
    return _parameter, (type(thing), thing.__name__, *supertype, thing.__module__)


class ValuePickler(cloudpickle.Pickler):  # type: ignore[misc] # cloudpickle has no types
    """cloudpickle's pickler, extended so that copies behave like the originals.

    It sends by name what the reader has of `__main__`; supports complete classes (`classes`), functions with
    a cache and generic functions; and sends singletons of a module by name (`place_of`). Unlike cloudpickle,
    it does not turn an open file into a string or a memoryview into bytes: like pickle, it refuses them.
    """

    dispatch_table: ClassVar[ChainMap[Any, Any]] = ChainMap(
        {
            io.TextIOWrapper: _reduce_file,
            memoryview: _refuse,
            functools.cached_property: _reduce_cached_property,
            functools.partialmethod: _reduce_partial_method,
            functools.singledispatchmethod: _reduce_dispatching_method,
            **dict.fromkeys(_PARAMETERS, _reduce_parameter),
        },
        cloudpickle.Pickler.dispatch_table,
    )
    at_home = False

    def __init__(self, file: io.BytesIO, keep: Callable[[Any], Any] | None, main: Mapping[str, Any]) -> None:
        super().__init__(file, protocol=5, buffer_callback=keep)
        self._main = main
        self.has_code = False
        """Whether bytecode was pickled."""

    def reducer_override(self, thing: Any) -> Any:
        if self.is_definition(thing):
            return self._reduce_definition(thing)
        kind = type(thing)
        if kind is CodeType:
            self.has_code = True
            return _reduce_code(thing)
        if isinstance(thing, type):
            return internals._class_reduce(thing) if is_of_the_language(thing) else NotImplemented
        if kind is FunctionType or kind is CACHED:
            return NotImplemented
        if kind.__module__ == "multiprocessing.connection" and not self.at_home:
            raise TypeError(f"cannot pickle {kind.__name__!r} object for another machine")
        place = place_of(thing)
        if place is not None:
            return held_by, place
        if kind.__module__ in MAINS and kind.__reduce__ is not _NO_REDUCE and kind not in self.dispatch_table:
            reduced = thing.__reduce_ex__(5)
            return self._reduce_global(thing, reduced) if isinstance(reduced, str) else reduced
        return NotImplemented

    def _reduce_global(self, thing: Any, name: str) -> Any:
        """The reduction of an object that claims to be the program's global of that name."""
        return main_global, (name,)

    def is_definition(self, thing: Any) -> bool:
        """Whether `thing` is a function or a class that the reader cannot find by name."""
        if isinstance(thing, type):
            if is_of_the_language(thing):
                return False
        elif type(thing) is CACHED:
            return thing.__module__ in MAINS and not is_named(thing, self._main)
        elif type(thing) is not FunctionType:
            return False
        return not is_named(thing, self._main) if thing.__module__ in MAINS else not by_name(thing)

    def _reduce_definition(self, thing: Any) -> Any:
        if isinstance(thing, type):
            return reduce_class(thing)
        if type(thing) is FunctionType and not is_dispatching(thing):
            return self._dynamic_function_reduce(thing)
        make, arguments, state = parts_of(thing)
        return make, arguments, state, None, None, set_state


class FamilyValuePickler(ValuePickler):
    # A view of the registries of ForkingPickler and of copyreg, so types registered later are found, too.
    dispatch_table: ClassVar[ChainMap[Any, Any]] = ChainMap(
        ForkingPickler._extra_reducers,  # type: ignore[attr-defined]
        ValuePickler.dispatch_table,
    )
    at_home = True


def pickler_for(family: bool) -> type[ValuePickler]:
    """The pickler for a process of this machine, started by this one (`family`), or for any other."""
    return FamilyValuePickler if family else ValuePickler


def _reduce_code(code: CodeType) -> Any:
    """As cloudpickle, but with the file name, which it drops from 3.1.3 on: tracebacks need it."""
    make, parts = internals._code_reduce(code)
    return make, tuple(code.co_filename if part == _NOWHERE else part for part in parts)


def main_global(name: str) -> Any:
    """The global of this process's `__main__`."""
    return getattr(sys.modules["__main__"], name)


# -- wrappers of the standard library ----------------------------------------------------------------


def is_dispatching(function: FunctionType) -> bool:
    """Whether `functools.singledispatch` made it."""
    return function.__code__ is _DISPATCHING


def parts_of(thing: Any) -> tuple[Callable[..., Any], tuple[Any, ...], Any]:
    """The maker of a function with a cache, or of a generic function, its arguments, and the state."""
    attributes = {name: value for name, value in vars(thing).items() if name not in _DISPATCHERS}
    if type(thing) is CACHED:
        parameters = thing.cache_parameters()
        return _cached, (thing.__wrapped__, parameters["maxsize"], parameters["typed"]), (attributes, [])
    registry = [
        (kind, implementation) for kind, implementation in thing.registry.items() if kind is not object
    ]
    return functools.singledispatch, (thing.registry[object],), (attributes, registry)


_DISPATCHERS = frozenset({"register", "dispatch", "registry", "_clear_cache"})


def set_state(made: Any, state: tuple[dict[str, Any], list[tuple[Any, Any]]]) -> Any:
    """Set the state that `parts_of` returned."""
    attributes, registry = state
    vars(made).update(attributes)
    for kind, implementation in registry:
        made.register(kind, implementation)
    return made


def _cached(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


def _cached_property(function: Any, name: str | None) -> Any:
    made: functools.cached_property[Any] = functools.cached_property(function)
    made.attrname = name
    return made


def _partial_method(function: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    return functools.partialmethod(function, *args, **keywords)


def _parameter(kind: type, name: str, *rest: Any) -> Any:
    *supertype, module = rest
    made = kind(name, *supertype)
    made.__module__ = module
    return made


# -- reading -----------------------------------------------------------------------------------------


class ValueUnpickler(pickle.Unpickler):
    """Reads what a `ValuePickler` wrote, with substitutes for some of the functions that it names."""

    def __init__(
        self,
        data: Any,
        buffers: Buffers,
        substitutes: Substitutes,
        shared: Callable[[Any], Any] | None = None,
    ) -> None:
        """`shared` returns the objects that are in other parts."""
        super().__init__(io.BytesIO(data), buffers=buffers)
        self._shared = shared
        self._substitutes = {(each.__module__, each.__name__): own for each, own in substitutes.items()}

    def find_class(self, module: str, name: str) -> Any:
        return self._substitutes.get((module, name)) or super().find_class(module, name)

    def persistent_load(self, place: Any) -> Any:
        if self._shared is None:
            raise pickle.UnpicklingError("the pickle refers to an object of another part, but has no parts")
        return self._shared(place)


class KnownClasses:
    """Reuses known classes while a pickle by value is read.

    A class that is known in this process is used as it is. Another one is made.
    """

    def __init__(self) -> None:
        self._known: list[type] = []

    def substitutes(self) -> Substitutes:
        """For `load_by_value`."""
        return {
            classes.make_class: functools.partial(self._known_or_made, classes.make_class),
            classes.make_enum: functools.partial(self._known_or_made, classes.make_enum),
            classes.set_class_state: self._set_state,
        }

    def _known_or_made(self, make: Callable[..., type], *arguments: Any) -> type:
        known = classes.tracked(arguments[-1])
        if known is None:
            return make(*arguments)
        self._known.append(known)
        return known

    def _set_state(self, made: type, state: dict[str, Any]) -> type:
        if not any(made is known for known in self._known):
            classes.set_class_state(made, state)
        return made
