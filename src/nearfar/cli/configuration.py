"""Settings from files and from the environment: what an option says, said once for all runs.

From the strongest: options, variables `NEARFAR_PROGRAM_OPTION` and `NEARFAR_OPTION`, ``nearfar.toml`` in the
working directory, ``nearfar/nearfar.toml`` in the user's configuration folder. ``--config FILE``, or
`NEARFAR_CONFIG`, takes the place of both files. A file has the long names of options: for all programs at its
top, for one program in a table::

    keys = "laptop"

    [producer]
    jobs = 32
    header = ["Accept: image/*"]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nearfar.cli import PROGRAMS, parser_of

__all__ = [
    "NAMED",
    "ConfigurationError",
    "Setting",
    "configurable",
    "did_you_mean",
    "files",
    "no_settings",
    "settings_of",
    "words_of",
]

FILE = "nearfar.toml"
LARGEST = 1_000_000
"""Bytes of a file."""
PREFIX = "NEARFAR_"
NAMED = "NEARFAR_CONFIG"
"""The variable that names a file; empty: no file is read."""
OF_THE_LIBRARY = "NEARFAR_SHARED_MEMORY"
"""The variable that is no setting of a program, and is left to those that `no_settings` shields."""
SWITCH = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}
"""Values of variables for options that take none."""


class ConfigurationError(Exception):
    """A setting that cannot be used. The text says where it is, and what to do."""


class Setting(NamedTuple):
    """The value of one option, and the file or variable that it comes from."""

    option: str
    """The long name, without ``--``."""
    value: Any
    place: str


def settings_of(program: str, parser: argparse.ArgumentParser, words: Sequence[str]) -> list[Setting]:
    """The settings for `program` that its command line `words` leaves in force, each option once.

    An option of `words` outweighs a setting for it and for those that exclude it; options that may be
    repeated add to the setting. Raises `ConfigurationError`.
    """
    options = configurable(parser)
    given, named = _given(parser, words)
    decided = set(given)
    chosen: dict[str, Setting] = {}
    for values, place in _sources(program, options, named):
        ruled_out = {
            each.dest
            for group in parser._mutually_exclusive_groups
            if any(each.dest in decided for each in group._group_actions)
            for each in group._group_actions
        }
        for option, value in values.items():
            dest = options[option].dest
            if (
                option not in chosen
                and dest not in ruled_out
                and (dest not in given or _repeats(options[option]))
            ):
                chosen[option] = Setting(option, value, place)
        decided |= {options[option].dest for option in chosen}
    return [*chosen.values()]


def words_of(parser: argparse.ArgumentParser, settings: Iterable[Setting]) -> list[str]:
    """`settings` as words for `parser`. Raises `ConfigurationError` for a value that its option refuses."""
    options = configurable(parser)
    words: list[str] = []
    for option, value, place in settings:
        action = options[option]
        if action.nargs == 0 or (action.nargs == "?" and isinstance(value, bool)):
            if not isinstance(value, bool):
                raise ConfigurationError(f"{place}: {option} is true or false, not {value!r}")
            if value:
                words.append(f"--{option}" if action.nargs == 0 else f"--{option}={action.const}")
            continue
        many = value if isinstance(value, list) and _repeats(action) else [value]
        for each in many:
            if isinstance(each, bool) or not isinstance(each, str | int | float):
                raise ConfigurationError(f"{place}: {option} cannot be {each!r}")
            try:
                parser._check_value(action, parser._get_value(action, str(each)))
            except argparse.ArgumentError as error:
                raise ConfigurationError(f"{place}: {option}: {error.message}") from None
            words.append(f"--{option}={each}")
    return words


def configurable(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The options that a setting can stand for, by their long names: not those that print and exit."""
    return {
        name.removeprefix("--"): action
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction | argparse._VersionAction)
        and action.nargs in (None, 0, "?", "+")
        for name in action.option_strings
        if name.startswith("--") and name != "--config"
    }


def files(named: str | None) -> list[Path]:
    """The files that are read, the strongest first. `named`: the value of ``--config``."""
    named = os.environ.get(NAMED) if named is None else named
    if named is not None:
        return [Path(named)] if named else []
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    user = Path(home).expanduser() / "nearfar" / FILE
    return [path for path in (Path(FILE), user) if path.exists()]


