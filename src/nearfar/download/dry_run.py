"""What a download would do with each line of its input: nothing is fetched, and nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from nearfar.download.input import Bad, Seen, Source, digest_of
from nearfar.download.model import Head, Job, Reason, StoreError
from nearfar.download.redact import redact_url
from nearfar.download.store.listing import Listing
from nearfar.download.store.manifest import FILE, key_of
from nearfar.download.store.names import candidates, fold, wanted
from nearfar.download.urls import UrlError, parse_url

Outlook = Literal["to fetch", "to refresh", "already there", "rejected"]
OUTLOOKS: tuple[Outlook, ...] = get_args(Outlook)


class Forecast(NamedTuple):
    """What would become of one line."""

    outlook: Outlook
    url: str
    """For a person: without secrets."""
    name: str | None
    """Below the output folder. Of a file to fetch, as long as the server suggests no other name, and of two
    with one name the earlier line is complete first."""
    detail: str = ""


class DryRun:
    """The forecasts for a source; a context manager. `counts` holds their numbers so far."""

    def __init__(self, folder: Path | None, *, overwrite: bool = False, refresh: bool = False) -> None:
        """`folder`: where files would be saved; None: it is not known here, as with consumers elsewhere.
        `refresh`: the server would be asked for newer versions of saved files.

        Raises `StoreError`.
        """
        self.counts: Counter[Outlook] = Counter()
        self._folder = folder
        self._overwrite = overwrite
        self._refresh = refresh
        self._taken: set[str] = set()
        self._seen = Seen()
        self._open = ExitStack()
        there = folder is not None and (folder / FILE).exists()
        self._listing = self._open.enter_context(Listing(folder)) if folder is not None and there else None

    def of(self, source: Source) -> Iterator[Forecast]:
        """One forecast for each line. Raises `OSError`, `StoreError`."""
        for batch in source:
            for entry in batch:
                forecast = self._one(entry)
                self.counts[forecast.outlook] += 1
                yield forecast

    def _one(self, entry: Job | Bad) -> Forecast:
        if isinstance(entry, Bad):
            return Forecast("rejected", redact_url(entry.text), None, entry.failure.detail)
        shown = redact_url(entry.url)
        if not self._seen.add(digest_of(entry)):
            return Forecast("already there", shown, None, "the same as an earlier line")
        saved = None if self._listing is None else self._listing.find(entry)
        if saved is not None and self._refresh and entry.checksum is None:
            return Forecast("to refresh", shown, saved.name)
        if saved is not None:
            return Forecast("already there", shown, saved.name)
        try:
            parse_url(entry.url)
            return Forecast("to fetch", shown, self._choose(entry))
        except UrlError as error:
            return Forecast("rejected", shown, None, str(error))
        except StoreError as error:
            return Forecast("rejected", shown, None, error.detail)

    def _choose(self, job: Job) -> str:
        """The name that the store would choose. Raises `StoreError` for one that it would reject."""
        parts = wanted(job, Head(job.url, 200))
        if self._folder is None:
            return "/".join(parts)
        # The key of a URL with secrets depends on the folder's id, which a new folder does not have yet.
        key = key_of(job.url, "") if self._listing is None else self._listing.key(job.url)
        for candidate in candidates(parts, key.hex()):
            name = "/".join(candidate)
            if fold(name) not in self._taken and (self._overwrite or not self._occupied(name)):
                self._taken.add(fold(name))
                return name
            if job.name is not None:
                break
        raise StoreError(Reason.REJECTED, f"{'/'.join(parts)}: another file bears this name")

    def _occupied(self, name: str) -> bool:
        return self._folder is not None and (self._folder / name).exists()

    def __enter__(self) -> DryRun:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()
