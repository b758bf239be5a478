"""The input: one job per line, read ahead in bounded memory, without duplicates.

::

    https://host/a.png
    https://host/b.png <TAB> name=cats/b.png <TAB> sha256=9f86d0...
    https://host/c.png <TAB> name*=cats/%1Bc.png                   percent-encoded UTF-8
    https://host/d.png <TAB> # http-5xx: 503 after 4 requests      a failures file's reason is ignored

White space around a line, a field, or the two sides of its ``=`` is ignored. Blank lines and lines that start
with ``#`` are skipped. An invalid line becomes a `Bad` with its number; it never stops the run.
"""

from __future__ import annotations

import hashlib
import os
import re
import select
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from threading import Condition, Thread
from typing import NamedTuple, Protocol
from urllib.parse import unquote

from nearfar.download.globs import Glob, GlobError
from nearfar.download.model import Checksum, Failure, Job, Reason
from nearfar.download.patterns import compile_lazily
from nearfar.download.redact import redact_url
from nearfar.download.urls import resource
from nearfar.output import same_file
from nearfar.readable import percent, readable

LEAST_URL = len("http://a.example/1\n")
"""Bytes of a line; shorter ones are rare."""
LONGEST_LINE = 64 * 1024
"""Bytes. A longer line is refused: no valid URL is that long, and memory stays bounded."""

_HEX_DIGITS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
_URL = compile_lazily(r"https?://[^\s\x00-\x1f\x7f/?#]+[^\s\x00-\x1f\x7f]*", re.IGNORECASE)
_HEX = compile_lazily(r"[0-9a-f]+")
_AROUND = " \t\r\n\v\f\xa0\u200b\ufeff"
"""White space around a line or a field: all kinds that editors and web pages insert."""


class Bad(NamedTuple):
    """A line of input that is not a job."""

    text: str
    """The line, or the empty string if it cannot be shown."""
    failure: Failure


class _NotAJobError(Exception):
    """Why a line was refused: its first argument, a sentence."""


def parse(line: str, where: str) -> Job | Bad | None:
    """Parse one line; None if it is blank or a comment. `where` names the line in a refusal."""
    text = line.strip(_AROUND)
    if not text or text.startswith("#"):
        return None
    if "\t" not in text and _URL.fullmatch(text):
        return Job(text)
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
    return Failure(Reason.REJECTED, f"{where}: {detail}")


def from_arguments(arguments: Iterable[Iterable[str]]) -> Iterator[list[Job | Bad]]:
    """The lines that each argument stands for, in batches."""
    for number, lines in enumerate(arguments, 1):
        rest = iter(lines)
        while batch := list(islice(rest, BATCH)):
            yield [entry for line in batch if (entry := parse(line, f"argument {number}")) is not None]


class LineReader:
    """Splits bytes into entries as they arrive; buffers at most one line.

    A line is returned as soon as it is complete, so that lines of a slow pipe are not delayed.
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
        """The last line, if it has no line end."""
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

    It has no terminal control character, whatever its origin. In URLs and refused lines these are
    percent-encoded, and in a name, as ``name*=``; in the reason they are escaped, as ``\\x1b``.
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


Entry = Job | Bad

BATCH = 500
"""Lines of an argument in one batch."""
AHEAD = 2000
"""Entries read and not yet taken, at which reading pauses."""
_BLOCK = 64 * 1024


class Source(Protocol):
    """An input as batches of entries."""

    countable: bool
    """True if the rest can be read to its end without blocking."""
    most_lines: int | None
    """The maximum number of lines; None if it is not known."""

    def __iter__(self) -> Iterator[list[Entry]]: ...

    def overwritten_by(self, path: Path) -> bool:
        """Whether writing to `path` would overwrite this input."""

    def stop(self) -> None:
        """End an iteration that waits; from any thread."""

    def close(self) -> None:
        """Release its resources."""


class Arguments:
    """The URLs of a command line. `globs`: they are patterns (`globs.Glob`), expanded one by one.

    Raises `GlobError`.
    """

    countable = True

    def __init__(self, arguments: Sequence[str], *, globs: bool = False) -> None:
        self._arguments = [_Pattern(each) if globs else [each] for each in arguments]
        self.most_lines: int | None = sum(map(len, self._arguments))

    def __iter__(self) -> Iterator[list[Entry]]:
        return from_arguments(self._arguments)

    def overwritten_by(self, path: Path) -> bool:
        return False

    def stop(self) -> None:
        """Does nothing: this source never waits."""

    def close(self) -> None:
        """Does nothing: there are no resources."""


class _Pattern:
    """The lines of one argument: its URL is a pattern; fields may follow after a tab."""

    def __init__(self, argument: str) -> None:
        url, tab, fields = argument.partition("\t")
        try:
            self._glob = Glob(url)
        except GlobError as error:
            raise GlobError(f"{redact_url(url)}: {error} (-g, --globoff: no globs)") from None
        self._rest = tab + fields

    def __len__(self) -> int:
        return self._glob.count

    def __iter__(self) -> Iterator[str]:
        return (url + self._rest for url in self._glob)


class DescriptorSource:
    """An open file descriptor, closed by `close`; yields available bytes, and waits only if there are
    none."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._stopped = os.eventfd(0)
        found = os.fstat(descriptor)
        self.countable = stat.S_ISREG(found.st_mode)
        self.most_lines = found.st_size // LEAST_URL + 1 if self.countable else None

    def __iter__(self) -> Iterator[list[Entry]]:
        reader = LineReader()
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN | select.POLLHUP)
        poller.register(self._stopped, select.POLLIN)
        while self._stopped not in dict(poller.poll()):
            try:
                block = os.read(self._descriptor, _BLOCK)
            except BlockingIOError:  # another reader was faster
                continue
            if not block:
                yield reader.end()
                return
            yield reader.feed(block)

    def overwritten_by(self, path: Path) -> bool:
        return same_file(self._descriptor, path)

    def stop(self) -> None:
        os.eventfd_write(self._stopped, 1)

    def close(self) -> None:
        os.close(self._stopped)
        os.close(self._descriptor)


