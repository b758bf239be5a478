"""``nearfar completions``: print completions of the command line for a shell."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from nearfar.cli import PROGRAMS, parser_of
from nearfar.cli.exits import Exit, tell
from nearfar.cli.parser import Parser, about

SHELLS = ("bash", "zsh", "fish")


def main(argv: Sequence[str] | None = None) -> int:
    """Print a script for the shell, and return an exit code (`Exit`)."""
    options = make_parser().parse_args(argv)
    try:
        import shtab
    except ImportError:
        print("nearfar completions: needs pip install 'nearfar[completions]'", file=sys.stderr)
        return Exit.USAGE
    tell(shtab.complete(whole(), shell=options.shell).rstrip("\n"))
    return Exit.OK


def make_parser() -> argparse.ArgumentParser:
    """The command line of this program."""
    parser = Parser(
        "nearfar completions",
        configurable=False,
        usage="SHELL",
        description=about(__doc__),
        examples=(
            "nearfar completions bash > nearfar.bash",
            "nearfar completions zsh > _nearfar",
            "nearfar completions fish > nearfar.fish",
        ),
        epilog="bash: source the file in ~/.bashrc. zsh: put it into a folder of $fpath. fish: put it into"
        " ~/.config/fish/completions.",
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=f"{', '.join(SHELLS)}")
    return parser


def whole() -> argparse.ArgumentParser:
    """One parser with each program as a subcommand, as shtab reads it."""
    parser = argparse.ArgumentParser("nearfar", description="one queue and one pool, near or far")
    commands = parser.add_subparsers(metavar="PROGRAM")
    for program, does in PROGRAMS.items():
        try:
            parent = parser_of(program)
        except ImportError:
            continue  # its libraries are not installed, so it cannot be started
        commands.add_parser(program, help=does, parents=[parent], add_help=False)
    shown = commands.add_parser("help", help="show the help of a program")
    shown.add_argument("program", choices=[*PROGRAMS], metavar="PROGRAM", help="whose help to show")
    return parser
