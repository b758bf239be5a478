"""Serves a site over HTTP/1.1 from one thread: an asyncio loop that starts and ends with a ``with`` block.

Meant for loopback and for trying things: no TLS, and a client that dawdles is not thrown out.
"""

from __future__ import annotations

import asyncio
import threading
from http import HTTPStatus
from types import TracebackType
from typing import Self, cast

from nearfar.demo.http1 import BadRequest, Request, read_head, text
from nearfar.demo.site import Site

PATIENCE = 5.0
"""Seconds that starting and stopping may take."""


class Connection(asyncio.Protocol):
    """One client: reads heads, writes answers in their order, and stops reading while it cannot write."""

    def __init__(self, site: Site, connections: set[Connection]) -> None:
        self._site = site
        self._connections = connections
        self._buffer = bytearray()
        self._clogged = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join the connections that the server closes at its end."""
        self.transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave them."""
        self._connections.discard(self)

    def pause_writing(self) -> None:
        """The client reads more slowly than it asks: leave its next requests unread."""
        self._clogged = True
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """It caught up: answer what is waiting."""
        self._clogged = False
        self.transport.resume_reading()
        self._answer_all()

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        self._buffer += data
        self._answer_all()

    def _answer_all(self) -> None:
        try:
            while (
                not self._clogged and not self.transport.is_closing() and (request := read_head(self._buffer))
            ):
                self._answer(request)
        except BadRequest as error:
            refusal = text(HTTPStatus.BAD_REQUEST, str(error))
            self.transport.write(b"".join(refusal.encode(Request("GET", "", keep=False))))
            self.transport.close()

    def _answer(self, request: Request) -> None:
        self.transport.writelines(self._site.answer(request).encode(request))
        if not request.keep:
            self.transport.close()


class Server:
    """A site at an address, for the time of a ``with`` block."""

    def __init__(self, site: Site, host: str = "127.0.0.1", port: int = 0) -> None:
        """Port 0 takes a free one; `port` says which, inside the block."""
        self.site = site
        self.host = host
        self.port = port
        self._connections: set[Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gallery", daemon=True)

    @property
    def url(self) -> str:
        """``http://127.0.0.1:8000``; paths follow."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def urls(self) -> list[str]:
        """The address of every path in the site's index."""
        return [self.url + path for path in self.site.paths()]

    def __enter__(self) -> Self:
        """Listen. Raises `OSError` when the address cannot be bound."""
        try:
            self._listener = self._loop.run_until_complete(
                self._loop.create_server(
                    lambda: Connection(self.site, self._connections), self.host, self.port
                )
            )
        except OSError:
            self._loop.close()
            raise
        self.port = self._listener.sockets[0].getsockname()[1]
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection, whatever it was at, and end the thread."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    async def _close(self) -> None:
        # A client just accepted is still a task: asyncio forgets its socket if the listener closes first.
        while accepted := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(accepted)
        self._listener.close()
        for connection in list(self._connections):
            connection.transport.abort()
        await self._listener.wait_closed()
        while self._connections:
            await asyncio.sleep(0)
