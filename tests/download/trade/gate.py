"""Holds a server's answers back, so that a test can act in the middle of a download."""

from __future__ import annotations

import threading

from tests.support.exchange import Handler, Reply, Request
from tests.support.web import Web


class Gate:
    """Answers that wait, once `after` were given, until `open` is called or the server is closed."""

    def __init__(self, web: Web, after: int) -> None:
        self._after = after
        self._given = 0
        self._lock = threading.Lock()
        self._open = threading.Event()
        self.reached = threading.Event()
        web.at_close.append(self.open)
        for path, route in list(web.routes.items()):
            web.routes[path] = self._gated(route)

    def _gated(self, route: Handler) -> Handler:
        def handle(request: Request, reply: Reply) -> None:
            with self._lock:
                self._given += 1
                waits = self._given > self._after
            if waits:
                self.reached.set()
                self._open.wait(60)
            route(request, reply)

        return handle

    def open(self) -> None:
        self._open.set()
