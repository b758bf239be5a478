"""``nearfar verify``: read what was saved again, and compare it with a list of digests."""

from __future__ import annotations

import argparse
import sys
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

from nearfar.download.store import StoreError
from nearfar.download.verify import Verified, digests, verify
from nearfar.programs.common import Exit, why
from nearfar.programs.counts import number, size
from nearfar.programs.streams import tell

LONGEST = 60.0
"""Seconds of silence after which an address gives no list."""
MANY = 10
"""Complaints that are told one by one."""


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, say what was found, and return an exit code (`Exit`): `OK` only if all is there and good."""
    options = make_parser().parse_args(argv)
    try:
        for folder in options.folders:
            if not folder.is_dir():
                raise NotADirectoryError(20, "there is no such folder", str(folder))
        wanted = digests(_lines(options.list))
        verified = verify(wanted, options.folders)
    except ValueError as error:
        print(f"nearfar verify: {options.list}: {error}", file=sys.stderr)
        return Exit.USAGE
    except (OSError, StoreError) as error:
        print(f"nearfar verify: {why(error)}", file=sys.stderr)
        return Exit.USAGE
    _say(verified, len(wanted))
    return Exit.FAILED if verified.complaints else Exit.OK


def make_parser() -> argparse.ArgumentParser:
    """The command line of this program."""
    parser = argparse.ArgumentParser(
        "nearfar verify",
        description="Read what was saved again, and compare it with a list of digests.",
        epilog="LIST has a line for each URL, with sha256=... after a tab, as producer -i takes it. `nearfar"
        " gallery` serves such a list of its images, as /digests.txt.",
    )
    parser.add_argument("list", metavar="LIST", help="a file, or an http address")
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="where consumers saved")
    return parser


def _lines(place: str) -> list[str]:
    """Raises `OSError`; `ValueError` for what is not text, and for an address or answer that is not HTTP."""
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


def _say(verified: Verified, wanted: int) -> None:
    for folder, files in verified.files.items():
        tell(f"{folder}: {number(files, 'file')} as the list has them")
    for complaint in verified.complaints[:MANY]:
        tell(f"WRONG: {complaint}")
    if len(verified.complaints) > MANY:
        tell(f"WRONG: and {number(len(verified.complaints) - MANY, 'other thing')}")
    good = len(verified.sizes)
    tell(f"{good:,} of {number(wanted, 'url')} saved and verified ({size(sum(verified.sizes.values()))})")
