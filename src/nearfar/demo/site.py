"""What the gallery's server answers: pictures, an index, and two ways to go wrong on purpose."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from http import HTTPStatus

from nearfar.demo.gallery import Gallery
from nearfar.demo.http1 import Request, Response, send_file, text


class Site:
    """The paths of the server.

    ``/`` lists the pictures for a person, ``/urls.txt`` for a program, ``/digests.txt`` with the SHA-256 of
    each, as a producer takes them. ``/images/0001.png`` and on are the pictures.
    ``/busy/0001.png`` answers 503 with Retry-After the first time and is the picture from then on.
    Anything else is a 404; ``/images/missing.png`` is listed all the same, as a link that is dead.
    """

    def __init__(self, gallery: Gallery, retry_after: int = 1) -> None:
        """A busy path asks for `retry_after` seconds of patience."""
        self.gallery = gallery
        self._retry_after = retry_after
        self._asked: set[str] = set()
        self._etags: dict[str, str] = {}

    def paths(self) -> list[str]:
        """Every path of the index: the pictures, a busy one, a dead one."""
        names = self.gallery.names()
        return [*(f"/images/{name}" for name in names), f"/busy/{names[0]}", "/images/missing.png"]

    def answer(self, request: Request) -> Response:
        """The answer to any request that could be read."""
        if request.method not in ("GET", "HEAD"):
            return text(HTTPStatus.METHOD_NOT_ALLOWED, Allow="GET, HEAD")
        folder, _, name = request.path.removeprefix("/").rpartition("/")
        if folder == "images":
            return self._picture(request, name)
        if folder == "busy":
            return self._busy(request, name)
        if folder or name not in ("", "index.html", "urls.txt", "digests.txt"):
            return text(HTTPStatus.NOT_FOUND, request.path)
        if name == "digests.txt":
            return self._digests(request)
        return self._list(request) if name == "urls.txt" else self._index()

    def _picture(self, request: Request, name: str) -> Response:
        content = self.gallery.picture(name)
        if content is None:
            return text(HTTPStatus.NOT_FOUND, request.path)
        if name not in self._etags:
            self._etags[name] = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        return send_file(request, content, "image/png", self._etags[name])

    def _busy(self, request: Request, name: str) -> Response:
        if name in self._asked or self.gallery.picture(name) is None:
            return self._picture(request, name)
        self._asked.add(name)
        return text(HTTPStatus.SERVICE_UNAVAILABLE, "the first time", Retry_After=str(self._retry_after))

    def _list(self, request: Request) -> Response:
        return _plain(f"{_base(request)}{path}\n" for path in self.paths())

    def _digests(self, request: Request) -> Response:
        """Of the pictures alone: what is dead or busy has none to be sure of."""
        base = f"{_base(request)}/images"
        drawn = ((name, self.gallery.picture(name) or b"") for name in self.gallery.names())
        return _plain(f"{base}/{name}\tsha256={hashlib.sha256(it).hexdigest()}\n" for name, it in drawn)

    def _index(self) -> Response:
        links = "".join(f'<li><a href="{path}">{path}</a>\n' for path in self.paths())
        page = (
            f'<!DOCTYPE html>\n<html lang="en"><title>Gallery</title>\n<h1>Gallery</h1>\n<ul>\n{links}</ul>\n'
        )
        return Response(HTTPStatus.OK, page.encode(), {"Content-Type": "text/html; charset=utf-8"})


def _base(request: Request) -> str:
    return f"http://{request.fields.get('host', 'localhost')}"


def _plain(lines: Iterable[str]) -> Response:
    return Response(HTTPStatus.OK, "".join(lines).encode(), {"Content-Type": "text/plain; charset=utf-8"})
