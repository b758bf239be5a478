"""Calls and results without pickle: functions by allowed name, and plain data for the rest.

The function field of a call is ``b"module:function"``, a function at the top level of a module. A blob is
`PLAIN`, then one item of `nearfar.serialization.item_codec`, which reads no pickle here; large bytes are sent
beside it. `PlainCalls` is the client's side; `PlainLoader` and `Allowed` are the worker's; `dump_result` and
`dump_error` write what goes back. Pickles are never read here.

`Allowed` decides which functions may be called. A name refers only to a function at the top level of its
module: not to an attribute, a method, or a class.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, cast

from nearfar.errors import ItemError, NearfarError, ProtocolError, RemoteError, Untrusted
from nearfar.serialization import item_codec
from nearfar.serialization.names import here, import_for, lacks
from nearfar.serialization.tracebacks import described, quietly, traceback_of, with_traceback


class PlainName(bytes):
    """A function field in the client that made the call: it marks that the result is plain, too."""

    __slots__ = ()


PLAIN = b"P"
"""The first byte of a plain blob. The blobs of `nearfar.serialization.pickles` begin with 0x80, C, F or G."""


LONGEST = 1000
"""Characters of a name."""
_FUNCTIONS = (FunctionType, type(lru_cache(abs)))
_MAINS = frozenset({"__main__", "__mp_main__"})
_MISSING = object()


class Allowed:
    """The functions that a worker runs, by the `names` that its operator gave.

    * ``module``, or ``package`` with each module below it: the functions defined there, and those in its
      ``__all__``; not its other imports, nor names that begin with an underscore.
    * ``module:function``: exactly this callable.

    No other module is imported; but as always in Python, importing ``package.module`` runs ``package``. What
    an allowed function does with its arguments is the operator's responsibility.
    """

    def __init__(self, names: Iterable[str]) -> None:
        """Raises `ValueError` for an invalid name."""
        self.names = tuple(dict.fromkeys(names))
        for name in self.names:
            _check(name)
        self._modules = frozenset(name for name in self.names if ":" not in name)
        self._found: dict[bytes, Callable[..., Any]] = {}

    def find(self, name: bytes) -> Callable[..., Any]:
        """The function called ``module:function``.

        Raises `Untrusted` if it is not allowed, `ImportError` if it is not here, and what importing its
        module raises.
        """
        found = self._found.get(name)
        if found is None:
            found = self._found[name] = self._look_up(name)
        return found

    def _look_up(self, name: bytes) -> Callable[..., Any]:
        module, function = split(name)
        exactly = f"{module}:{function}" in self.names
        if not exactly and (function.startswith("_") or not self._covers(module)):
            raise _refusal(module, function)
        space = vars(import_for(function, module) if exactly else _import_in_steps(function, module))
        # Not getattr: a module's own __getattr__ would be called with a peer's text.
        found = space.get(function, _MISSING)
        if found is _MISSING:
            raise lacks(module, function)
        if not (callable(found) if exactly else _is_own_function(found, function, space)):
            raise _refusal(module, function, "it is not a function of that module itself")
        return cast(Callable[..., Any], found)

    def _covers(self, module: str) -> bool:
        """Whether the module is allowed, or is a public module below a package that is."""
        parts = module.split(".")
        for count in range(len(parts), 0, -1):
            if ".".join(parts[:count]) in self._modules:
                return True
            if parts[count - 1].startswith("_"):
                return False
        return False


def split(name: bytes) -> tuple[str, str]:
    """The module and the function of a name. Raises `Untrusted` for an invalid name."""
    try:
        module, colon, function = bytes(name[:LONGEST]).decode().partition(":")
    except UnicodeDecodeError:
        module = colon = function = ""
    parts = [*module.split("."), function]
    if not colon or len(name) > LONGEST or not all(map(str.isidentifier, parts)) or _is_special(function):
        shown = bytes(name[:100])
        raise Untrusted(f"{shown!r} is not the name of a function at the top of a module (module:function)")
    return module, function


def _check(name: str) -> None:
    module, colon, function = name.partition(":")
    parts = [*module.split("."), *([function] if colon else [])]
    if not all(map(str.isidentifier, parts)) or len(name) > LONGEST:
        raise ValueError(f"{name!r} names no functions: expected module, package or module:function")
    if module in _MAINS or _is_special(function):
        raise ValueError(f"{name!r} cannot be allowed: what it names is not for others to call")


def _is_special(function: str) -> bool:
    return function.startswith("__") and function.endswith("__")


def _import_in_steps(function: str, module: str) -> ModuleType:
    """Import an allowed module, but not through an alias: a package may hold another module under a name of
    its own, as ``os.path`` is `posixpath`.
    """
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        path = ".".join(parts[:count])
        found = import_for(function, path)
        if found.__name__ != path:
            raise _refusal(module, function, f"{path} is another name for {found.__name__}")
    return found


def _is_own_function(found: Any, name: str, space: dict[str, Any]) -> bool:
    if type(found) not in _FUNCTIONS:
        return False
    exported = space.get("__all__", ())
    return found.__module__ == space["__name__"] or (isinstance(exported, list | tuple) and name in exported)


def _refusal(module: str, function: str, reason: str = "") -> Untrusted:
    because = f": {reason}" if reason else ""
    return Untrusted(
        f"this worker does not run {module}:{function}{because}"
        f" (it was started to run only what its --plain names; --plain {module}:{function} would allow this)"
    )


BESIDE = 32 * 1024
"""Length from which bytes are sent beside the blob, without a copy, instead of in it."""

DATA = "numbers, strings, bytes, lists, tuples, sets and dicts"
"""The types that can be sent, as text."""


def pack(values: Sequence[Any], more: Any = None) -> tuple[bytes, list[bytes]]:
    """`values` and `more` as a blob, and the large bytes among the values. Raises `ItemError`."""
    beside = [place for place, value in enumerate(values) if type(value) is bytes and len(value) >= BESIDE]
    left = list(values)
    for place in beside:
        left[place] = None
    return PLAIN + item_codec.encode([left, beside, more], trusted=False), [values[place] for place in beside]


def unpack(blob: bytes | memoryview, buffers: Sequence[Any]) -> tuple[list[Any], Any]:
    """What `pack` packed. Raises `ItemError` for anything else, and `Untrusted` for a pickle inside."""
    try:
        (found,) = item_codec.decode(bytes(memoryview(blob)[1:]), 1, trusted=False)
    except ProtocolError as error:
        raise ItemError(f"plain data that cannot be read: {error}") from error
    match found:
        case [list() as values, list() as beside, more] if len(beside) == len(buffers):
            for place, buffer in zip(beside, buffers, strict=True):
                if type(place) is not int or not 0 <= place < len(values):
                    break
                values[place] = bytes(buffer)
            else:
                return values, more
    raise ItemError("plain data of the wrong shape")


def fits(value: Any) -> bool:
    """Whether `value` can be sent in a blob."""
    try:
        item_codec.encode(value, trusted=False)
    except ItemError:
        return False
    return True


Parts = tuple[PlainName, bytes, list[bytes]]

_NAMED_TYPES = (FunctionType, BuiltinFunctionType, type(lru_cache(abs)))


class PlainCalls:
    """Like `nearfar.serialization.pickles.calls.CallPickler`, without pickle. Threads may share it.

    Its methods raise `ItemError` for a function that is not at the top level of a module that workers can
    import, too, and for arguments that are not plain data. Functions that it has named are kept alive.
    """

    def __init__(self) -> None:
        self._names: dict[int, PlainName] = {}
        self._named: list[Any] = []

    def dump_call(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any] | None = None
    ) -> Parts:
        """The function field, the blob and the large bytes of ``func(*args, **kwargs)``."""
        name = self._name(func)
        keywords = dict(kwargs) if kwargs else None
        try:
            return name, *pack(args, keywords)
        except ItemError as error:
            raise _unsendable(name, args, keywords or {}, error) from None

    def dump_chunk(self, func: Callable[..., Any], items: list[Any] | tuple[Any, ...] | range) -> Parts:
        """The same for the calls of `func` with each of `items`."""
        name = self._name(func)
        try:
            return name, *pack(items)
        except ItemError as error:
            raise _unsendable(name, items, {}, error) from None

    def _name(self, func: Any) -> PlainName:
        name = self._names.get(id(func))
        if name is None:
            name = name_of(func)
            self._named.append(func)
            self._names[id(func)] = name
        return name


def name_of(func: Any) -> PlainName:
    """The name by which a worker finds `func`. Raises `ItemError`, with the reason, if there is none."""
    if not isinstance(func, _NAMED_TYPES):
        article = "a class" if isinstance(func, type) else f"an object of type {type(func).__qualname__}"
        raise _nameless(f"{article} is none", func)
    module, name = func.__module__, func.__qualname__
    if "<" in name or "." in name:
        raise _nameless("it stands inside something else, not at the top of a module", func)
    if module in ("__main__", "__mp_main__"):
        raise _nameless(
            "workers do not have this program's own __main__: put it into a module of its own", func
        )
    if getattr(sys.modules.get(module or ""), name, None) is not func:
        raise _nameless(f"{module}.{name} is not this function now", func)
    return PlainName(f"{_public(module, name, func)}:{name}".encode())


def _public(module: str, name: str, func: Any) -> str:
    """The module under which `func` is called: its own, or if that is private, the package that exports it.

    Workers refuse the private modules of a package that they allow.
    """
    parts = module.split(".")
    private = next((place for place, part in enumerate(parts) if part.startswith("_")), len(parts))
    for count in range(private, 0, -1) if private < len(parts) else ():
        space = vars(sys.modules.get(".".join(parts[:count]), object))
        if space.get(name) is func and name in space.get("__all__", ()):
            return ".".join(parts[:count])
    return module


def _nameless(reason: str, func: Any) -> ItemError:
    shown = getattr(func, "__qualname__", None) or type(func).__qualname__
    return ItemError(f"a plain pool calls functions by their names; {shown} cannot be called so: {reason}")


def _unsendable(
    name: bytes, values: Sequence[Any], keywords: Mapping[str, Any], error: ItemError
) -> ItemError:
    """The error for arguments that cannot be sent; names the first such argument."""
    places = [*((str(place), value) for place, value in enumerate(values, 1)), *keywords.items()]
    for place, value in places:
        if not fits(value):
            return ItemError(
                f"argument {place} of {name.decode()}, of type {type(value).__qualname__}, is or holds what a"
                f" plain pool does not send: it sends {DATA}"
            )
    return error


_CALL, _PREPARE = 0, 3
_NOTHING: dict[str, Any] = {}


class PlainLoader:
    """Reads only what `PlainCalls` wrote."""

    def __init__(self, find: Callable[[bytes], Callable[..., Any]]) -> None:
        """`find` returns the function of a name, or raises for one that must not be run."""
        self._find = find

    def load(
        self, function: bytes, mode: int, blob: bytes | memoryview, buffers: Sequence[Any], client: str
    ) -> tuple[Callable[..., Any], Any, dict[str, Any]]:
        """The function, its positional arguments (of a chunk: its items), and its keyword arguments.

        Raises `Untrusted` for a pickle and for a function that must not be run, `ItemError` for a malformed
        call, `ImportError` for what this host cannot import. Then no part of the call has run.
        """
        if blob[:1] != PLAIN or not function:
            raise Untrusted(
                f"{here()} reads no pickle: make the pool with plain=True, which sends functions by"
                " name and plain data"
            )
        values, keywords = unpack(blob, buffers)
        if mode not in (_CALL, _PREPARE):
            return self._find(function), values, _NOTHING
        if keywords is None:
            return self._find(function), tuple(values), _NOTHING
        if type(keywords) is dict and all(type(key) is str for key in keywords):
            return self._find(function), tuple(values), keywords
        raise ItemError(f"a {type(keywords).__name__} came in the place of keyword arguments")


LONGEST_TEXT = 100_000
"""Characters of an error's message, and of its traceback: longer text is cut in the middle."""

