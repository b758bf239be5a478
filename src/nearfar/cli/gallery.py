"""``nearfar gallery``: serve generated pictures over HTTP until a signal."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence

from nearfar.cli.common import StopRequest, add_logging_options, set_up_logging
from nearfar.cli.exits import Exit
from nearfar.cli.options import positive
from nearfar.cli.parser import Parser
from nearfar.demo.gallery import Gallery
from nearfar.demo.server import GalleryServer

logger = logging.getLogger(__name__)


def make_parser() -> argparse.ArgumentParser:
    """The command line of this program."""
    parser = Parser(
        "nearfar gallery",
        usage="[OPTION...]",
        description="Serve generated images over HTTP until SIGINT or SIGTERM, to try downloads.",
        examples=("nearfar gallery", "nearfar gallery --bind 127.0.0.1:8080 --count 5000"),
    )
    add = parser.add_argument_group("serving").add_argument
    add("--bind", metavar="HOST:PORT", type=address, default="127.0.0.1:8000", help="where to listen")
    add("--count", type=positive, default=200, metavar="N", help="how many pictures")
    add("--seed", default="nearfar", help="text that determines the pictures")
    add_logging_options(parser)
    return parser


def address(text: str) -> tuple[str, int]:
    """``127.0.0.1:8000`` or ``[::1]:8000`` as host and port."""
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and len(port) <= 5) or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM, which is a normal end; return an exit code."""
    options = make_parser().parse_args(argv)
    set_up_logging(options)
    host, port = options.bind
    gallery = Gallery(options.count, large=min(2, options.count), seed=options.seed)
    try:
        with StopRequest() as stop, GalleryServer(gallery, host, port) as server:
            logger.info("serving %d images at %s/ (list: %s/urls.txt)", options.count, server.url, server.url)
            stop.wait()
    except OSError as error:
        known = (error.errno or 0) > 0  # a negative number is an error of the resolver
        why = os.strerror(error.errno or 0) if known else error.strerror or error
        logger.error("cannot listen at %s:%d: %s", host, port, why)
        return Exit.USAGE
    return Exit.OK
