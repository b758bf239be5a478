"""The options ``--dashboard`` and ``--dashboard-token`` of every program that runs for long."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nearfar.errors import AddressError

if TYPE_CHECKING:
    from nearfar.dashboard.board import Board

DEFAULT = "127.0.0.1:8787"
AUTO = "auto"
"""The value without HOST:PORT, and of ``dashboard = true`` in a file of settings."""

log = logging.getLogger("nearfar.dashboard")


def add_dashboard_options(parser: argparse.ArgumentParser) -> None:
    """Add both options."""
    group = parser.add_argument_group("dashboard")
    group.add_argument(
        "--dashboard",
        nargs="?",
        const=AUTO,
        type=_place,
        metavar="HOST:PORT",
        help="serve a page, JSON and metrics of this program; port *: any free port (without HOST:PORT:"
        f" {DEFAULT}, or another port if that is in use)",
    )
    group.add_argument(
        "--dashboard-token",
        metavar="FILE",
        help="a file with the token that browsers must send as the password; required if HOST is not this"
        " machine",
    )


def _place(text: str) -> str | bool:
    from nearfar.dashboard.server import parse

    if text == AUTO:
        return True
    if "//" in text:
        raise argparse.ArgumentTypeError(
            f"it takes HOST:PORT, not a URL: put it last, or write --dashboard={DEFAULT}"
        )
    try:
        parse(text)
    except AddressError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


@contextmanager
def dashboard(options: argparse.Namespace, program: str) -> Iterator[Board | None]:
    """The board on which `program` is to publish its status, if a dashboard was asked for; it is served until
    the end of the block. Raises `AddressError` and `KeysError`."""
    if options.dashboard is None:
        if options.dashboard_token is not None:
            raise AddressError("--dashboard-token applies to --dashboard only")
        yield None
        return
    from nearfar.dashboard.board import Board
    from nearfar.dashboard.server import Dashboard

    board = Board(program)
    made = Dashboard(board, options.dashboard, options.dashboard_token)
    log.info("the dashboard is at %s", made.url, extra={"event": "dashboard", "fields": {"url": made.url}})
    try:
        yield board
    finally:
        made.close()