_SINGLE, _LIST, _TUPLE = range(3)
_OWN: dict[str, type[NearfarError]] = {
    f"nearfar.errors.{kind.__name__}": kind for kind in (ItemError, Untrusted)
}
"""The errors that are restored as themselves: those by which a worker refuses a call."""


def dump_result(value: Any) -> tuple[bytes, list[bytes]]:
    """`value` as a blob, and its large bytes (itself, or elements of a list or tuple). Raises `ItemError`."""
    kind = type(value)
    if kind is list or kind is tuple:
        return pack(value, _LIST if kind is list else _TUPLE)
    return pack([value], _SINGLE)


def load_result(blob: bytes | memoryview, buffers: Sequence[Any] = ()) -> Any:
    """What `dump_result` dumped. Raises `Untrusted` for a pickle, `ItemError` for any other blob."""
    if blob[:1] != PLAIN:
        raise Untrusted("a result came that is not plain data: this pool is plain, and reads no pickle")
    values, kind = unpack(blob, buffers)
    if kind == _LIST:
        return values
    if kind == _TUPLE:
        return tuple(values)
    if kind == _SINGLE and len(values) == 1:
        return values[0]
    raise ItemError("a result came that cannot be read")


def dump_error(error: BaseException) -> bytes:
    """`error` as text. Never raises."""
    return _in_words(*described(error), traceback_of(error))


