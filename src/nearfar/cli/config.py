"""``nearfar config``: show the settings in use, and where each comes from."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from nearfar.cli import PROGRAMS, parser_of
from nearfar.cli.configuration import ConfigurationError, configurable, files, read, settings_of, words_of
from nearfar.cli.exits import Exit, tell
from nearfar.cli.parser import Parser, about
from nearfar.readable import readable

DEFAULT = "default"
SECRETS = {
    "header": re.compile(r"(?<=:)(?s:.+)"),
    "cookie": re.compile(r"(?<==)(?s:.+)"),
    "proxy": re.compile(r"(?<=//)[^/@]*(?=@)"),
}
"""What is not shown of the values of options."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the settings as a file could say them, and return an exit code (`Exit`)."""
    options = make_parser().parse_args(argv)
    shown: dict[str, dict[str, tuple[Any, str]]] = {}
    try:
        for program in [options.program] if options.program else PROGRAMS:
            shown[program] = dict(_holding(program, options.config, defaults=bool(options.program)))
        found = [str(path) for path in files(options.config)]
    except ConfigurationError as error:
        print(f"nearfar config: {readable(str(error))}", file=sys.stderr)
        return Exit.USAGE
    if options.json:
        tell(json.dumps({"files": found, "settings": _as_objects(shown)}, indent=2))
    else:
        tell("\n".join(_as_text(shown, found)))
    return Exit.OK


def make_parser() -> argparse.ArgumentParser:
    """The command line of this program."""
    parser = Parser(
        "nearfar config",
        configurable=False,
        usage="[OPTION...] [PROGRAM]",
        examples=("nearfar config", "nearfar config producer", "nearfar config --config other.toml --json"),
        description=about(__doc__),
        epilog="An option on the command line is the strongest. Then come the variables"
        " NEARFAR_PROGRAM_OPTION and NEARFAR_OPTION, nearfar.toml in the working directory, and"
        " nearfar/nearfar.toml in $XDG_CONFIG_HOME or ~/.config. --config FILE, or NEARFAR_CONFIG=FILE, takes"
        " the place of both files; NEARFAR_CONFIG= reads none. A file has long names of options: for all"
        " programs at its top, for one program in a table [PROGRAM].",
    )
    parser.add_argument(
        "program",
        nargs="?",
        choices=[*PROGRAMS],
        metavar="PROGRAM",
        help="show all options of PROGRAM, with the defaults (without PROGRAM: the options that are set,"
        " of all programs)",
    )
    group = parser.add_argument_group("options")
    group.add_argument("--config", metavar="FILE", help="show what this file sets")
    group.add_argument(
        "--json", action="store_true", help="print one JSON object: files, settings by program"
    )
    return parser


def _holding(program: str, named: str | None, *, defaults: bool) -> Iterator[tuple[str, tuple[Any, str]]]:
    """The options of `program` with their value and its place. Raises `ConfigurationError`."""
    try:
        parser = parser_of(program)
    except ImportError:
        return  # its libraries are not installed, so it cannot be started
    if not getattr(parser, "configurable", False):
        for path in files(named):
            if program in read(path):
                raise ConfigurationError(f"{path}: {program} takes no settings")
        return
    words = [] if named is None else [f"--config={named}"]
    settings = settings_of(program, parser, words)
    words_of(parser, settings)
    chosen = {option: (value, place) for option, value, place in settings}
    for option, action in configurable(parser).items():
        if option in chosen:
            yield option, (_without_secret(option, chosen[option][0]), chosen[option][1])
        elif defaults and action.help is not argparse.SUPPRESS:
            yield option, (action.default, DEFAULT)


def _without_secret(option: str, value: Any) -> Any:
    if option not in SECRETS or value is None:
        return value
    if isinstance(value, list):
        return [_without_secret(option, each) for each in value]
    return SECRETS[option].sub("...", str(value))


def _as_objects(shown: dict[str, dict[str, tuple[Any, str]]]) -> dict[str, dict[str, dict[str, Any]]]:
    return {
        program: {
            option: {"value": value, "from": place} for option, (value, place) in sorted(settings.items())
        }
        for program, settings in shown.items()
        if settings
    }


def _as_text(shown: dict[str, dict[str, tuple[Any, str]]], found: list[str]) -> Iterator[str]:
    yield f"# files: {', '.join(map(readable, found)) or 'none'}"
    for program, settings in shown.items():
        if not settings:
            if len(shown) == 1:
                yield f"# {program} takes no settings"
            continue
        yield f"\n[{program}]"
        lines = {f"{option} = {_toml(value)}": place for option, (value, place) in sorted(settings.items())}
        width = max(map(len, lines))
        for line, place in lines.items():
            unset = "# " if line.endswith(" = not set") else ""
            yield readable(f"{unset}{line:<{width - len(unset)}}  # {place}")


def _toml(value: Any) -> str:
    """`value` as TOML writes it; ``not set`` for None."""
    if value is None:
        return "not set"
    if isinstance(value, str | bool | int | float):
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(
        [str(each) for each in value] if isinstance(value, list | tuple) else str(value), ensure_ascii=False
    )
