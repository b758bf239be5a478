"""A function and its arguments to bytes; `loader` is the other end.

======================  =====================================================================================
function field          blob
======================  =====================================================================================
``b"module:qualname"``  the arguments
``b""``                 ``F``, 4 bytes of length, the function, the arguments: a function that has not changed
``b""``                 ``G`` and the same: a function that may have changed
``b""``                 ``(function, arguments)``: any other that can be called
======================  =====================================================================================

The arguments are a tuple, or a list of tuple and dict where there are keyword arguments, or a chunk's
items. What cloudpickle wrote begins with ``C``, what pickle wrote with 0x80.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any

from nearfar.net.pickles import SIMPLE
from nearfar.net.pickles.constants import defined_in, lasting
from nearfar.net.pickles.family import dump_parts_for_family, is_mistaken
from nearfar.net.pickles.kept import KeptFunctions
from nearfar.net.pickles.names import MAINS, by_value_modules, name_of
from nearfar.net.pickles.parts import (
    NAMES_SOMETHING,
    UNSUITED,
    WITH_CHANGEABLE_FUNCTION,
    WITH_FUNCTION,
    dump_parts,
    keep_large,
    with_bytes_beside,
)

if TYPE_CHECKING:
    from nearfar.net.pickles.replica import Ledger

Parts = tuple[bytes, list[pickle.PickleBuffer]]

_MAIN = b"_main__"
_INSIDE = SIMPLE - {bytes}
"""Types that leave nothing beside their pickle, either."""
_FEW = 4
"""Arguments, or items of a chunk, that are worth a look at their types."""


class CallPickler:
    """Pickles calls for the workers of one pool. Threads may share it.

    `far`: workers may live on other machines, so nothing of `__main__` is found there by name. Otherwise
    `main` is what ``vars(sys.modules["__main__"])`` was when the workers were started: what it holds travels
    by name, and arguments pickle as the standard's pool pickles them (`ForkingPickler`).

    A function's name is looked up once; the functions that have one are kept alive.
    """

    def __init__(self, *, far: bool, main: Mapping[str, Any] | None) -> None:
        self._main: Mapping[str, Any] | None = None if far else lasting(main or {})
        self._names: dict[int, bytes] = {}
        self._named: list[Any] = []
        self._kept = KeptFunctions(self._name, self._dump_function)
        self._ledger: Ledger | None = None  # made late: its import costs some 20 ms

    @property
    def names(self) -> Mapping[int, bytes]:
        """The function fields of the functions named so far, by their ids."""
        return self._names

    def dump_call(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any] | None = None
    ) -> tuple[bytes, bytes, list[pickle.PickleBuffer]]:
        """The function field, the blob and the large buffers of ``func(*args, **kwargs)``.

        Raises what pickling raises.
        """
        if type(args) is not tuple:
            args = tuple(args)
        args = with_bytes_beside(args)
        return self._dump(func, [args, dict(kwargs)] if kwargs else args)

    def dump_chunk(
        self, func: Callable[..., Any], items: list[Any] | tuple[Any, ...] | range
    ) -> tuple[bytes, bytes, list[pickle.PickleBuffer]]:
        """The same for the calls of `func` with each of `items`. Raises what pickling raises."""
        return self._dump(func, items)

    def _dump(self, func: Any, payload: Any) -> tuple[bytes, bytes, list[pickle.PickleBuffer]]:
        name = self._names.get(id(func))
        if name is None:
            name = self._name(func)
            if name is None:
                return b"", *self._dump_with_function(func, payload)
        if type(payload) is tuple and len(payload) <= _FEW and _INSIDE.issuperset(map(type, payload)):
            return name, pickle.dumps(payload, 5), []
        buffers: list[pickle.PickleBuffer] = []
        try:  # as dump_parts, whose call would cost a tenth of all this
            blob = pickle.dumps(payload, 5, buffer_callback=partial(keep_large, buffers))
        except UNSUITED as error:
            return name, *self._dump_otherwise(payload, error)
        if NAMES_SOMETHING in blob and self._is_wrong(blob):
            return name, *self._dump_otherwise(payload, None)
        return name, blob, buffers

    def _name(self, thing: Any) -> bytes | None:
        known = self._names.get(id(thing))
        if known is None:
            known = name_of(thing, self._main)
            if known is not None:
                self._named.append(thing)
                self._names[id(thing)] = known
        return known

    def _dump_with_function(self, func: Any, payload: Any) -> Parts:
        if type(func) is FunctionType:
            kept = self._kept.get(func)
            mark = WITH_CHANGEABLE_FUNCTION if kept is None else WITH_FUNCTION
            if kept is None:
                kept = self._dump_function(func)
            blob, buffers = self._dump_payload(payload)
            return b"%b%b%b%b" % (mark, len(kept).to_bytes(4, "big"), kept, blob), buffers
        return self._dump_payload((func, payload))

    def _dump_payload(self, payload: Any) -> Parts:
        try:
            blob, buffers = dump_parts(payload)
        except UNSUITED as error:
            return self._dump_otherwise(payload, error)
        if NAMES_SOMETHING in blob and self._is_wrong(blob):
            return self._dump_otherwise(payload, None)
        return blob, buffers

    def _is_wrong(self, blob: bytes) -> bool:
        """Whether plain pickle may have named what the worker lacks, or not done as `ForkingPickler` does."""
        if self._main is None:
            return _MAIN in blob or is_mistaken(blob, family=False) or by_value_modules()
        return (_MAIN in blob and self._has_changed()) or is_mistaken(blob, family=True)

    def _has_changed(self) -> bool:
        """Whether `__main__` holds a class or function that the workers have not."""
        assert self._main is not None
        now = dict(vars(sys.modules["__main__"]))  # a copy, for other threads may change it
        for name, value in now.items():
            if not isinstance(value, type | FunctionType) or value.__module__ not in MAINS:
                continue
            if self._main.get(name) is not value:
                return True
            if isinstance(value, type):
                for inner_name, inner in defined_in(value, name):
                    if isinstance(inner, type) and self._main.get(inner_name) is not inner:
                        return True
        return False

    def _dump_otherwise(self, payload: Any, error: Exception | None) -> Parts:
        """Pickle what plain pickle cannot, or not rightly. Raises its `error` if nothing can."""
        family = None if self._main is None else dump_parts_for_family(payload)
        if family is not None and not (_MAIN in family[0] and self._has_changed()):
            return family
        try:
            return self._dump_by_value(payload)
        except UNSUITED:
            if error is None:
                raise
            raise error from None

    def _dump_by_value(self, value: Any) -> Parts:
        from nearfar.net.pickles.replica import Ledger, Shipment

        if self._ledger is None:
            self._ledger = Ledger()
        return Shipment(self._ledger, self._main, family=self._main is not None).write(value)

    def _dump_function(self, function: FunctionType) -> bytes:
        return self._dump_by_value(function)[0]


def dump_bare(args: tuple[Any, ...]) -> bytes:
    """The blob of arguments that are numbers, strings, bytes or None."""
    return pickle.dumps(args, 5)
