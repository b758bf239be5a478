"""A task's result or error, to bytes and back; an error always comes with its traceback."""

from __future__ import annotations

import contextlib
import pickle
import sys
from functools import partial
from itertools import pairwise
from multiprocessing.pool import MaybeEncodingError, RemoteTraceback  # type: ignore[attr-defined]
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

from nearfar.errors import ItemError, RemoteError
from nearfar.serialization.bare import BARE, pack_bare, unpack_bare
from nearfar.serialization.pickles.pickler import (
    BY_VALUE,
    NAMES_SOMETHING,
    SIMPLE,
    UNSUITED,
    Buffers,
    dump_parts,
    dump_parts_for_family,
    is_mistaken,
)
from nearfar.serialization.tracebacks import (
    described,
    prefixed,
    quietly,
    split,
    traceback_of,
    with_traceback,
)

_MAIN = b"_main__"


def dump_result(
    value: Any, *, main: bool = False, family: bool = False
) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """`value` and its buffers of 32 KiB or more, which are parts of it, not copies.

    `family`: the client that reads it is this process's parent. `main`: it has the same `__main__` as this
    process. Raises what pickling raises.
    """
    if not family and (bare := pack_bare(value)) is not None:
        return bare, []
    if type(value) in SIMPLE:
        return pickle.dumps(value, 5), []
    try:
        blob, buffers = dump_parts(value)
    except UNSUITED as error:
        return _dump_otherwise(value, main, family, error)
    if NAMES_SOMETHING in blob and ((_MAIN in blob and not main) or is_mistaken(blob, family)):
        return _dump_otherwise(value, main, family, None)
    return blob, buffers


def load_result(blob: bytes | memoryview, buffers: Buffers = ()) -> Any:
    """What `dump_result` dumped, in the client's process. Raises what unpickling raises.

    A class that the client sent by value comes back as the client's own, unchanged.
    """
    mark = blob[:1]
    if mark == BARE:
        return unpack_bare(blob)
    if mark != BY_VALUE:
        return pickle.loads(blob, buffers=buffers)
    from nearfar.serialization.pickles.by_value import KnownClasses, load_by_value

    return load_by_value(memoryview(blob)[1:], buffers, KnownClasses().substitutes())


def _dump_otherwise(
    value: Any, main: bool, family: bool, error: Exception | None
) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """Pickle what plain pickle cannot, or not correctly. Raises its `error` if that fails, too."""
    parts = dump_parts_for_family(value) if family else None
    if parts is not None and (main or _MAIN not in parts[0]):
        return parts
    from nearfar.serialization.pickles.by_value import dump_by_value

    try:
        return dump_by_value(value, vars(sys.modules["__main__"]) if main else None, family)
    except UNSUITED:
        if error is None:
            raise
        raise error from None


LONGEST_CHAIN = 8
"""Exceptions sent back, at most: one, the one it was raised from, and so on. The traceback shows all."""
DEEPEST = 8
"""Levels of nested exceptions that are compared."""
LARGEST = 1 << 20
"""Bytes of the pickle of an attribute or argument that is sent with its exception, at most."""
_MADE_BY_PROGRAM = 1 << 9  # Py_TPFLAGS_HEAPTYPE
_TOLD_OTHERWISE = frozenset(
    {"args", "__dict__", "__weakref__", "__traceback__", "__context__", "__cause__", "__suppress_context__"}
    | {"message", "exceptions"}
)
"""Attributes that are not sent separately: they are set with the exception, or belong to its traceback."""


def dump_error(error: BaseException, traceback_text: str | None = None, *, main: bool = False) -> bytes:
    """`error` for `load_error`. Never raises.

    `traceback_text` replaces the error's own traceback; empty: none. `main` as in `dump_result`. An attribute
    of the error that cannot be sent is left out; such an argument becomes its `repr`.
    """
    if traceback_text is None:
        traceback_text = traceback_of(error)
    errors = [(*described(each), quietly(partial(_dump, each, main), [])) for each in _chain(error)]
    return prefixed(error, traceback_text, pickle.dumps(errors, 5))


