"""Which functions may be called by name, and finding one.

A name reaches nothing but a function at the top of its module: no attribute of anything, no method, no class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from types import FunctionType, ModuleType
from typing import Any, cast

from nearfar.errors import Untrusted
from nearfar.net.imports import import_for, lacks

LONGEST = 1000
"""Characters of a name."""
_FUNCTIONS = (FunctionType, type(lru_cache(abs)))
_MAINS = frozenset({"__main__", "__mp_main__"})
_MISSING = object()


class Allowed:
    """The functions that a worker runs: of the `names` that its operator gave.

    * ``module``, or ``package`` with each module below it: the functions that stand in it, and those that its
      ``__all__`` lists; not what else it imports, nor what begins with an underscore.
    * ``module:function``: just that, whatever can be called, as it was asked for.

    Nothing of any other module is imported; but as always in Python, importing ``package.module`` runs
    ``package``. What an allowed function does with its arguments is the operator's concern.
    """

    def __init__(self, names: Iterable[str]) -> None:
        """Raises `ValueError` for what is no name."""
        self.names = tuple(dict.fromkeys(names))
        for name in self.names:
            _check(name)
        self._modules = frozenset(name for name in self.names if ":" not in name)
        self._found: dict[bytes, Callable[..., Any]] = {}

    def find(self, name: bytes) -> Callable[..., Any]:
        """The function called ``module:function``.

        Raises `Untrusted` for what is not allowed, `ImportError` if it is not here, and what importing its
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
        # Not getattr: a module's own __getattr__ would be called with a stranger's words.
        found = space.get(function, _MISSING)
        if found is _MISSING:
            raise lacks(module, function)
        if not (callable(found) if exactly else _is_own_function(found, function, space)):
            raise _refusal(module, function, "it is not a function of that module itself")
        return cast(Callable[..., Any], found)

    def _covers(self, module: str) -> bool:
        """Whether the module is allowed, or stands below a package that is, not in a private corner of it."""
        parts = module.split(".")
        for count in range(len(parts), 0, -1):
            if ".".join(parts[:count]) in self._modules:
                return True
            if parts[count - 1].startswith("_"):
                return False
        return False


def split(name: bytes) -> tuple[str, str]:
    """The module and the function of a name. Raises `Untrusted` for what is none, or has a dot too many."""
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
    """Import a module that is allowed, but not by way of a name that stands for another one: packages may
    keep what is not theirs under names of theirs, as ``os.path`` is `posixpath`.
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
