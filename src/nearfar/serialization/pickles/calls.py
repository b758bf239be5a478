"""A call to bytes (`CallPickler`) and back (`CallLoader`): the function by name or value, and its arguments.

======================  =====================================================================================
function field          blob
======================  =====================================================================================
``b"module:qualname"``  the arguments
``b""``                 ``F``, 4 bytes of length, the function, the arguments: a function that has not changed
``b""``                 ``G`` and the same: a function that may have changed
``b""``                 ``(function, arguments)``: any other callable
======================  =====================================================================================

The arguments are a tuple, or a list of tuple and dict if there are keyword arguments, or a chunk's items. A
part that cloudpickle wrote begins with ``C``, one that pickle wrote with 0x80, and bare arguments
(`nearfar.serialization.bare`) with 0x91.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast

import msgpack

from nearfar.errors import ItemError
from nearfar.serialization.bare import BARE, packer
from nearfar.serialization.names import MAINS, by_value_modules, find, name_of
from nearfar.serialization.pickles.cache import KeptFunctions
from nearfar.serialization.pickles.pickler import (
    BY_VALUE,
    MUTABLE,
    NAMES_SOMETHING,
    SIMPLE,
    UNSUITED,
    WITH_CHANGEABLE_FUNCTION,
    WITH_FUNCTION,
    Buffers,
    defined_in,
    dump_parts,
    dump_parts_for_family,
    is_mistaken,
    keep_large,
    lasting,
    with_bytes_beside,
)

if TYPE_CHECKING:
    from nearfar.serialization.pickles.main_module import Namespace
    from nearfar.serialization.pickles.replica import PartLedger


Parts = tuple[bytes, list[pickle.PickleBuffer]]

_MAIN = b"_main__"
_INSIDE = SIMPLE - {bytes}
"""Simple types that leave no buffer beside their pickle."""
_FEW = 4
"""Arguments, or items of a chunk, up to which checking their types is worthwhile."""


class CallPickler:
    """Pickles calls for the workers of one pool. Threads may share it.

    `far`: workers may be on other machines, so nothing of `__main__` is found there by name. Otherwise `main`
    is ``vars(sys.modules["__main__"])`` when the workers were started: its objects are sent by name, and
    arguments are pickled as in `multiprocessing.Pool` (`ForkingPickler`).

    A function's name is looked up once; the functions that have one are kept alive.
    """

    def __init__(self, *, far: bool, main: Mapping[str, Any] | None) -> None:
        self._main: Mapping[str, Any] | None = None if far else lasting(main or {})
        self._names: dict[int, bytes] = {}
        self._named: list[Any] = []
        self._kept = KeptFunctions(self._name, self._dump_function)
        self._ledger: PartLedger | None = None  # made late: its import costs some 20 ms

    @property
    def names(self) -> Mapping[int, bytes]:
        """The function fields of the functions named so far, by the functions' ids."""
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
        """Whether plain pickle may have named what the worker lacks, or differs from `ForkingPickler`."""
        if self._main is None:
            return _MAIN in blob or is_mistaken(blob, family=False) or by_value_modules()
        return (_MAIN in blob and self._has_changed()) or is_mistaken(blob, family=True)

    def _has_changed(self) -> bool:
        """Whether `__main__` has a class or function that the workers lack."""
        assert self._main is not None
        now = dict(vars(sys.modules["__main__"]))  # a copy, because other threads may change it
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
        """Pickle what plain pickle cannot, or not correctly. Raises its `error` if that fails, too."""
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
        from nearfar.serialization.pickles.replica import PartLedger, Shipment

        if self._ledger is None:
            self._ledger = PartLedger()
        return Shipment(self._ledger, self._main, family=self._main is not None).write(value)

    def _dump_function(self, function: FunctionType) -> bytes:
        return self._dump_by_value(function)[0]


def dump_bare(args: tuple[Any, ...]) -> bytes:
    """The blob of bare arguments."""
    try:
        return packer.pack((args,))
    except (OverflowError, ValueError):  # an integer, or a string, that msgpack refuses
        return pickle.dumps(args, 5)


_CALL = 0
_NOTHING: dict[str, Any] = {}


