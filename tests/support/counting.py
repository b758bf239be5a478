"""An HTTP server of one thread that counts: connections open at a time, requests at a time, and their times.

A connection that its client has closed is never counted together with one that was opened afterwards: before
each accept, the server reads the end of those that are closed.

As a program (``python -m tests.support.counting HOST PORT DELAY``), it prints its counts when it is stopped.
"""

from __future__ import annotations

import heapq
import select
import selectors
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from types import TracebackType
from typing import Self

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nbody\r\n"
LATER = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: %d\r\nContent-Length: 0\r\n\r\n"
PATIENCE = 20.0


@dataclass
class Counting:
    """Listens at `host` from construction on; each answer takes `delay` seconds."""

    host: str = "127.0.0.1"
    port: int = 0
    delay: float = 0.0
    patience: int = 0
    """Seconds of Retry-After with which one request is answered, the one after `before`."""
    before: int = 10
    together: int = 0
    """No request is answered before so many have come at once, or `PATIENCE` seconds after the first."""
    times: list[float] = field(default_factory=list)
    """When each request came (`time.monotonic`)."""
    refused_at: float = 0.0
    """When the request was answered with Retry-After."""
    most_open: int = 0
    most_at_once: int = 0

    def __post_init__(self) -> None:
        self._listener = socket.create_server((self.host, self.port), backlog=128)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._stop, self._stopped = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._stopped, selectors.EVENT_READ)
        self._buffers: dict[socket.socket, bytes] = {}
        self._answers: list[tuple[float, int, socket.socket, bytes]] = []
        self._order = count()
        self._at_once = 0
        self._thread = threading.Thread(target=self._serve, name="counting")
        self._thread.start()

    def url(self, path: str) -> str:
        return f"http://{self.host}:{self.port}{path}"

    @property
    def open(self) -> int:
        """Connections open now."""
        return len(self._buffers)

    def most_within(self, seconds: float) -> int:
        """The most requests that came in any such span of time."""
        return max(sum(when <= other < when + seconds for other in self.times) for when in self.times)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.send(b"\0")
        self._thread.join(10)
        for each in (self._stop, self._stopped, self._listener, self._selector, *self._buffers):
            each.close()

    def _serve(self) -> None:
        while True:
            timeout = max(0.0, self._answers[0][0] - time.monotonic()) if self._answers else None
            if self._gathers():
                timeout = 0.1
            ready = [key.fileobj for key, _ in self._selector.select(timeout)]
            if self._stopped in ready:
                return
            for connection in ready:
                if isinstance(connection, socket.socket) and connection is not self._listener:
                    self._read(connection)
            if self._listener in ready:
                self._accept()
            while self._answers and self._answers[0][0] <= time.monotonic() and not self._gathers():
                _, _, connection, answer = heapq.heappop(self._answers)
                self._at_once -= 1
                with suppress(OSError):
                    connection.sendall(answer)

    def _gathers(self) -> bool:
        """Whether answers are held back until enough requests have come at once."""
        late = bool(self.times) and time.monotonic() > self.times[0] + PATIENCE
        return self.most_at_once < self.together and not late

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            connection, _ = self._listener.accept()
            if self._buffers:
                for closed in select.select(list(self._buffers), [], [], 0)[0]:
                    self._read(closed)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._buffers[connection] = b""
            self._selector.register(connection, selectors.EVENT_READ)
            self.most_open = max(self.most_open, len(self._buffers))

    def _read(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(connection)
            del self._buffers[connection]
            connection.close()
            return
        *requests, self._buffers[connection] = (self._buffers[connection] + data).split(b"\r\n\r\n")
        for _ in requests:
            now = time.monotonic()
            self.times.append(now)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            answer = ANSWER
            if self.patience and len(self.times) > self.before and not self.refused_at:
                self.refused_at = now
                answer = LATER % self.patience
            heapq.heappush(self._answers, (now + self.delay, next(self._order), connection, answer))


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    with Counting(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])) as server:
        print("serving", flush=True)
        signal.sigwait([signal.SIGTERM])
    print(server.most_open, server.most_at_once, len(server.times))
