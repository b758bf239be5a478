"""The command-line parser of every program: grouped help, errors in one line, and what was probably meant.

The options are plain argparse: other code reads them from the parser's actions.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, NoReturn

from nearfar import __version__
from nearfar.cli.configuration import ConfigurationError, did_you_mean, settings_of, words_of
from nearfar.cli.exits import Exit
from nearfar.readable import readable

WIDEST = 100
"""Characters of a help line: longer lines are hard to read."""
UNTOLD: tuple[object, ...] = (None, False, True, argparse.SUPPRESS)
"""Defaults that the help does not print, nor an empty list."""
REQUIRED = "the following arguments are required"
"""The beginning of argparse's error for missing arguments."""


class HelpFormatter(argparse.HelpFormatter):
    """Prints defaults, and keeps indented lines of an epilog, such as examples, as they are."""

    def __init__(self, prog: str, **others: Any) -> None:
        width = min(shutil.get_terminal_size().columns, WIDEST) - 2
        super().__init__(prog, **{"max_help_position": 26, "width": width} | others)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        said = action.help or ""
        untold = action.default == [] or any(action.default is each for each in UNTOLD)
        named = "%(default)s" in said or "(default: " in said
        told = untold or named or not action.option_strings
        return said if told else f"{said} (default: %(default)s)"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(
            part
            if part.startswith("  ") or part.endswith(":")
            else textwrap.fill(" ".join(part.split()), width)
            for part in text.split("\n\n")
        ).replace(":\n\n  ", ":\n  ")

    if sys.version_info < (3, 13):

        def _format_action_invocation(self, action: argparse.Action) -> str:
            """``-j, --jobs N``, as newer Pythons print it, in place of ``-j N, --jobs N``."""
            if not action.option_strings or action.nargs == 0:
                return super()._format_action_invocation(action)
            value = self._format_args(action, self._get_default_metavar_for_optional(action))
            return f"{', '.join(action.option_strings)} {value}"


class Parser(argparse.ArgumentParser):
    """The parser of one program: ``nearfar NAME``.

    An error is one line on standard error, and exit code 2. Options are never abbreviated: a shortened one
    could mean another in a later version. URLs and options may come in any order.
    """

    def __init__(
        self,
        prog: str,
        *,
        usage: str = "",
        examples: Sequence[str] = (),
        epilog: str = "",
        configurable: bool = True,
        **settings: Any,
    ) -> None:
        """`usage`: what follows the program's name; `examples`: command lines for the end of the help;
        `configurable`: files and the environment may set its options."""
        if examples:
            lines = "\n".join(f"  {line}" for line in examples)
            epilog = f"examples:\n\n{lines}\n\n{epilog}".strip()
        super().__init__(
            prog,
            usage=f"%(prog)s {usage}" if usage else None,
            epilog=epilog or None,
            formatter_class=HelpFormatter,
            allow_abbrev=False,
            add_help=False,
            **settings,
        )
        self.configurable = configurable
        self._words: list[str] = []
        self._positionals.title = "arguments"
        self._optionals.title = "help"
        self.add_argument("-h", "--help", action="help", default=argparse.SUPPRESS, help="print this text")
        self.add_argument(
            "-V",
            "--version",
            action="version",
            version=f"nearfar {__version__}",
            help="print the version of nearfar",
        )
        if configurable:
            self.add_argument(
                "--config",
                metavar="FILE",
                default=argparse.SUPPRESS,
                help="read settings from FILE, in place of nearfar.toml; see nearfar help config",
            )

    def format_help(self) -> str:
        """The options without a group, ``--help`` and ``--version``, are at the end."""
        self._action_groups.sort(key=lambda group: group is self._optionals)
        return super().format_help()

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, after the settings of files and of the environment; positional arguments may stand
        between options."""
        words = self._words = sys.argv[1:] if args is None else list(args)
        if self.configurable:
            words = [*self._settings(words), *words]
        parse = self.parse_known_args if self._subparsers else self.parse_known_intermixed_args
        options, unknown = parse(words, namespace)
        if unknown:
            self.error(self._unknown(unknown[0]))
        return options

    def _settings(self, words: Sequence[str]) -> list[str]:
        """The settings that apply to a command line of `words`, as words to put before it."""
        try:
            return words_of(self, settings_of(self.prog.split()[-1], self, words))
        except ConfigurationError as error:
            self.exit(Exit.USAGE, f"{self.prog}: {readable(str(error))}; see nearfar config\n")

    def error(self, message: str) -> NoReturn:
        """Report a wrong command line in one line, and exit with code 2. An unknown option is reported before
        a missing argument."""
        if message.startswith(REQUIRED) and (unknown := self._unknown_option()):
            message = self._unknown(unknown)
        said = readable(message.removeprefix("argument "))
        self.exit(Exit.USAGE, f"{self.prog}: {said}; see {self.prog} --help\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            said = f"{value!r} is none of {', '.join(known)}{did_you_mean(str(value), known)}"
            raise argparse.ArgumentError(action, said)

    def _unknown_option(self) -> str:
        """The first long option on the command line that does not exist; "" for none."""
        known = {*self._option_string_actions, *self._options()}
        words = takewhile(lambda word: word != "--", self._words)
        long = (word for word in words if word.startswith("--"))
        return next((word for word in long if word.partition("=")[0] not in known), "")

    def _unknown(self, word: str) -> str:
        if not word.startswith("-"):
            return f"unexpected argument {_short(word)}"
        name = word.partition("=")[0]
        return f"there is no option {_short(name, quoted=False)}{did_you_mean(name, self._options())}"

    def _options(self) -> list[str]:
        """The long options that the help shows, those of subcommands included."""
        found = [
            name
            for action in self._actions
            if action.help is not argparse.SUPPRESS
            for name in action.option_strings
            if name.startswith("--")
        ]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                found += [name for each in action.choices.values() for name in each._options()]
        return found


class Renamed(argparse.Action):
    """An option under its former name: it works as before, and a warning names the new one.

    The warnings are in the namespace's `renamed`, until `common.set_up_logging` logs them.
    """

    def __init__(
        self, option_strings: Sequence[str], dest: str, new: str, why: str = "", **settings: Any
    ) -> None:
        """`new`: the option to use; `why`: the reason, for the user."""
        super().__init__(option_strings, dest, help=argparse.SUPPRESS, **settings)
        self._new = new
        self._why = why

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, True if self.nargs == 0 else values)
        warnings = getattr(namespace, "renamed", [])
        namespace.renamed = [*warnings, f"{option} is called {self._new} now{self._why}"]


def about(doc: str | None) -> str:
    """What a program does, from its module's docstring: the text after ``nearfar NAME: ``."""
    said = (doc or "").partition(": ")[2]
    return said[:1].upper() + said[1:]


def _short(word: str, *, quoted: bool = True) -> str:
    word = word if len(word) <= 50 else f"{word[:40]}..."
    return repr(word) if quoted else word