def dump_unsendable(error: BaseException, value: Any) -> bytes:
    """The error for a result that `dump_result` refused. Never raises."""
    kind = quietly(lambda: str(type(value).__qualname__), "?")
    what = f"the result, of type {kind}, is or holds what does not travel without pickle"
    return _in_words("nearfar.errors.ItemError", f"{what}: {DATA} do", "")


def load_error(blob: bytes | memoryview) -> BaseException:
    """What `dump_error` dumped: mostly a `RemoteError`, with the traceback as its cause. Never raises.

    For a pickle: `Untrusted`; for any other blob: `ItemError`.
    """
    if blob[:1] != PLAIN:
        return Untrusted("an error came that is not plain data: this pool is plain, and reads no pickle")
    try:
        words, _ = unpack(blob, ())
    except (ItemError, Untrusted) as error:
        return ItemError(f"an error came that cannot be read: {error}")
    match words:
        case [str() as kind, str() as message, str() as text]:
            own = _OWN.get(kind)
            return with_traceback(RemoteError(kind, message) if own is None else own(message), text)
    return ItemError("an error came that cannot be read")


def text_of(blob: bytes | memoryview) -> str:
    """The traceback, or the kind and message, in what `dump_error` dumped. Never raises."""
    try:
        words, _ = unpack(blob, ())
        kind, message, text = map(str, words)
    except (ItemError, Untrusted, ValueError, TypeError):
        return "an error that cannot be read"
    return text or f"{kind}: {message}"


def _in_words(*words: str) -> bytes:
    return pack([_sendable(word) for word in words])[0]


def _sendable(text: str) -> str:
    """`text` with escapes for what has no UTF-8, and shortened to `LONGEST_TEXT`."""
    if len(text) > LONGEST_TEXT:
        half = LONGEST_TEXT // 2
        text = f"{text[:half]} [...] {text[-half:]}"
    return text.encode(errors="backslashreplace").decode()