def read(path: Path) -> dict[str, Any]:
    """The content of a file.

    Raises `ConfigurationError`, also for a file that others can change: its settings decide which peers
    this user's programs trust.
    """
    import tomllib  # most runs have no file

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise ValueError("it is not a regular file")
            others = stat.S_IWGRP | stat.S_IWOTH
            if found.st_uid not in (0, os.geteuid()) or found.st_mode & others:
                raise ValueError("other users can change it; make it yours, and chmod go-w it")
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise ValueError(f"it is larger than {LARGEST:,} bytes")
        return tomllib.loads(text.decode())
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigurationError(f"cannot use {path}: {error}") from None


@contextlib.contextmanager
def no_settings() -> Iterator[None]:
    """Inside, the user's files and variables count neither here nor in the processes that are started.

    For programs that show or measure nearfar itself: their result must not depend on settings that are meant
    for the user's own work, such as keys.
    """
    hidden = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(PREFIX) and name != OF_THE_LIBRARY
    }
    for name in hidden:
        del os.environ[name]
    os.environ[NAMED] = ""
    try:
        yield
    finally:
        del os.environ[NAMED]
        os.environ.update(hidden)


def _sources(
    program: str, options: Mapping[str, argparse.Action], named: str | None
) -> Iterator[tuple[dict[str, Any], str]]:
    """The values in each place, with the place, the strongest first; only those for `options`."""
    for option, action in options.items():
        for name in (f"{PREFIX}{program}_{option}", f"{PREFIX}{option}"):
            if text := os.environ.get(variable := name.upper().replace("-", "_")):
                yield {option: _from_text(text, action)}, variable
                break
    for path in files(named):
        content = read(path)
        tables = {
            name: table for name, table in content.items() if name in PROGRAMS and isinstance(table, dict)
        }
        own = tables.get(program, {})
        for option in own:
            if option not in options:
                hint = did_you_mean(option, options)
                raise ConfigurationError(f"{path}: {program} has no setting {option!r}{hint}")
        yield own, f"{path} [{program}]"
        shared = {option: value for option, value in content.items() if option not in tables}
        if unknown := shared.keys() - options.keys():
            _check_shared(path, unknown, content)
        yield {option: value for option, value in shared.items() if option in options}, str(path)


def _check_shared(path: Path, names: Iterable[str], content: Mapping[str, Any]) -> None:
    """Raise `ConfigurationError` if names at the top of a file are settings of no program."""
    known = {option for program in PROGRAMS for option in configurable(parser_of(program))}
    for name in sorted(names):
        if isinstance(content[name], dict):
            raise ConfigurationError(f"{path}: there is no program {name!r}{did_you_mean(name, PROGRAMS)}")
        if name not in known:
            raise ConfigurationError(f"{path}: no program has a setting {name!r}{did_you_mean(name, known)}")


def _from_text(text: str, action: argparse.Action) -> Any:
    """The value of a variable: a flag as a truth value, several values of one option as its words."""
    if action.nargs == 0:
        return SWITCH.get(text.lower(), text)
    return text.split() if action.nargs == "+" else text


def _repeats(action: argparse.Action) -> bool:
    """Whether the option may be given several times, and each adds to the others."""
    return isinstance(action, argparse._AppendAction)


def _given(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[set[str], str | None]:
    """What the options on a command line set (their `dest`), and the value of ``--config``."""
    known = parser._option_string_actions
    given, named = set(), None
    for place, word in enumerate(words):
        if word == "--":
            break
        name, equals, value = word.partition("=")
        if name == "--config":
            named = value if equals else "".join(words[place + 1 : place + 2])
        elif name in known:
            given.add(known[name].dest)
        elif word.startswith("-") and not word.startswith("--"):
            for letter in word[1:]:
                action = known.get(f"-{letter}")
                if action is None:
                    break
                given.add(action.dest)
                if action.nargs != 0:
                    break  # the rest is its value
    return given, named


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` (did you mean --jobs?)``, or nothing if no word in `known` is similar."""
    from difflib import get_close_matches  # needed after a typing error only

    words = list(known)
    close = [each for each in words if len(word) > 3 and each.startswith(word)] or get_close_matches(
        word, words, 1, 0.7
    )
    return f" (did you mean {close[0]}?)" if close else ""
