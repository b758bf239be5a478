"""Pickles: the base pickler, large buffers beside a pickle, constants, and what `multiprocessing` registers.

Only this package uses pickle and cloudpickle. The caller of `loads`, or of any other reader in this package,
is responsible for the origin of the bytes: a pickle may run any code. `calls` writes and reads tasks;
`results` writes and reads results and errors.

A *family* reader is a process of this machine that is related to this one (a child, parent or sibling). For
it, objects are pickled as `multiprocessing` registers them, where plain pickle would not do; and a forked
child has the classes of the program.

Some objects of a module are compared by identity, such as `dataclasses.MISSING`: with a copy, ``value is
MISSING`` would be false for the reader. They are sent by their name in that module (`place_of`).
"""

from __future__ import annotations

import copyreg
import importlib
import io
import pickle
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from multiprocessing.reduction import ForkingPickler
from types import FunctionType, ModuleType
from typing import Any

from nearfar.serialization.names import MAINS, is_found

SIMPLE = frozenset({type(None), bool, int, float, str, bytes})
"""Types whose pickles contain no names, and which no registry can change."""
_REGISTERED: dict[type, Any] = ForkingPickler._extra_reducers  # type: ignore[attr-defined]


def _all_registered() -> dict[type, Any]:
    return {**copyreg.dispatch_table, **_REGISTERED}


def _sizes_registered() -> tuple[int, int]:
    return len(copyreg.dispatch_table), len(_REGISTERED)


class FamilyPickler(pickle.Pickler):
    """`ForkingPickler` with a cheaper constructor, which takes half the time of pickling a small item.

    Call `refresh` before making one, so that it includes the types registered in the meantime.
    """

    # A separate dict: a ChainMap of both registries costs a microsecond for each lookup.
    dispatch_table = _all_registered()
    _sizes = _sizes_registered()

    @classmethod
    def refresh(cls) -> None:
        if cls._sizes != (sizes := _sizes_registered()):
            cls.dispatch_table = _all_registered()
            cls._sizes = sizes


def dumps(item: Any) -> bytes:
    """`item` for any process. Raises what pickling raises."""
    return pickle.dumps(item, protocol=5)


def dumps_for_family(item: Any) -> bytes:
    """`item` for a child, parent or sibling, as `multiprocessing` pickles it. Raises what that raises."""
    if type(item) in SIMPLE:
        return pickle.dumps(item, protocol=5)
    buffer = io.BytesIO()
    FamilyPickler.refresh()
    FamilyPickler(buffer).dump(item)
    return buffer.getvalue()


def loads(data: bytes | bytearray) -> Any:
    """Read a pickle, which may run any code: only from a trusted peer. Raises what unpickling raises."""
    return pickle.loads(data)


Buffers = Sequence[Any]
"""The buffers that `dump_parts` left beside a pickle, or others with the same bytes, in the same order."""

BESIDE = 32 * 1024
"""Bytes from which a buffer is sent beside its pickle, without a copy, instead of in it."""

BY_VALUE = b"C"
"""The first byte before a pickle that cloudpickle wrote. A plain one begins with 0x80."""

WITH_FUNCTION = b"F"
"""The first byte of a blob with a function's pickle, followed by a separate one of its arguments."""

WITH_CHANGEABLE_FUNCTION = b"G"
"""The same for a function that was pickled for this call, and whose parts must be compared."""

NAMES_SOMETHING = b"\x93"
"""The opcode in every pickle that refers to a class or function (and by chance in others)."""

UNSUITED = (pickle.PicklingError, AttributeError, TypeError)
"""What plain pickle raises for objects that cloudpickle may accept: lambdas, local classes, modules."""


def dump_parts(value: Any) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """`value` in plain pickle, and its buffers of `BESIDE` bytes or more. Raises what pickling raises."""
    buffers: list[pickle.PickleBuffer] = []
    return pickle.dumps(value, 5, buffer_callback=partial(keep_large, buffers)), buffers


class _Beside:
    """Replaces large bytes in a pickle, so that they are sent beside it: pickle itself would copy them."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> tuple[type[bytes], tuple[pickle.PickleBuffer]]:
        return bytes, (pickle.PickleBuffer(self.data),)


def with_bytes_beside(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a call for pickling, so that large bytes among them are sent beside the pickle."""
    for each in args:
        if type(each) is bytes and len(each) >= BESIDE:
            return tuple(_Beside(x) if type(x) is bytes and len(x) >= BESIDE else x for x in args)
    return args


def keep_large(buffers: list[pickle.PickleBuffer], buffer: pickle.PickleBuffer) -> bool:
    """A `buffer_callback` for `partial`: moves large ones to `buffers`, leaves small ones in the pickle."""
    try:
        large = buffer.raw().nbytes >= BESIDE
    except BufferError:  # not contiguous: pickle raises its own error
        return True
    if large:
        buffers.append(buffer)
    return not large


_SCALARS = frozenset({type(None), bool, int, float, complex, str, bytes, type(...), range})


MUTABLE = object()
"""Replaces a value that may change."""

_INNER = (type, FunctionType, type(lru_cache(abs)))
_DEFINITIONS = (*_INNER, ModuleType)


