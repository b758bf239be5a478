"""Functions and modules by name: how a name becomes an object, and an object a name."""

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
    """The module in which `qualname` is said to be, which importing it may run. Whose name it is, the caller
    has judged. Raises `ImportError` if it is not here, and whatever its own code raises.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise type(error)(
            f"{here()} cannot import {module}, in which {qualname} is: {error}", name=error.name
        ) from error


def lacks(module: str, qualname: str, error: object = None) -> ImportError:
    """What is raised where the module is here, and what was looked for in it is not."""
    reason = "" if error is None else f": {error}"
    return ImportError(f"{here()} has another {module}, without {qualname}{reason}", name=module)


def here() -> str:
    """This process, for a person elsewhere."""
    return f"the worker on {socket.gethostname()}"


STDIN = "<stdin>"
"""The `__file__` of a program that is read from standard input."""
MAINS = frozenset({"__main__", "__mp_main__"})
"""What a program's own module is called: the second where `multiprocessing` spawned the process."""


def name_of(thing: Any, main: Mapping[str, Any] | None) -> bytes | None:
    """The name under which a worker finds just this object, or None.

    `main` holds what of `__main__` the worker has, by name; None: nothing.
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
    """Whether `thing`, of `__main__`, is what `main`, which the reader has of that, holds under its name, and
    what is found under that name here now.
    """
    return main.get(thing.__qualname__) is thing and is_found(thing)


def is_found(thing: Any) -> bool:
    """Whether `__main__` here holds `thing` under its name."""
    return _attribute(sys.modules["__main__"], thing.__qualname__) is thing


def find(name: bytes) -> Any:
    """Import what `name_of` named. Raises `ItemError` if it is no name, `ImportError` if it is not here."""
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
    """What workers that `multiprocessing` starts now by `method` will have of `__main__`, by name.

    All of it where they are forked; otherwise what importing the main module gives, which may lack what
    stands below ``if __name__ == "__main__"``, and nothing where there is no module to import (``python
    -c``, a session, ``python -m package``).
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
    """Inside, a main module read from standard input names no file: a spawned process would look for it."""
    main = sys.modules["__main__"]
    hidden = vars(main).pop("__file__") if getattr(main, "__file__", None) == STDIN else None
    try:
        yield
    finally:
        if hidden is not None:
            main.__file__ = hidden


def by_value_modules() -> bool:
    """Whether the user told cloudpickle to send some modules' contents by value."""
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