def _chain(error: BaseException) -> list[BaseException]:
    """`error`, its cause or context, and so on, up to `LONGEST_CHAIN`."""
    chain = [error]
    while len(chain) < LONGEST_CHAIN:
        last = chain[-1]
        before = last.__cause__ or (None if last.__suppress_context__ else last.__context__)
        if before is None or isinstance(before, RemoteTraceback) or any(before is each for each in chain):
            break
        chain.append(before)
    return chain


def load_error(blob: bytes | memoryview) -> BaseException:
    """The exception, with `RemoteTraceback` as its `__cause__`, as in `multiprocessing.Pool`. Never raises.

    Its original cause or context is its `__context__`. An exception that cannot be read here becomes a
    `RemoteError`; a malformed blob gives an `ItemError`.
    """
    try:
        text, rest = split(blob)
        errors = pickle.loads(rest)
        found = [_read_or_stand_in(*each) for each in errors]
        first = found[0]
    except Exception as error:
        return ItemError(f"an error came that cannot be read: {type(error).__name__}: {error}")
    for last, before in pairwise(found):
        last.__context__ = before
    return with_traceback(first, text)


def _read_or_stand_in(kind: str, message: str, pickled: list[bytes]) -> BaseException:
    read = quietly(lambda: _read(pickled), None)
    return read if isinstance(read, BaseException) else RemoteError(kind, message)


def dump_unsendable(error: BaseException, value: Any) -> bytes:
    """The error for a result `value` that pickling refused with `error`. Never raises.

    It reads as the `MaybeEncodingError` that `multiprocessing.Pool` raises; its `original_of` is `error`,
    which the standard library's executor raises.
    """
    shown = quietly(lambda: repr(value), f"<a {type(value).__name__} whose repr() raises>")
    said = quietly(lambda: repr(error), type(error).__name__)
    refused = MaybeEncodingError(_Shown(said), _Shown(shown))
    refused.original = dump_error(error)
    return dump_error(refused, "")


def original_of(error: BaseException) -> BaseException:
    """What pickling raised, if `error` means that a result could not be sent; else `error` itself."""
    blob = getattr(error, "original", None) if type(error) is MaybeEncodingError else None
    return load_error(blob) if isinstance(blob, bytes) else error


