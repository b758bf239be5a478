"""Short ways to say what a server sent."""

from __future__ import annotations

import hashlib
from pathlib import Path

from nearfar.download.model import Body, Checksum, Failure, Head, Job, Saved
from nearfar.download.store.draft import Draft
from nearfar.download.store.listing import Listing
from nearfar.download.store.store import Store

SITE = "http://example.org/"


def job(path: str = "a.png", name: str | None = None, checksum: Checksum | None = None) -> Job:
    return Job(SITE + path, name, checksum)


def body(data: bytes, attempts: int = 1) -> Body:
    return Body(len(data), hashlib.sha256(data).hexdigest(), attempts)


def draft(store: Store, what: Job, data: bytes = b"data", suggested: str | None = None) -> Draft:
    head = Head(what.url, 200, "image/png", len(data), '"tag"', None, suggested)
    return store.put(what, head, body(data), data)


def save(store: Store, what: Job, data: bytes = b"data", suggested: str | None = None) -> Saved | Failure:
    [(_, ending)] = store.commit([draft(store, what, data, suggested)])
    return ending


def saved(ending: Saved | Failure) -> Saved:
    assert isinstance(ending, Saved), ending
    return ending


def failed(ending: Saved | Failure) -> Failure:
    assert isinstance(ending, Failure), ending
    return ending


def distinct(path: str, stem: str = "a", extension: str = ".png") -> str:
    """The name that a file gets when another bears its own."""
    return f"{stem}-{hashlib.sha256((SITE + path).encode()).hexdigest()[:8]}{extension}"


def files(directory: Path) -> dict[str, bytes]:
    """Everything there that is not the store's own, by path."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and not path.name.startswith(".nearfar")
    }


def temporaries(directory: Path) -> list[str]:
    """The temporaries and owner files, not the manifest."""
    return [path.name for path in directory.rglob(".nearfar-*")]


def recorded(directory: Path) -> list[Saved]:
    """The manifest of `directory`."""
    with Listing(directory) as listing:
        return list(listing.rows())