class CallLoader:
    """Reads what a `CallPickler` wrote. One in each worker process, for one thread.

    `main_of` names the client whose `__main__` this process has as its own, because it was forked from it
    or imported its main module; None: no client. `far` is that of the client's pickler. Make the loader
    before any task runs.
    """

    def __init__(self, main_of: str | None = None, *, far: bool = True) -> None:
        self._far = far
        self._named: dict[bytes, Callable[..., Any]] = {}
        self._spaces: dict[str, Namespace] = {}
        self._main_of = main_of
        self._start = {} if main_of is None else lasting(vars(sys.modules["__main__"]))

    def load(
        self, function: bytes, mode: int, blob: bytes | memoryview, buffers: Buffers, client: str
    ) -> tuple[Callable[..., Any], Any, dict[str, Any]]:
        """The function, its positional arguments (of a chunk: its items), and its keyword arguments.

        Without keyword arguments, and for a chunk (`mode` is not 0), the last is one empty dict for all: not
        to be changed. `client` is the owner of the `__main__` in question. Raises `ImportError` for what this
        host cannot import, `ItemError` for a malformed call, and what unpickling raises.
        """
        if function:
            func = self.find(function)
            mark = blob[:1]
            if mark == BARE:
                return func, msgpack.unpackb(blob, use_list=False)[0], _NOTHING
            if mark == BY_VALUE:
                payload = self.space(client).load(memoryview(blob)[1:], buffers)
            else:
                payload = pickle.loads(blob, buffers=buffers)
        else:
            func, payload = self._load_with_function(blob, buffers, client)
        if mode != _CALL or type(payload) is tuple:
            return func, payload, _NOTHING
        return func, *_split(payload)

    def find(self, function: bytes) -> Callable[..., Any]:
        """The function of that name. Raises `ImportError` and `ItemError`."""
        func = self._named.get(function)
        if func is None:
            func = self._named[bytes(function)] = self._find(bytes(function))
        return func

    def space(self, client: str) -> Namespace:
        """The globals of a client's `__main__`, as far as they were received here."""
        space = self._spaces.get(client)
        if space is None:
            from nearfar.serialization.pickles.main_module import Namespace

            if client == self._main_of:
                space = Namespace(vars(sys.modules["__main__"]), self._start, self._far)
            else:
                space = Namespace({}, {}, self._far)
            self._spaces[client] = space
        return space

    def forget(self, client: str) -> None:
        """Drop what was kept of a client that will not return."""
        self._spaces.pop(client, None)

    def _find(self, function: bytes) -> Callable[..., Any]:
        module, _, name = function.decode(errors="replace").partition(":")
        # A task may have replaced it since.
        found = self._start.get(name, MUTABLE) if module in MAINS else MUTABLE
        if found is MUTABLE:
            found = find(function)
        if not callable(found):
            raise ItemError(f"{function!r} is not the name of a function")
        return cast(Callable[..., Any], found)

    def _load_with_function(self, blob: bytes | memoryview, buffers: Buffers, client: str) -> tuple[Any, Any]:
        mark = blob[:1]
        if mark in (WITH_FUNCTION, WITH_CHANGEABLE_FUNCTION):
            end = 5 + int.from_bytes(blob[1:5], "big")
            space = self.space(client)
            if mark == WITH_FUNCTION:
                func = space.load_kept(bytes(blob[5:end]))
            else:
                func = space.load(memoryview(blob)[6:end], ())
            return func, self._load(memoryview(blob)[end:], buffers, client)
        pair = self._load(blob, buffers, client)
        if type(pair) is not tuple or len(pair) != 2 or not callable(pair[0]):
            raise ItemError(f"a {type(pair).__name__} came in the place of a function and its arguments")
        return pair

    def _load(self, blob: bytes | memoryview, buffers: Buffers, client: str) -> Any:
        if blob[:1] == BY_VALUE:
            return self.space(client).load(memoryview(blob)[1:], buffers)
        return pickle.loads(blob, buffers=buffers)


def _split(payload: Any) -> tuple[Any, dict[str, Any]]:
    if type(payload) is list and len(payload) == 2:
        args, kwargs = payload
        if type(args) is tuple and type(kwargs) is dict:
            return args, kwargs
    raise ItemError(f"a {type(payload).__name__} came in the place of arguments")