class _Shown:
    """An object with a given `repr`."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _dump(error: BaseException, main: bool) -> list[bytes]:
    """`error` as a pickle and its buffers; empty if no pickle of it can be read again."""
    portable = _portable(error, main)
    return [] if portable is None else _pickle(portable, main)


def _portable(error: BaseException, main: bool) -> Any:
    """An object whose pickle reads as `error`: itself, or a `_Remade` of the parts that can be sent."""
    if _is_like(_read_back(error, main), error):
        return error  # false if the constructor takes other arguments than it passes on
    remade = quietly(lambda: _Remade(error, main), None)
    return remade if type(_read_back(remade, main)) is type(error) else None


def _is_like(copy: Any, error: BaseException, depth: int = 0) -> bool:
    """Whether a copy has the same message and, as far as can be checked, the same content as `error`."""
    if described(copy) != described(error) or depth > DEEPEST:
        return False
    parts, copied = _parts(error), _parts(copy)
    return parts.keys() == copied.keys() and all(
        type(copied[place]) is type(value)
        and (type(value) not in SIMPLE or copied[place] == value)
        and (not isinstance(value, BaseException) or _is_like(copied[place], value, depth + 1))
        for place, value in parts.items()
    )


def _parts(error: BaseException) -> dict[Any, Any]:
    parts: dict[Any, Any] = {**dict(enumerate(error.args)), **vars(error), **_facts(error)}
    if isinstance(error, BaseExceptionGroup):
        parts.update((("exceptions", place), each) for place, each in enumerate(error.exceptions))
    return parts


def _facts(error: BaseException) -> dict[tuple[type, str], Any]:
    """An exception's values outside of `args` and its dict: in C fields, such as `errno`, or in slots. By the
    defining class and the name.
    """
    return {
        (kind, name): value
        for kind in type(error).__mro__
        for name, holder in vars(kind).items()
        if isinstance(holder, MemberDescriptorType | GetSetDescriptorType)
        and not (name in _TOLD_OTHERWISE and (_is_standard(kind) or name.startswith("__")))
        and (value := _held(holder, error)) is not None
    }


def _is_standard(kind: type) -> bool:
    return not kind.__flags__ & _MADE_BY_PROGRAM


def _held(holder: Any, error: BaseException) -> Any:
    try:
        return holder.__get__(error)
    except AttributeError:  # it has no value
        return None


def _read_back(value: Any, main: bool) -> Any:
    return quietly(lambda: _read(_pickle(value, main)), quietly)


def _pickle(value: Any, main: bool) -> list[bytes]:
    blob, buffers = dump_result(value, main=main)
    return [blob, *map(bytes, buffers)]


def _read(parts: list[bytes]) -> Any:
    return load_result(parts[0], parts[1:])


class _Remade:
    """Replaces an exception whose own pickle cannot be written or read, or loses content."""

    def __init__(self, error: BaseException, main: bool) -> None:
        self._kind = type(error)
        self._args = tuple(_part(each, main) for each in error.args)
        self._group: tuple[Any, ...] = ()
        if isinstance(error, BaseExceptionGroup):
            children = [_portable(each, main) or _stand_in(each) for each in error.exceptions]
            self._group = (error.message, children)
            self._args = tuple(
                children if _are_those(given, error.exceptions) else part
                for given, part in zip(error.args, self._args, strict=True)
            )
        self._attributes = _those_that_travel(vars(error), main)
        self._attributes.pop("__cause__", None)
        self._facts = [
            (type(error).__mro__.index(kind), name, value)
            for (kind, name), value in _those_that_travel(_facts(error), main).items()
        ]

    def __reduce__(self) -> Any:
        return _make_again, (self._kind, self._args, self._group, self._attributes, self._facts)


def _make_again(
    kind: type[BaseException],
    args: tuple[Any, ...],
    group: tuple[Any, ...],
    attributes: dict[str, Any],
    facts: list[tuple[int, str, Any]],
) -> BaseException:
    """Make an exception without the program's code: with the `__new__` of its standard base class."""
    base: Any = next(filter(_is_standard, kind.__mro__))
    made: BaseException = base.__new__(kind, *(group or args))
    made.args = args
    vars(made).update(attributes)
    for place, name, value in facts:
        with contextlib.suppress(AttributeError, TypeError, IndexError, KeyError):  # it cannot be set
            vars(kind.__mro__[place])[name].__set__(made, value)
    return made


def _stand_in(error: BaseException) -> RemoteError:
    return RemoteError(*described(error))


def _are_those(given: Any, exceptions: tuple[BaseException, ...]) -> bool:
    return isinstance(given, list | tuple) and tuple(given) == exceptions


def _those_that_travel(values: dict[Any, Any], main: bool) -> dict[Any, Any]:
    found = {
        name: _portable(value, main) if isinstance(value, BaseException) else value
        for name, value in values.items()
        if isinstance(value, BaseException) or _travels(value, main)
    }
    return {name: value for name, value in found.items() if value is not None or values[name] is None}


def _part(value: Any, main: bool) -> Any:
    if isinstance(value, BaseException):
        return _portable(value, main) or _stand_in(value)
    return value if _travels(value, main) else quietly(lambda: repr(value), f"<a {type(value).__name__}>")


def _travels(value: Any, main: bool) -> bool:
    if type(value) in SIMPLE:
        return not isinstance(value, str | bytes) or len(value) <= LARGEST
    pickled = quietly(lambda: _pickle(value, main), None)
    if pickled is None or sum(map(len, pickled)) > LARGEST:
        return False
    return type(quietly(lambda: _read(pickled), quietly)) is type(value)
