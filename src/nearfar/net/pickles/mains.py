"""What the functions of a client's `__main__` see as their globals in a worker process."""

from __future__ import annotations

import hashlib
import io
from abc import ABCMeta
from collections.abc import Mapping
from enum import Enum
from types import FunctionType, ModuleType
from typing import Any, cast
from weakref import WeakKeyDictionary

from cloudpickle import cloudpickle as internals

from nearfar.net.pickles.cloud import KnownClasses, ValuePickler, load_by_value
from nearfar.net.pickles.constants import MUTABLE, lasting
from nearfar.net.pickles.names import MAINS
from nearfar.net.pickles.parts import Buffers

_MOST_KEPT = 256


class Namespace:
    """One client's `__main__`, as far as it came with its functions: one dict for all of them, which lasts.

    A global arrives with each function that refers to it. It is set here when the client changed it since
    it last came (its pickle differs), so that what tasks here made of an unchanged one stays. Functions are
    always set. `names` is the dict; `start` is what the process had of that `__main__` by itself (it was
    forked, or imported the client's main module): it counts as having come. `unnamed`: the client sends even
    that by value, so a class that comes may be one of those.
    """

    def __init__(self, names: dict[str, Any], start: Mapping[str, Any], unnamed: bool) -> None:
        self.names = names
        self.start = start
        self._unnamed = unnamed
        self.revision = 0
        """Grows when something that had come before is set anew."""
        self._told = _Told(self, start)
        self._told_of_classes: WeakKeyDictionary[type, _Told] = WeakKeyDictionary()
        self._kept: dict[bytes, tuple[Any, int]] = {}

    def load(self, blob: Any, buffers: Buffers) -> Any:
        """What `cloud.dump_by_value` dumped, without the mark. Raises what unpickling raises."""
        reading = _Reading(self)
        value = load_by_value(blob, buffers, reading.substitutes())
        reading.finish()
        return value

    def load_kept(self, blob: bytes) -> Any:
        """The same for a function that depends on constants only: read once, while nothing was set anew."""
        function, revision = self._kept.get(blob, (None, -1))
        if revision != self.revision:
            function = self.load(memoryview(blob)[1:], ())
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[blob] = function, self.revision
        return function

    def own_class(self, module: str, name: str) -> type | None:
        """The class of this process's own `__main__` that the client's class of this name is."""
        own = self.start.get(name) if self._unnamed and module in MAINS else None
        return own if isinstance(own, type) and own.__qualname__ == name and own.__module__ in MAINS else None

    def set_global(self, name: str, value: Any) -> None:
        if name in self.names and not _same_function(self.names[name], value):
            self.revision += 1
        self.names[name] = value

    def hear(self, name: str, value: Any) -> None:
        """The client's value of a global has come."""
        if self._told.is_news(name, value):
            self.set_global(name, value)

    def hear_attribute(self, owner: type, name: str, value: Any) -> None:
        """The client's value of an attribute of a class has come."""
        told = self._told_of_classes.get(owner)
        if told is None:
            own = owner.__module__ in MAINS and self.start.get(owner.__name__) is owner
            told = self._told_of_classes[owner] = _Told(self, lasting(vars(owner)) if own else {})
        if told.is_news(name, value) and vars(owner).get(name) is not value:
            self.revision += 1
            setattr(owner, name, value)


class _Reading:
    """The reading of one pickle into a namespace.

    Functions are in place at once, for what is read may already call them. Other values are compared at
    the end: before that, they may be half made.
    """

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._globals: dict[str, Any] = {}
        self._attributes: dict[tuple[type, str], Any] = {}

    def substitutes(self) -> dict[str, Any]:
        classes = KnownClasses(self._hear_class, self._namespace.own_class)
        own = {"_make_function": self._make_function, "_function_setstate": self._set_function_state}
        return classes.substitutes() | own

    def finish(self) -> None:
        for name, value in self._globals.items():
            self._namespace.hear(name, value)
        for (owner, name), value in self._attributes.items():
            self._namespace.hear_attribute(owner, name, value)

    def _make_function(self, code: Any, names: dict[str, Any], *rest: Any) -> Any:
        if names.get("__name__") in MAINS:
            for name, value in names.items():
                self._namespace.names.setdefault(name, value)
            names = self._namespace.names
        return internals._make_function(code, names, *rest)

    def _set_function_state(self, function: FunctionType, state: tuple[Any, dict[str, Any]]) -> None:
        attributes, slots = state
        if function.__globals__ is self._namespace.names:
            for name, value in slots["__globals__"].items():
                self._hear_global(name, value)
            slots = {**slots, "__globals__": {}}
        internals._function_setstate(function, (attributes, slots))

    def _hear_global(self, name: str, value: Any) -> None:
        if isinstance(value, FunctionType):
            self._namespace.set_global(name, value)
        else:
            self._namespace.names.setdefault(name, value)
            self._globals[name] = value

    def _hear_class(self, owner: type, attributes: dict[str, Any], new: bool) -> None:
        if issubclass(owner, Enum):
            return  # made whole by its metaclass
        for name, value in attributes.items():
            if name == "_abc_impl":
                for subclass in value:
                    cast(ABCMeta, owner).register(subclass)
            elif not isinstance(value, FunctionType | staticmethod | classmethod | property):
                self._attributes[owner, name] = value
            elif not new:
                setattr(owner, name, value)


class _Told:
    """The last value that came of each name: a module or class as itself, others as a pickle's digest."""

    def __init__(self, namespace: Namespace, assumed: Mapping[str, Any]) -> None:
        self._namespace = namespace
        self._assumed = assumed
        self._tokens: dict[str, Any] = {}

    def is_news(self, name: str, value: Any) -> bool:
        """Whether the client's `value` is another than the last one that came."""
        token = self._token(value)
        if name in self._tokens:
            old = self._tokens[name]
        elif name in self._assumed:
            first = self._assumed[name]
            # Of a mutable object nobody knows any more what it was at first: it counts as the client's.
            old = token if first is MUTABLE else self._token(first)
        else:
            old = None
        self._tokens[name] = token
        return not (old is token or (type(old) is bytes and type(token) is bytes and old == token))

    def _token(self, value: Any) -> Any:
        if isinstance(value, type | ModuleType):
            return value
        file = io.BytesIO()
        try:
            _TokenPickler(file, self._namespace.names).dump(value)
        except Exception:  # whatever a value's own methods raise: what cannot be compared counts as changed
            return object()
        return hashlib.blake2b(file.getbuffer(), digest_size=16).digest()


class _TokenPickler(ValuePickler):
    """Pickles functions of a namespace without their globals, which are not part of the value."""

    at_home = True

    def __init__(self, file: io.BytesIO, names: dict[str, Any]) -> None:
        super().__init__(file, None, {})
        self._names = names

    def _dynamic_function_reduce(self, function: FunctionType) -> Any:
        make, arguments, (attributes, slots), *rest = super()._dynamic_function_reduce(function)
        if function.__globals__ is self._names:
            slots = {**slots, "__globals__": {}, "_cloudpickle_submodules": []}
        return make, arguments, (attributes, slots), *rest


def _same_function(old: Any, new: Any) -> bool:
    if old is new:
        return True
    if type(old) is not FunctionType or type(new) is not FunctionType:
        return False
    plain = old.__closure__ is new.__closure__ is None and old.__defaults__ is new.__defaults__ is None
    return plain and old.__kwdefaults__ is new.__kwdefaults__ is None and old.__code__ == new.__code__