def lasting(names: Mapping[str, Any]) -> dict[str, Any]:
    """The definitions, modules and constants in `names`; `MUTABLE` for the rest, which is not kept alive.

    Includes the definitions inside its classes, under their ``__qualname__``.
    """
    kept = {
        name: value if isinstance(value, _DEFINITIONS) or is_constant(value) else MUTABLE
        for name, value in names.items()
    }
    for name, value in list(kept.items()):
        if isinstance(value, type):
            kept.update(defined_in(value, name))
    return kept


def defined_in(kind: type, name: str) -> Iterator[tuple[str, Any]]:
    """The classes and functions that are defined in the class called `name`, and in these, by
    ``__qualname__``; nothing if `kind` has another name.
    """
    if kind.__qualname__ != name:
        return
    for key, value in list(vars(kind).items()):
        inner = value.__func__ if isinstance(value, staticmethod) else value
        if not isinstance(inner, _INNER):
            continue
        qualname = f"{name}.{key}"
        if inner.__module__ == kind.__module__ and inner.__qualname__ == qualname:
            yield qualname, inner
            if isinstance(inner, type):
                yield from defined_in(inner, qualname)


def is_constant(value: Any) -> bool:
    """Whether `value` is a scalar, or a tuple or frozenset of constants."""
    kind = type(value)
    return kind in _SCALARS or (kind in (tuple, frozenset) and all(map(is_constant, value)))


_CONNECTION = b"multiprocessing.connection"
_UNMISTAKABLE = frozenset({"builtins", "functools", "socket"})
"""Modules whose registered types plain pickle refuses, or handles correctly."""

_marked = 0
_marks: tuple[bytes, ...] = ()


def is_mistaken(blob: bytes, family: bool) -> bool:
    """Whether the plain pickle `blob` may contain objects that plain pickle should not have pickled.

    `family`: the reader is related to this process. For another one, a connection is just a number.
    """
    return any(map(blob.__contains__, _family_marks())) if family else _CONNECTION in blob


def dump_parts_for_family(value: Any) -> tuple[bytes, list[pickle.PickleBuffer]] | None:
    """As `dump_parts`, but with `ForkingPickler`'s rules; None for what cannot be pickled so."""
    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    FamilyPickler.refresh()
    try:
        FamilyPickler(file, 5, buffer_callback=partial(keep_large, buffers)).dump(value)
    except UNSUITED:
        return None
    return file.getvalue(), buffers


def name_unreachable_classes() -> None:
    """Give an id to classes of the program that cannot be found by name, so that a process forked now has the
    ids, too: they are defined in functions, or a launcher runs the program in a namespace other than
    `__main__`.

    So an instance of such a class in a task's result is read here as one of the original class.
    """
    seen: set[int] = set()
    waiting: list[type] = [object]
    while waiting:
        kinds: list[type] = type.__subclasses__(waiting.pop())
        for kind in kinds:
            if id(kind) not in seen:
                seen.add(id(kind))
                waiting.append(kind)
                if kind.__module__ in MAINS and not is_found(kind):
                    from nearfar.serialization.pickles.classes import tracker_id

                    tracker_id(kind)


def _family_marks() -> tuple[bytes, ...]:
    global _marked, _marks
    types = ForkingPickler._extra_reducers  # type: ignore[attr-defined]
    if _marked != len(types):
        _marks = tuple(module.encode() for module in {each.__module__ for each in types} - _UNMISTAKABLE)
        _marked = len(types)
    return _marks


_held: dict[type, dict[int, tuple[Any, str]]] = {}
_bare: dict[int, tuple[Any, str, str]] = {}
_bare_modules = 0


def place_of(thing: Any) -> tuple[str, str] | None:
    """The module and the name of `thing`, if it is a stateless object held by a module; else None."""
    kind = type(thing)
    if kind is object:
        if _bare_modules != len(sys.modules):
            _index_bare()
        held = _bare.get(id(thing))
        return held and held[1:]
    known = _held.get(kind)
    if known is None:
        known = _held[kind] = _instances(kind)
    found = known.get(id(thing))
    return (kind.__module__, found[1]) if found else None


def held_by(module: str, name: str) -> Any:
    """The object `name` of `module`; a new `object()` if it is missing in this process."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return object()


def _index_bare() -> None:
    """Find the instances of `object` itself in all modules except the program's own."""
    global _bare_modules
    _bare_modules = len(sys.modules)
    _bare.clear()
    for module_name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and module_name not in MAINS and vars(module).get("__spec__"):
            for name, value in list(vars(module).items()):
                if type(value) is object:
                    _bare.setdefault(id(value), (value, module_name, name))


def _instances(kind: type) -> dict[int, tuple[Any, str]]:
    """The stateless instances of `kind` in the module of `kind`, by id."""
    module = sys.modules.get(kind.__module__)
    usual = all(getattr(kind, way) is getattr(object, way) for way in ("__reduce__", "__reduce_ex__"))
    if kind.__module__ in MAINS or module is None or not usual:
        return {}
    return {
        id(value): (value, name)
        for name, value in list(vars(module).items())
        if type(value) is kind and _is_stateless(value)
    }


def _is_stateless(value: Any) -> bool:
    try:
        _, _, state, items, pairs = value.__reduce_ex__(4)
    except Exception:  # an object that cannot be reduced is not a sentinel
        return False
    return state is None and items is None and pairs is None