class Intake:
    """The entries of a source, in order. `take` never waits; the thread calls `on_event` when there are more.

    Reading begins with the first `take`: until then, there is no thread that would prevent a fork. `take`
    raises a read error (`OSError`) after the entries before it have been taken.
    """

    def __init__(self, source: Source, on_event: Callable[[], None] = lambda: None) -> None:
        self.on_event = on_event
        self._source = source
        self.most_lines = source.most_lines
        self._batches = iter(source)
        self._entries: deque[Entry] = deque()
        self._changed = Condition()
        self._ended = False
        self._closing = False
        self._error: OSError | None = None
        self._thread: Thread | None = None

    @property
    def ended(self) -> bool:
        """True if the input was read to its end."""
        return self._ended

    @property
    def exhausted(self) -> bool:
        """True if everything was taken."""
        return self._ended and not self._entries and self._error is None

    def begin(self) -> None:
        """Start the thread that reads. Does nothing on a second call, or after `close`.

        Raises `RuntimeError` if no thread can be started.
        """
        if self._thread is None and not self._closing:
            thread = Thread(target=self._read, name="intake", daemon=True)
            thread.start()
            self._thread = thread  # set after the start: `close` waits for a running thread

    def take(self, most: int) -> list[Entry]:
        """Up to `most` available entries."""
        self.begin()
        with self._changed:
            entries = self._entries
            taken = [entries.popleft() for _ in range(min(most, len(entries)))]
            if not taken and self._error is not None:
                error, self._error = self._error, None
                raise error
            if len(entries) < AHEAD:
                self._changed.notify()
        return taken

    def close(self) -> None:
        """Stop reading, and wait for the thread. A second call does nothing."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if not self._source.countable:
            self._source.stop()
        if self._thread is not None:
            self._thread.join()

    def rest(self) -> tuple[int, bool]:
        """After `close`: the number of entries that were not taken, and whether that is all of the rest.

        A file is counted to its end; the further content of a pipe is not read.
        """
        count = len(self._entries)
        if self._ended:
            return count, True
        if self._source.countable:
            count += sum(map(len, self._batches))
        return count, self._source.countable

    def waiting(self) -> int:
        """How many entries can be taken now."""
        return len(self._entries)

    def _read(self) -> None:
        try:
            while self._wanted() and (batch := next(self._batches, None)) is not None:
                with self._changed:
                    self._entries.extend(batch)
                if batch:
                    self.on_event()
        except OSError as error:
            self._error = error
        self._ended = not self._closing
        self.on_event()

    def _wanted(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closing or len(self._entries) < AHEAD)
            return not self._closing


DIGEST = 16
_PREFIX = 2
_REST = DIGEST - _PREFIX


def digest_of(job: Job) -> bytes:
    """A digest of what identifies a job: the resource that the URL names, name and checksum."""
    url, name, checksum = job
    if name is None and checksum is None:
        return hashlib.blake2b(resource(url).encode(errors="surrogatepass"), digest_size=DIGEST).digest()
    said = (resource(url), name, checksum and (checksum.algorithm, checksum.digest))
    return hashlib.blake2b(repr(said).encode(), digest_size=DIGEST).digest()


class Seen:
    """A set of 16-byte digests.

    A million `bytes` objects in a `set` take about 80 MiB; concatenated in 65,536 buckets they take 20, and a
    search through a bucket (15 entries per million) is one `bytes.find`.
    """

    def __init__(self) -> None:
        self._buckets: dict[bytes, bytearray] = {}

    def add(self, digest: bytes) -> bool:
        """Add `digest`; False if it was there."""
        prefix, rest = digest[:_PREFIX], digest[_PREFIX:]
        bucket = self._buckets.setdefault(prefix, bytearray())
        at = bucket.find(rest)
        while at % _REST and at != -1:
            at = bucket.find(rest, at + 1)
        if at != -1:
            return False
        bucket += rest
        return True
