"""``nearfar verify``: read the saved files again, and compare them with a list of digests."""

from __future__ import annotations

import argparse
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

from nearfar.cli.common import add_json_option, complain, why
from nearfar.cli.exits import Exit, tell, tell_json
from nearfar.cli.parser import Parser
from nearfar.cli.progress import number, size
from nearfar.download.model import StoreError
from nearfar.download.store.partials import KEPT
from nearfar.download.verify import Verified, digests, verify, verify_saved

LONGEST = 60.0
"""Seconds of silence after which fetching the list fails."""
MANY = 10
"""The most problems that are printed one by one."""


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print the result, and return an exit code (`Exit`): `OK` only if all files are correct."""
    parser = make_parser()
    options = parser.parse_args(argv)
    alone = Path(options.list).is_dir()
    if not alone and not options.folders:
        parser.error("name the folders to look into, after the list")
    folders = [Path(options.list), *options.folders] if alone else options.folders
    try:
        for folder in folders:
            if not folder.is_dir():
                raise NotADirectoryError(20, "there is no such folder", str(folder))
        wanted = None if alone else digests(_lines(options.list))
        if wanted is None:
            verified = verify_saved(folders, repair=options.repair)
        else:
            verified = verify(wanted, folders, repair=options.repair)
    except ValueError as error:
        print(f"nearfar verify: {options.list}: {why(error)}", file=sys.stderr)
        return Exit.USAGE
    except (OSError, StoreError) as error:
        return complain("verify", error)
    code = Exit.FAILED if verified.complaints else Exit.OK
    if options.json:
        tell_json(_result(verified, wanted, code))
    else:
        _say(verified, wanted)
        _say_what_to_do(verified, repair=options.repair)
    return code


def make_parser() -> argparse.ArgumentParser:
    """The command line of this program."""
    parser = Parser(
        "nearfar verify",
        usage="LIST DIR... | DIR... [OPTION...]",
        description="Read the saved files again, and compare them with a list of digests; without a list,"
        " with the digests that the files had when they were saved.",
        examples=(
            "nearfar verify downloads",
            "nearfar verify urls-with-digests.txt downloads",
            "nearfar verify downloads --repair",
        ),
        epilog="LIST has one URL on each line, with sha256=... after a tab, as for producer -i. `nearfar"
        " gallery` serves such a list of its images, as /digests.txt.\n\nExit code: 0 if all files of"
        " the list are correct, even if the folders hold more; 1 if not; 2 if a file cannot be read.",
    )
    parser.add_argument(
        "list",
        metavar="LIST",
        help="a file or an http address with digests; if it is a folder, it is checked like DIR, without a"
        " list",
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR", help="where files were saved")
    parser.add_argument_group("what to do").add_argument(
        "--repair",
        action="store_true",
        help="rename wrong files (NAME.spoilt...), and remove them from the manifest, so that the next run"
        " of the producer fetches them again",
    )
    add_json_option(parser.add_argument_group("output"))
    return parser


def _result(verified: Verified, wanted: Mapping[str, str] | None, code: int) -> dict[str, object]:
    return {
        "folders": {str(folder): files for folder, files in verified.files.items()},
        "urls": None if wanted is None else len(wanted),
        "verified": len(verified.sizes),
        "size": sum(verified.sizes.values()),
        "wrong": verified.complaints,
        "not_in_list": verified.unlisted,
        "repaired": verified.repaired,
        "exit_code": int(code),
    }


def _lines(place: str) -> list[str]:
    """The lines of a list. Raises `OSError`, and `ValueError` if it is not text, or not fetched by HTTP."""
    if place.startswith(("http://", "https://")):
        try:
            with urllib.request.urlopen(place, timeout=LONGEST) as answer:
                return str(answer.read(), "utf-8").splitlines()
        except HTTPException as error:
            raise ValueError(str(error) or type(error).__name__) from error
        except URLError as error:
            reason = why(error.reason) if isinstance(error.reason, Exception) else error.reason
            raise ValueError(f"cannot be fetched: {reason}") from error
    return Path(place).read_text(encoding="utf-8").splitlines()


def _say(verified: Verified, wanted: Mapping[str, str] | None) -> None:
    as_what = "as they were saved" if wanted is None else "as the list has them"
    for folder, files in verified.files.items():
        tell(f"{folder}: {number(files, 'file')} {as_what}")
    _say_each("WRONG", verified.complaints)
    _say_each("not in the list", verified.unlisted)
    _say_each("unfinished", verified.unfinished)
    good = f"{len(verified.sizes):,}"
    if wanted is not None:
        good = f"{good} of {number(len(wanted), 'url')} saved and"
    unlisted = f"; {number(len(verified.unlisted), 'file')} not in the list" if verified.unlisted else ""
    tell(f"{good} verified ({size(sum(verified.sizes.values()))}){unlisted}")


def _say_each(what: str, found: Sequence[str]) -> None:
    for each in found[:MANY]:
        tell(f"{what}: {each}")
    if len(found) > MANY:
        tell(f"{what}: and {number(len(found) - MANY, 'other thing')}")


def _say_what_to_do(verified: Verified, *, repair: bool) -> None:
    for repaired in verified.repaired:
        tell(f"repaired: {repaired}")
    if verified.unfinished:
        days = KEPT / 86_400
        tell(f"the producer's command continues unfinished files; they are removed after {days:.0f} days")
    if not verified.complaints:
        return
    if repair:
        tell("to fetch what is missing now, run the producer's command again")
    else:
        tell("to have it fetched again: the same command with --repair, then the producer's again")
