"""The input: one job a line, read as it arrives, in bounded memory.

::

    https://host/a.png
    https://host/b.png <TAB> name=cats/b.png <TAB> sha256=9f86d0...
    https://host/c.png <TAB> name*=cats/%1Bc.png                   percent-encoded UTF-8
    https://host/d.png <TAB> # http-5xx: 503 after 4 requests      what a failures file says is ignored

White space around a line, a field, or the two sides of its ``=`` says nothing. Blank lines and lines that
start with ``#`` are skipped. A line that cannot be read becomes a `Bad` with its number; it never stops the
run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from nearfar.download.model import Checksum, Failure, Job, Reason
from nearfar.readable import percent, readable

LONGEST_LINE = 64 * 1024
"""Bytes. A longer line is refused: nothing that long is a URL, and memory stays bounded."""

_HEX_DIGITS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
_URL = re.compile(r"https?://[^\s\x00-\x1f\x7f/?#]+[^\s\x00-\x1f\x7f]*", re.IGNORECASE)
_HEX = re.compile(r"[0-9a-f]+")
_AROUND = " \t\r\n\v\f\xa0\u200b\ufeff"
"""What may stand around a line or a field: blanks of any kind that editors and web pages leave behind."""


@dataclass(frozen=True, slots=True)
class Bad:
    """A line of input that is not a job."""

    text: str
    """The line, or the empty string when it cannot be shown."""
    failure: Failure


class _NotAJobError(Exception):
    """Why a line was refused: its first argument, a sentence."""


def parse(line: str, where: str) -> Job | Bad | None:
    """Read one line; None when there is nothing on it. `where` names the line in a refusal."""
    text = line.strip(_AROUND)
    if not text or text.startswith("#"):
        return None
    url, *fields = text.split("\t")
    url = url.strip(_AROUND)
    try:
        _check_url(url)
        name, checksum = _read_fields(fields)
    except _NotAJobError as error:
        return Bad(text, _refusal(where, str(error)))
    return Job(url, name, checksum)


def _check_url(url: str) -> None:
    if _URL.fullmatch(url):
        return
    if any(character.isspace() for character in url):
        raise _NotAJobError("white space in a URL (fields are separated by tabs)")
    raise _NotAJobError("not an http or https URL")


def _read_fields(fields: Iterable[str]) -> tuple[str | None, Checksum | None]:
    name, checksum = None, None
    for field in (field.strip(_AROUND) for field in fields):
        if not field or field.startswith("#"):
            continue
        key, equals, value = field.partition("=")
        key, value = key.rstrip(_AROUND), value.lstrip(_AROUND)
        if not equals or not value:
            raise _NotAJobError(f"{field[:40]!r} is not of the form key=value")
        if key == "name":
            name = value
        elif key == "name*":
            name = _decoded(value)
        elif key in _HEX_DIGITS:
            checksum = Checksum(key, _digest(key, value))
        else:
            raise _NotAJobError(f"unknown field {key[:40]!r} (known: name, name*, {', '.join(_HEX_DIGITS)})")
    return name, checksum


def _decoded(value: str) -> str:
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise _NotAJobError("name* takes percent-encoded UTF-8") from None


def _digest(algorithm: str, value: str) -> str:
    digest = value.lower()
    if len(digest) != _HEX_DIGITS[algorithm] or not _HEX.fullmatch(digest):
        raise _NotAJobError(f"{algorithm} takes {_HEX_DIGITS[algorithm]} hexadecimal digits")
    return digest


def _refusal(where: str, detail: str) -> Failure:
    return Failure(Reason.REFUSED, f"{where}: {detail}")


def from_arguments(arguments: Iterable[str]) -> Iterator[list[Job | Bad]]:
    """Each argument as a batch of its own, read as a line is."""
    for number, argument in enumerate(arguments, 1):
        entry = parse(argument, f"argument {number}")
        if entry is not None:
            yield [entry]


class LineReader:
    """Cuts bytes, as they arrive, into entries; holds at most one line.

    A line is handed on as soon as its end is there, so that a slow pipe is followed as it speaks.
    """

    def __init__(self) -> None:
        self._number = 0
        self._rest = b""
        self._skipping = False

    def feed(self, data: bytes) -> list[Job | Bad]:
        """The entries that `data` completes."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        entries = self._read(lines)
        if len(self._rest) > LONGEST_LINE:
            if not self._skipping:
                entries.append(self._too_long(self._number + 1))
            self._skipping, self._rest = True, b""
        return entries

    def end(self) -> list[Job | Bad]:
        """The last line, when nothing ended it."""
        lines, self._rest = [self._rest], b""
        return self._read(lines)

    def _read(self, lines: list[bytes]) -> list[Job | Bad]:
        entries: list[Job | Bad] = []
        for line in lines:
            self._number += 1
            if self._skipping:
                self._skipping = False
            elif (entry := self._entry(line)) is not None:
                entries.append(entry)
        return entries

    def _entry(self, line: bytes) -> Job | Bad | None:
        if len(line) > LONGEST_LINE:
            return self._too_long(self._number)
        try:
            text = line.decode()
        except UnicodeDecodeError:
            return Bad("", _refusal(f"line {self._number}", "not UTF-8"))
        return parse(text, f"line {self._number}")

    @staticmethod
    def _too_long(number: int) -> Bad:
        return Bad("", _refusal(f"line {number}", f"longer than {LONGEST_LINE} bytes"))


def failed_line(entry: Job | Bad, failure: Failure) -> str:
    """A line for the failures file, which `parse` reads as the same job again.

    No character in it is one that a terminal would obey, wherever it came from. URLs and lines that were
    refused have them percent-encoded, and so has a name, as ``name*=``; what was said of it, as ``\\x1b``.
    """
    reason = f"# {failure.reason}: {readable(' '.join(failure.detail.split()))}"
    if isinstance(entry, Bad):
        fields = [percent(field) for field in entry.text.split("\t")] if entry.text else []
    else:
        fields = [percent(entry.url)]
        if entry.name is not None:
            fields.append(_name_field(entry.name))
        if entry.checksum is not None:
            fields.append(f"{entry.checksum.algorithm}={entry.checksum.digest}")
    return "\t".join([*fields, reason]) + "\n"


def _name_field(name: str) -> str:
    plain = percent(name)
    return f"name={name}" if plain == name else f"name*={percent(name.replace('%', '%25'))}"
