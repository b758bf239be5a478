"""Options that several programs share, and the parsing of their values."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import time
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from nearfar.cli.common import add_logging_options, start_tracker, why
from nearfar.cli.parser import Renamed
from nearfar.download.fetch.credentials import Login, read_cookies, read_netrc
from nearfar.download.fetch.options import FetchOptions
from nearfar.errors import AddressError
from nearfar.net import schemes

if TYPE_CHECKING:
    from collections.abc import Callable

    from nearfar.worker.supervisor import Supervisor, WorkerListener

DEFAULT_ADDRESS = "tcp://127.0.0.1:5555"
"""The default address of queues: the consumer hosts there, the producer connects."""
DEFAULT_POOL_ADDRESS = "tcp://127.0.0.1:5556"
"""The default address of pools: coordinators bind it, workers connect."""

MOST = 1_000_000_000
"""The largest number that an option accepts."""
LEAST_RATE = 0.001
"""The lowest rate per second that an option accepts."""
MOST_BYTES = 1_000_000_000_000_000
LONGEST_NUMBER = 40
"""Characters of a number."""
LONGEST = 1_000_000.0
"""Seconds: system calls do not accept waits of more than 24 days."""

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
    """A time in seconds, above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= LONGEST:
        said = f"{_short(text)} is not a number of seconds above 0, and at most {LONGEST:,.0f}"
        raise argparse.ArgumentTypeError(said)
    return value


def frequency(text: str) -> float:
    """A number per second, above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not LEAST_RATE <= value <= MOST:
        said = f"{_short(text)} is not a number per second of at least {LEAST_RATE:g}, and at most {MOST:,}"
        raise argparse.ArgumentTypeError(said)
    return value


def lease_seconds(text: str) -> float:
    """The seconds of a lease."""
    from nearfar.net import validation

    value = seconds(text)
    if not validation.lease(value):
        least, most = validation.SHORTEST_LEASE, validation.LONGEST_LEASE
        raise argparse.ArgumentTypeError(f"{_short(text)} is not a lease of {least:g} to {most:,g} seconds")
    return value


def _short(text: str) -> str:
    """`text` as quoted in a message of one line."""
    return repr(text if len(text) <= 50 else f"{text[:40]}...")


def pool_place(text: str) -> int | str:
    """The place of a pool: the address of a coordinator, or of another engine, or ``local:N`` as a number of
    processes."""
    if text.startswith("local:"):
        return positive(text.removeprefix("local:"))
    from nearfar.net.addresses import Address

    try:
        if schemes.hosted(text):
            Address.parse_remote(text)
        else:
            schemes.load(schemes.POOLS, text)
    except AddressError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def header(text: str) -> tuple[str, str]:
    """``Name: value`` as a pair."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        # The text is not repeated: it may be a secret.
        raise argparse.ArgumentTypeError("not of the form 'Name: value'")
    return name.strip(), value.strip()


def add_queue_options(parser: argparse.ArgumentParser, *, local: bool = False) -> None:
    """Add the options of a producer or consumer for its queue and its messages.

    `local`: accept ``--queue local``.
    """
    group = parser.add_argument_group("the queue")
    side = group.add_mutually_exclusive_group()
    side.add_argument(
        "--bind",
        nargs="?",
        const=DEFAULT_ADDRESS,
        metavar="ADDRESS",
        help=f"host the queue at ADDRESS (without ADDRESS: {DEFAULT_ADDRESS})",
    )
    here = "; local: this command also saves the files" if local else ""
    side.add_argument(
        "--queue",
        metavar="ADDRESS",
        help="connect to the queue that another program hosts at ADDRESS, or to one in Redis:"
        f" redis://HOST:PORT/DATABASE/NAME{here}",
    )
    group.add_argument("--lanes", metavar="FROM-TO", help="with --bind: the only ports for items (firewall)")
    add_access_options(group)
    group.add_argument(
        "--wait",
        type=seconds,
        default="60",
        metavar="S",
        help="seconds to wait for a host that does not answer",
    )
    add_logging_options(parser, progress=True, report=True)


