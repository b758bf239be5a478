"""The options of the command line that say how to fetch."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from nearfar.download.fetch.options import FetchOptions
from nearfar.programs.arguments import byte_count, header, natural, positive, seconds
from nearfar.programs.common import why

PROXIES = ("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
"""What libcurl takes a proxy from."""

log = logging.getLogger("nearfar.producer")


def add_fetching(group: argparse._ArgumentGroup) -> None:
    """One option for each setting of `FetchOptions` that a user has reason to change."""
    add = group.add_argument
    add("--jobs", type=positive, default=16, metavar="N", help="transfers at a time (16)")
    add("--per-host", type=positive, default=16, metavar="N", help="transfers at a time from one host (16)")
    add(
        "--expect",
        action="append",
        default=[],
        metavar="TYPE",
        help="refuse other kinds of files, by media type and first bytes: image/*",
    )
    add(
        "--header",
        type=headers,
        action="extend",
        default=[],
        metavar="'NAME: VALUE'",
        help="@FILE: a line each, where a process list does not show them",
    )
    add("--user-agent", metavar="TEXT")
    add(
        "--max-size",
        type=byte_count,
        metavar="SIZE",
        help="refuse larger files: 500k, 2M, 1GiB (1T, or 10G unannounced)",
    )
    add("--decode", action="store_true", help="ask for gzip and deflate, and save what comes of them")
    add("--rate", type=byte_count, metavar="SIZE", help="bytes a second, of each process in all")
    add("--connect-timeout", type=seconds, metavar="S", help="for name, connection and TLS")
    add("--stall-timeout", type=positive, metavar="S", help="below 100 bytes a second (30)")
    add("--timeout", type=seconds, metavar="S", help="for a whole request (a day)")
    add("--retries", type=natural, metavar="N", help="after the first attempt (4)")
    add(
        "--wait-for-host",
        type=seconds,
        metavar="S",
        help="for a host that puts requests off with 429 or 503 and Retry-After (600); spends no retry",
    )
    add("--cacert", type=Path, metavar="FILE", help="authorities to trust (PEM)")
    add("--insecure-tls", action="store_true", help="accept any certificate")
    add(
        "--no-private",
        action="store_true",
        help="connect to public addresses only, and to no proxy: for lists that others wrote",
    )


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
    """What the command line says, over the defaults. Raises `ValueError`."""
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
        expect=tuple(options.expect),
        headers=tuple(options.header),
        max_size=options.max_size,
        decode=options.decode,
        rate=options.rate,
        ca_file=options.cacert,
        insecure=options.insecure_tls,
        no_private=options.no_private,
        **{name: value for name, value in chosen.items() if value is not None},
    )


def warn(options: argparse.Namespace) -> None:
    """Say what an option gives up that its user may count on."""
    if options.insecure_tls:
        log.warning("--insecure-tls: no certificate is checked: files may be read and changed on their way")
    if options.no_private and any(map(os.environ.get, PROXIES)):
        log.warning("--no-private: the proxy of the environment is not used")
