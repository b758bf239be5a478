"""Importing what a peer named: the one place where a name that came over a wire becomes a module."""

from __future__ import annotations

import socket
from importlib import import_module
from types import ModuleType


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
