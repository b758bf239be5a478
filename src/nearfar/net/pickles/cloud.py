"""What cloudpickle adds. Import this module late: its import costs some 20 ms, and most pools do without."""

from __future__ import annotations

import functools
import io
import pickle
import sys
from collections import ChainMap
from collections.abc import Callable, Mapping
from multiprocessing.reduction import ForkingPickler
from types import CodeType, FunctionType
from typing import Any, ClassVar

import cloudpickle
from cloudpickle import cloudpickle as internals

from nearfar.net.pickles.names import MAINS
from nearfar.net.pickles.parts import BY_VALUE, Buffers, keep_large

Substitutes = Mapping[str, Callable[..., Any]]
"""What a reader uses in the place of cloudpickle's own functions, by name."""

_NOWHERE = "<dynamic-code>"
_CACHED = type(functools.lru_cache(abs))


def dump_by_value(
    value: Any, main: Mapping[str, Any] | None = None, family: bool = False
) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """`value` by cloudpickle, marked as such, and its large buffers.

    What `main` holds of `__main__`, the reader has: it travels by name. `family` says that the reader is
    a process of this machine, started by this one. Raises what pickling raises.
    """
    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO(BY_VALUE)
    file.seek(0, io.SEEK_END)
    (_FamilyValuePickler if family else ValuePickler)(
        file, functools.partial(keep_large, buffers), main or {}
    ).dump(value)
    return file.getvalue(), buffers


def load_by_value(blob: Any, buffers: Buffers, substitutes: Substitutes) -> Any:
    """What `dump_by_value` dumped, without the mark. Raises what unpickling raises."""
    return _ValueUnpickler(blob, buffers, substitutes).load()


def _refuse(thing: Any) -> Any:
    raise TypeError(f"cannot pickle {type(thing).__name__!r} object")


def _reduce_file(file: io.TextIOWrapper) -> Any:
    return internals._file_reduce(file) if file in (sys.stdout, sys.stderr) else _refuse(file)


class ValuePickler(cloudpickle.Pickler):  # type: ignore[misc] # cloudpickle has no types
    """cloudpickle's, which also knows what of `__main__` the reader has, and sends `lru_cache` by value.

    It does not make a string of an open file or bytes of a memoryview: as with pickle, they cannot travel.
    """

    dispatch_table: ClassVar[ChainMap[Any, Any]] = ChainMap(
        {io.TextIOWrapper: _reduce_file, memoryview: _refuse}, cloudpickle.Pickler.dispatch_table
    )
    at_home = False

    def __init__(self, file: io.BytesIO, keep: Callable[[Any], Any] | None, main: Mapping[str, Any]) -> None:
        super().__init__(file, protocol=5, buffer_callback=keep)
        self._main = main

    def reducer_override(self, thing: Any) -> Any:
        if isinstance(thing, type | FunctionType):
            return self._reduce_definition(thing)
        if type(thing) is CodeType:
            return _reduce_code(thing)
        if type(thing) is _CACHED and thing.__module__ in MAINS:
            return NotImplemented if self._is_there(thing) else _reduce_cached(thing)
        if type(thing).__module__ == "multiprocessing.connection" and not self.at_home:
            raise TypeError(f"cannot pickle {type(thing).__name__!r} object for another machine")
        return NotImplemented

    def _reduce_definition(self, thing: Any) -> Any:
        if thing.__module__ in MAINS and self._is_there(thing):
            return NotImplemented
        if thing.__module__ == "__mp_main__":  # which cloudpickle would take for any module
            is_class = isinstance(thing, type)
            return (
                internals._dynamic_class_reduce(thing) if is_class else self._dynamic_function_reduce(thing)
            )
        return super().reducer_override(thing)

    def _is_there(self, thing: Any) -> bool:
        name = thing.__qualname__
        return self._main.get(name) is thing and getattr(sys.modules["__main__"], name, None) is thing


class _FamilyValuePickler(ValuePickler):
    # A view of the registries of ForkingPickler and of copyreg, so types registered later are found, too.
    dispatch_table: ClassVar[ChainMap[Any, Any]] = ChainMap(
        ForkingPickler._extra_reducers,  # type: ignore[attr-defined]
        ValuePickler.dispatch_table,
    )
    at_home = True


def _reduce_code(code: CodeType) -> Any:
    """As cloudpickle, which from 3.1.3 on forgets in which file it stands: tracebacks are to tell."""
    make, parts = internals._code_reduce(code)
    return make, tuple(code.co_filename if part == _NOWHERE else part for part in parts)


def _reduce_cached(function: Any) -> Any:
    parameters = function.cache_parameters()
    return _cached, (function.__wrapped__, parameters["maxsize"], parameters["typed"])


def _cached(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


class _ValueUnpickler(pickle.Unpickler):
    def __init__(self, blob: Any, buffers: Buffers, substitutes: Substitutes) -> None:
        super().__init__(io.BytesIO(blob), buffers=buffers)
        self._substitutes = substitutes

    def find_class(self, module: str, name: str) -> Any:
        if module == internals.__name__ and name in self._substitutes:
            return self._substitutes[name]
        return super().find_class(module, name)


class KnownClasses:
    """Classes that came by value to a process that may have them already, during one reading.

    cloudpickle gives a class that is known here back as itself, but first sets all its attributes to the
    copies that came. `heard` (class, attributes, whether it was made just now) decides instead what becomes
    of those; without it, nothing: the class here is the true one. `found` (module, name) may know a class
    that never travelled.
    """

    def __init__(
        self,
        heard: Callable[[type, dict[str, Any], bool], None] | None = None,
        found: Callable[[str, str], type | None] | None = None,
    ) -> None:
        self._heard = heard
        self._found = found
        self._known: list[type] = []

    def substitutes(self) -> dict[str, Callable[..., Any]]:
        return {
            "_make_skeleton_class": self._skeleton(internals._make_skeleton_class),
            "_make_skeleton_enum": self._skeleton(internals._make_skeleton_enum),
            "_class_setstate": self._set_state,
        }

    def _skeleton(self, make: Callable[..., type]) -> Callable[..., type]:
        def known_or_made(*arguments: Any) -> type:
            known = self._known_class(make, *arguments)
            if known is None:
                return make(*arguments)
            self._known.append(known)
            return known

        return known_or_made

    def _known_class(self, make: Callable[..., type], *arguments: Any) -> type | None:
        identity = arguments[-2]
        known: type | None = internals._DYNAMIC_CLASS_TRACKER_BY_ID.get(identity)
        if known is not None or self._found is None or identity is None:
            return known
        if make is internals._make_skeleton_enum:
            found = self._found(arguments[4], arguments[1])
        else:
            found = self._found(arguments[3].get("__module__", ""), arguments[1])
        if found is None or found in internals._DYNAMIC_CLASS_TRACKER_BY_CLASS:
            return None  # or it is another class of the sender's, who has since defined it anew
        internals._lookup_class_or_track(identity, found)
        return found

    def _set_state(self, made: type, state: tuple[dict[str, Any], Any]) -> type:
        new = not any(made is known for known in self._known)
        if new:
            internals._class_setstate(made, state)
        if self._heard is not None:
            self._heard(made, state[0], new)
        return made
