"""The option ``--plain``: worker processes that read no pickle, and run only what it names."""

from __future__ import annotations

import argparse
from importlib.machinery import PathFinder
from importlib.util import find_spec

from nearfar.net.plain.names import Allowed
from nearfar.programs.hiring import look_here_first


def add_plain_option(parser: argparse.ArgumentParser, whose: str) -> None:
    """Add ``--plain NAME...``, which may be given again. `whose` processes it is about, for its help."""
    parser.add_argument(
        "--plain",
        nargs="+",
        action="extend",
        type=allowed_name,
        metavar="NAME",
        help=f"{whose} read no pickle, and run only functions of these modules or packages, or just"
        " module:function, with plain data; their clients need Pool(plain=True)",
    )


def allowed_name(text: str) -> str:
    """What `Allowed` takes, whose module can be found; nothing is imported."""
    look_here_first()
    try:
        Allowed([text])
        missing = _missing(text.partition(":")[0])
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if missing:
        raise argparse.ArgumentTypeError(f"no module {missing} is found: install it, or start in its folder")
    return text


def plain_names(options: argparse.Namespace) -> tuple[str, ...] | None:
    """What may be called; None: anything."""
    return None if options.plain is None else tuple(options.plain)


def describe(names: tuple[str, ...]) -> str:
    """What such processes say of themselves."""
    return f"reading no pickle; running only {', '.join(names)}"


def _missing(module: str) -> str:
    """The first part of a module's name that cannot be found; packages are looked into, not imported."""
    parts = module.split(".")
    spec = find_spec(parts[0])
    for count in range(2, len(parts) + 1):
        if spec is None or spec.submodule_search_locations is None:
            break  # where there is no folder to look into, importing will tell
        spec = PathFinder.find_spec(".".join(parts[:count]), list(spec.submodule_search_locations))
        if spec is None:
            return ".".join(parts[:count])
    return parts[0] if spec is None else ""
