"""Functions and modules by name: from an object to its name, and back."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

from nearfar.errors import ItemError


def import_for(qualname: str, module: str) -> ModuleType:
    """Import and return the module that should define `qualname`; importing may run its code, so the caller
    must have checked the name. Raises `ImportError` if it is not here, and whatever its own code raises.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise type(error)(
            f"{here()} cannot import {module}, in which {qualname} is: {error}", name=error.name
        ) from error


def lacks(module: str, qualname: str, error: object = None) -> ImportError:
    """The error for a module that is here, but lacks `qualname`."""
    reason = "" if error is None else f": {error}"
    return ImportError(f"{here()} has another {module}, without {qualname}{reason}", name=module)


def here() -> str:
    """A description of this process for users on other machines."""
    return f"the worker on {socket.gethostname()}"


STDIN = "<stdin>"
"""The `__file__` of a program that is read from standard input."""
MAINS = frozenset({"__main__", "__mp_main__"})
"""The names of a program's own module; the second one in a process that `multiprocessing` spawned."""


def name_of(thing: Any, main: Mapping[str, Any] | None) -> bytes | None:
    """The name under which a worker finds exactly this object, or None.

    `main`: the part of `__main__` that the worker has, by name; None: nothing.
    """
    module = getattr(thing, "__module__", None) or getattr(
        getattr(thing, "__objclass__", None), "__module__", None
    )
    qualname = getattr(thing, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(qualname, str):
        return None
    if module in MAINS:
        return f"__main__:{qualname}".encode() if main and main.get(qualname) is thing else None
    if _goes_by_value(module) or _attribute(sys.modules.get(module), qualname) is not thing:
        return None
    return f"{module}:{qualname}".encode()


def is_named(thing: Any, main: Mapping[str, Any]) -> bool:
    """Whether `thing`, of `__main__`, is found under its name both in `main`, the part of `__main__` that the
    reader has, and in this process now.
    """
    return main.get(thing.__qualname__) is thing and is_found(thing)


def is_found(thing: Any) -> bool:
    """Whether `__main__` here holds `thing` under its name."""
    return _attribute(sys.modules["__main__"], thing.__qualname__) is thing


def find(name: bytes) -> Any:
    """Import the object that `name_of` named. Raises `ItemError` for an invalid name, `ImportError` if it is
    not here."""
    module, colon, qualname = bytes(name).decode(errors="replace").partition(":")
    if not (module and colon and qualname):
        raise ItemError(f"{bytes(name)!r} is not the name of a function")
    found: Any = sys.modules[module] if module in MAINS else import_for(qualname, module)
    for part in qualname.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise lacks(module, qualname, error) from error
    return found


def inherited_main(method: str) -> dict[str, Any]:
    """The part of `__main__`, by name, that workers will have if `multiprocessing` starts them by `method`.

    All of it if they are forked; otherwise the result of importing the main module, which may lack what is
    below ``if __name__ == "__main__"``, and nothing if there is no module to import (``python -c``, an
    interactive session, ``python -m package``).
    """
    main = sys.modules["__main__"]
    if method != "fork":
        name = getattr(getattr(main, "__spec__", None), "name", None)
        path = getattr(main, "__file__", STDIN)
        if name == "__main__" or (name or "").endswith(".__main__") or not (name or path != STDIN):
            return {}
    return dict(vars(main))


@contextmanager
def without_stdin() -> Iterator[None]:
    """Inside, hides the `__file__` of a main module read from standard input: a spawned process would try to
    open it."""
    main = sys.modules["__main__"]
    hidden = vars(main).pop("__file__") if getattr(main, "__file__", None) == STDIN else None
    try:
        yield
    finally:
        if hidden is not None:
            main.__file__ = hidden


def by_value_modules() -> bool:
    """Whether the user registered modules with cloudpickle whose contents are sent by value."""
    cloudpickle = sys.modules.get("cloudpickle")
    return cloudpickle is not None and bool(cloudpickle.list_registry_pickle_by_value())


def _goes_by_value(module: str) -> bool:
    if not by_value_modules():
        return False
    registered = sys.modules["cloudpickle"].list_registry_pickle_by_value()
    parts = module.split(".")
    return any(".".join(parts[:count]) in registered for count in range(1, len(parts) + 1))


def _attribute(found: Any, qualname: str) -> Any:
    try:
        for part in qualname.split("."):
            found = getattr(found, part)
    except AttributeError:
        return None
    return found
