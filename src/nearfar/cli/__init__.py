"""The programs of the command ``nearfar``, each in the module of its name."""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # not from typing, whose import would slow down the start of programs
if TYPE_CHECKING:
    import argparse

PROGRAMS = {
    "producer": "download URLs and put the files on a queue",
    "consumer": "get files from a queue and save them",
    "verify": "compare what was saved with a list of digests",
    "queue": "host a queue by itself",
    "coordinator": "coordinate a pool by itself",
    "worker": "join a pool with this machine's processes",
    "top": "show in a terminal what a program does",
    "keys": "make keys, and decide which clients are admitted",
    "config": "show the settings in use, and where each comes from",
    "completions": "print completions of the command line for a shell",
    "gallery": "serve generated images over HTTP, for trials",
    "contrast": "measure queues, pools and the effects of faults, on this machine",
    "demo": "run a download in four ways on this machine, in under a minute",
}


def parser_of(program: str) -> argparse.ArgumentParser:
    """The command line of a program. Raises `ImportError` for one whose libraries are not installed."""
    parser: argparse.ArgumentParser = importlib.import_module(f"nearfar.cli.{program}").make_parser()
    return parser
