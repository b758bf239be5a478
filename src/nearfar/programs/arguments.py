"""How the programs read what stands behind an option."""

from __future__ import annotations

import argparse
import re

from nearfar.errors import AddressError
from nearfar.net import shapes
from nearfar.net.addresses import Address
from nearfar.programs.common import add_logging_options

DEFAULT_ADDRESS = "tcp://127.0.0.1:5555"
"""Where the bare commands meet: the consumer hosts, the producer connects."""
DEFAULT_POOL_ADDRESS = "tcp://127.0.0.1:5556"
"""Where bare coordinators and workers meet."""

MOST = 1_000_000_000
"""Of whatever is counted."""
MOST_BYTES = 1_000_000_000_000_000
LONGEST_NUMBER = 40
"""Characters."""
LONGEST = 1_000_000.0
"""Seconds: a wait of more than 24 days is too long for the system's calls."""

_POWERS = {"": 0, "k": 1, "M": 2, "G": 3, "T": 4}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([kMGT]?)(i?)B?", re.ASCII | re.IGNORECASE)


def byte_count(text: str) -> int:
    """``500k``, ``2M`` (powers of 1,000) or ``2Mi`` (of 1,024) as bytes."""
    match = _SIZE.fullmatch(text)
    if match is None or len(text) > LONGEST_NUMBER:
        raise argparse.ArgumentTypeError(f"{_short(text)} is not a size (like 500k, 2M, 2MiB)")
    digits, unit, binary = match.groups()
    power = {key.lower(): value for key, value in _POWERS.items()}[unit.lower()]
    size = int(float(digits) * (1024 if binary else 1000) ** power)
    if size > MOST_BYTES or (not size and float(digits)):
        raise argparse.ArgumentTypeError(f"{_short(text)} is not a size from 1 byte to {MOST_BYTES:,}, or 0")
    return size


def positive(text: str) -> int:
    """A whole number of at least 1."""
    return _whole(text, 1)


def natural(text: str) -> int:
    """A whole number of at least 0."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    digits = text.isascii() and text.isdigit() and len(text) <= LONGEST_NUMBER
    if not digits or not least <= int(text) <= MOST:
        said = f"{_short(text)} is not a whole number of at least {least}, and at most {MOST:,}"
        raise argparse.ArgumentTypeError(said)
    return int(text)


def seconds(text: str) -> float:
    """A time in seconds, more than none."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= LONGEST:
        said = f"{_short(text)} is not a number of seconds above 0, and at most {LONGEST:,.0f}"
        raise argparse.ArgumentTypeError(said)
    return value


def lease_seconds(text: str) -> float:
    """The seconds of a lease."""
    value = seconds(text)
    if not shapes.lease(value):
        least, most = shapes.SHORTEST_LEASE, shapes.LONGEST_LEASE
        raise argparse.ArgumentTypeError(f"{_short(text)} is not a lease of {least:g} to {most:,g} seconds")
    return value


def _short(text: str) -> str:
    """`text` as it is quoted in a message of one line."""
    return repr(text if len(text) <= 50 else f"{text[:40]}...")


def pool_place(text: str) -> int | str:
    """Where a pool is: the address of a coordinator, or ``local:N`` as a number of processes."""
    if text.startswith("local:"):
        return positive(text.removeprefix("local:"))
    try:
        Address.parse_remote(text)
    except AddressError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def header(text: str) -> tuple[str, str]:
    """``Name: value`` as a pair."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        # It is not repeated: what was meant to be a header may be a secret.
        raise argparse.ArgumentTypeError("not of the form 'Name: value'")
    return name.strip(), value.strip()


def add_queue_options(parser: argparse.ArgumentParser, *, local: bool = False) -> None:
    """Add ``--bind`` and ``--queue``, and what hosting takes. `local`: ``--queue local`` is understood."""
    group = parser.add_argument_group("the queue")
    side = group.add_mutually_exclusive_group()
    side.add_argument(
        "--bind",
        nargs="?",
        const=DEFAULT_ADDRESS,
        metavar="ADDRESS",
        help=f"host the queue there (default address: {DEFAULT_ADDRESS})",
    )
    here = ", or local: producers and consumers in this one command" if local else ""
    side.add_argument("--queue", metavar="ADDRESS", help=f"connect to a queue that is hosted there{here}")
    group.add_argument("--lanes", metavar="FROM-TO", help="with --bind: the ports for items, for a firewall")
    add_access_options(group)
    group.add_argument(
        "--wait",
        type=seconds,
        default=60.0,
        metavar="S",
        help="seconds to wait for a host that does not answer (60)",
    )
    add_logging_options(parser)


def queue_address(options: argparse.Namespace) -> str:
    """Where the queue is that the options of `add_queue_options` name."""
    named = options.queue if options.bind is None else options.bind
    return DEFAULT_ADDRESS if named is None else str(named)


def add_access_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``--keys`` and ``--insecure``, of which a program takes one."""
    side = parser.add_mutually_exclusive_group()
    side.add_argument(
        "--keys",
        metavar="DIR",
        help="let in, and connect to, who has the keys in DIR (default: what NEARFAR_KEYS names; see nearfar"
        " keys)",
    )
    side.add_argument(
        "--insecure", action="store_true", help="without keys: let anybody in, and connect to anybody"
    )


def describe_place(address: str, *, hosts: bool) -> str:
    """What a program says first, so that others can be told where to connect."""
    return f"{'hosting the queue' if hosts else 'connecting to the queue'} at {address}"