def add_remote_time(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``--remote-time``."""
    parser.add_argument(
        "-R",
        "--remote-time",
        action="store_true",
        help="set the time of a saved file to its Last-Modified time, if the server sends one",
    )


def queue_address(options: argparse.Namespace) -> str:
    """The address of the queue, from the options of `add_queue_options`."""
    named = options.queue if options.bind is None else options.bind
    return DEFAULT_ADDRESS if named is None else str(named)


def add_access_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``--keys`` and ``--no-keys``, which exclude each other."""
    side = parser.add_mutually_exclusive_group()
    side.add_argument(
        "--keys",
        metavar="DIR",
        help="the folder with this program's keys, and those of the peers that it accepts (default: the"
        " value of NEARFAR_KEYS; see nearfar keys)",
    )
    side.add_argument(
        "--no-keys", action="store_true", help="admit every peer without a key, and connect to any"
    )
    side.add_argument(
        "--insecure",
        action=Renamed,
        dest="no_keys",
        nargs=0,
        new="--no-keys",
        default=argparse.SUPPRESS,
        why=": what curl calls --insecure is -k, --insecure-tls",
    )


def add_expected_producers(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, about: str = ""
) -> None:
    """Add ``--expected-producers``; `about`: a condition, for the help."""
    parser.add_argument(
        "--expected-producers",
        type=positive,
        default=1,
        metavar="N",
        help=f"{about}the queue ends when N producers have finished",
    )
    parser.add_argument(
        "--producers",
        action=Renamed,
        dest="expected_producers",
        type=positive,
        default=argparse.SUPPRESS,
        new="--expected-producers",
    )


def add_status_every(parser: argparse.ArgumentParser) -> None:
    """Add ``--status-every``."""
    parser.add_argument_group("status").add_argument(
        "--status-every",
        type=seconds,
        default="30",
        metavar="S",
        help="write a status line at most every S seconds, if something has changed",
    )


def describe_place(address: str, *, hosts: bool) -> str:
    """The first message of a program, with the address for others."""
    return f"{'hosting the queue' if hosts else 'connecting to the queue'} at {address}"


PROXIES = ("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
"""The environment variables from which libcurl takes a proxy."""

log = logging.getLogger("nearfar.producer")


def add_fetching(parser: argparse.ArgumentParser) -> None:
    """Add an option for each setting of `FetchOptions` that a user may need to change.

    Short options are those of curl, wget and aria2 that mean the same.
    """
    _add_requests(parser.add_argument_group("requests").add_argument)
    _add_limits(parser.add_argument_group("limits and retries").add_argument)
    _add_tls(parser.add_argument_group("TLS and addresses").add_argument)


def _add_requests(add: Callable[..., argparse.Action]) -> None:
    add(
        "-H",
        "--header",
        type=headers,
        action="extend",
        default=[],
        metavar="'NAME: VALUE'",
        help="send this header with every request; @FILE: read headers from FILE, one on each line, so"
        " that the process list does not show them",
    )
    add(
        "-b",
        "--cookie",
        type=cookie_file,
        action="append",
        default=[],
        metavar="FILE",
        help="send the cookies in FILE (Netscape format), each to the hosts that it is for",
    )
    add("-n", "--netrc", action="store_true", help="take user names and passwords from ~/.netrc")
    add("--netrc-file", type=Path, metavar="FILE", help="take user names and passwords from FILE")
    add(
        "-A",
        "--user-agent",
        metavar="TEXT",
        help=f"sent as User-Agent (default: {FetchOptions().user_agent})",
    )
    add(
        "-x",
        "--proxy",
        metavar="URL",
        help="proxy for all URLs; '': none (default: http_proxy, https_proxy, all_proxy, no_proxy)",
    )
    add("--decode", action="store_true", help="ask for gzip and deflate, and save the decoded data")
    add(
        "--expect",
        action="append",
        default=[],
        metavar="TYPE",
        help="reject files of another media type, such as image/*; their first bytes are checked, too",
    )


def _add_limits(add: Callable[..., argparse.Action]) -> None:
    add("-j", "--jobs", type=positive, default=16, metavar="N", help="transfers at the same time")
    add(
        "--per-host",
        type=positive,
        default=16,
        metavar="N",
        help="connections to one host at the same time, of all producers and workers of the queue together",
    )
    add(
        "--host-rate",
        type=frequency,
        metavar="N",
        help="requests a second to one host, of all producers and workers of the queue together (default: no"
        " limit)",
    )
    add("--rate", type=byte_count, metavar="SIZE", help="bytes a second of a process, all transfers together")
    add(
        "--max-size",
        type=byte_count,
        metavar="SIZE",
        help="reject larger files: 500k, 2M, 1GiB (default: 1T, or 10G if the server announces no length)",
    )
    add("--retries", type=natural, metavar="N", help="attempts after the first one (default: 4)")
    add(
        "--connect-timeout",
        type=seconds,
        metavar="S",
        help="fail after S seconds without a connection (default: 20)",
    )
    add(
        "--stall-timeout",
        type=positive,
        metavar="S",
        help="fail after S seconds below 100 bytes a second (default: 30)",
    )
    add(
        "-m",
        "--timeout",
        type=seconds,
        metavar="S",
        help="fail after S seconds in all (default: 86400, a day)",
    )
    add(
        "--wait-for-host",
        type=seconds,
        metavar="S",
        help="seconds to wait for a host that answers 429 or 503 with Retry-After; not counted as a retry"
        " (default: 600)",
    )


def _add_tls(add: Callable[..., argparse.Action]) -> None:
    add("--cacert", type=Path, metavar="FILE", help="authorities to trust (PEM; default: the system's)")
    add("-E", "--cert", type=Path, metavar="FILE", help="client certificate (PEM), for the listed hosts")
    add("--key", type=Path, metavar="FILE", help="private key of --cert, if it is not in the same file")
    add("-k", "--insecure-tls", action="store_true", help="accept any certificate (curl's --insecure)")
    add(
        "--no-private",
        action="store_true",
        help="connect to public addresses only, and use no proxy (for URLs that you do not trust)",
    )


def cookie_file(text: str) -> Path:
    """A file of cookies, and not a cookie itself, which curl's option takes, too."""
    if "=" in text and not Path(text).exists():
        # The text is not repeated: it may be a secret.
        raise argparse.ArgumentTypeError("not a file; to send one cookie: -H 'Cookie: NAME=VALUE'")
    return Path(text)


def headers(text: str) -> list[tuple[str, str]]:
    """``Name: value``, or all lines of the file in ``@FILE``, as pairs."""
    if not text.startswith("@"):
        return [header(text)]
    try:
        lines = Path(text[1:]).read_text(encoding="latin-1").splitlines()
    except OSError as error:
        raise argparse.ArgumentTypeError(why(error)) from None
    return [header(line) for line in lines if line.strip()]


def fetch_options(options: argparse.Namespace) -> FetchOptions:
    """The options from the command line, with defaults. Raises `ValueError`, `OSError`."""
    chosen = {
        "user_agent": options.user_agent,
        "connect_timeout": options.connect_timeout,
        "stall_timeout": options.stall_timeout,
        "total_timeout": options.timeout,
        "wait_for_host": options.wait_for_host,
        "tries": None if options.retries is None else options.retries + 1,
    }
    return FetchOptions(
        connections=options.jobs,
        per_host=options.per_host,
        host_rate=options.host_rate,
        expect=tuple(options.expect),
        headers=tuple(options.header),
        max_size=options.max_size,
        decode=options.decode,
        rate=options.rate,
        ca_file=options.cacert,
        insecure=options.insecure_tls,
        no_private=options.no_private,
        proxy=options.proxy,
        logins=_logins(options),
        cookies=tuple(cookie for path in options.cookie for cookie in read_cookies(path, time.time())),
        cert_file=options.cert,
        key_file=options.key,
        # Keys sign what passes, and without them a hosted queue is on this machine: no need to hash twice.
        digest=options.no_keys or not schemes.hosted(queue_address(options)),
        **{name: value for name, value in chosen.items() if value is not None},
    )


def _logins(options: argparse.Namespace) -> tuple[Login, ...]:
    if options.netrc and options.netrc_file is not None:
        raise ValueError("--netrc: not allowed with --netrc-file")
    return read_netrc(options.netrc_file) if options.netrc or options.netrc_file is not None else ()


def warn(options: argparse.Namespace) -> None:
    """Warn of the protection that an option disables."""
    if options.insecure_tls:
        log.warning("-k, --insecure-tls: no certificate is checked: files may be read and changed in transit")
    if options.no_private and options.proxy is None and any(map(os.environ.get, PROXIES)):
        log.warning("--no-private: the proxy of the environment is not used")


def make_supervisor(
    listener: WorkerListener, count: int, quota: int | None = None, plain: tuple[str, ...] | None = None
) -> Supervisor:
    """A supervisor of `count` processes for remote clients. `plain`: as in `worker.main.WorkerConfig`.

    Modules are searched in the working directory first, as with ``python -m``. A fork server without threads
    and sockets forks the processes; it and they ignore SIGTERM, which is meant for the program.
    """
    # The programs that have no workers, such as a download, start without all this.
    import multiprocessing
    from multiprocessing import forkserver

    from nearfar.worker.supervisor import Supervisor

    start_tracker()
    look_here_first()
    forkserver.set_forkserver_preload(["nearfar.worker.forkserver_preload", "nearfar.worker.main"])
    return Supervisor(
        listener, count, context=multiprocessing.get_context("forkserver"), quota=quota, plain=plain
    )


def look_here_first() -> None:
    """Search modules in the working directory first."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def add_plain_option(parser: argparse.ArgumentParser | argparse._ArgumentGroup, whose: str) -> None:
    """Add ``--plain NAME...``, which may be repeated. `whose`: the processes it applies to, for the help."""
    parser.add_argument(
        "--plain",
        nargs="+",
        action="extend",
        type=allowed_name,
        metavar="NAME",
        help=f"{whose} read no pickle, accept only plain data, and run only functions of these modules or"
        " packages (or only the function MODULE:FUNCTION); their clients need Pool(plain=True)",
    )


def allowed_name(text: str) -> str:
    """A name for `Allowed` whose module can be found; nothing is imported."""
    from nearfar.serialization.plain import Allowed

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
    """The names of functions that may be called; None: any."""
    return None if options.plain is None else tuple(options.plain)


def describe(names: tuple[str, ...]) -> str:
    """The description of such processes for the log."""
    return f"reading no pickle; running only {', '.join(names)}"


def _missing(module: str) -> str:
    """The first part of a module's name that cannot be found; packages are searched, not imported."""
    parts = module.split(".")
    spec = find_spec(parts[0])
    for count in range(2, len(parts) + 1):
        if spec is None or spec.submodule_search_locations is None:
            break  # no folder to search: importing will show it
        spec = PathFinder.find_spec(".".join(parts[:count]), list(spec.submodule_search_locations))
        if spec is None:
            return ".".join(parts[:count])
    return parts[0] if spec is None else ""
