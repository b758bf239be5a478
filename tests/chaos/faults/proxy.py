"""A TCP proxy that does what bad networks do.

``python -m tests.chaos.faults.proxy LISTEN TARGET SEED PORT...``

It listens at each port of the address LISTEN, and passes on to the same port of TARGET. Orders come as lines
of JSON, each answered by ``ok``: see `Weather` for those that last until ``clear``, `Line` for those that
affect the present connections.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import sys
from typing import Any

CHUNK = 16 * 1024
UP, DOWN = "up", "down"


class Weather:
    """The state of all connections: `delay` (seconds for each chunk), `rate` (bytes a second), held
    directions."""

    def __init__(self) -> None:
        self.delay = 0.0
        self.rate = 0.0
        self._open = {UP: asyncio.Event(), DOWN: asyncio.Event()}
        self.clear()

    def clear(self) -> None:
        self.delay = self.rate = 0.0
        for event in self._open.values():
            event.set()

    def hold(self, ways: list[str]) -> None:
        """A black hole: nothing is transmitted in these directions until ``clear``."""
        for way in ways:
            self._open[way].clear()

    async def travel(self, way: str, size: int) -> None:
        await self._open[way].wait()
        if pause := self.delay + (size / self.rate if self.rate else 0):
            await asyncio.sleep(pause)


class Line:
    """One connection."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self._ends = (near, far)
        self.deaf: set[str] = set()
        """Directions in which nothing arrives any more, though nobody is told: half open."""
        self.cut_next = False

    def reset(self) -> None:
        """Send a RST to both ends."""
        for end in self._ends:
            if not end.transport.is_closing():
                sock = end.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.transport.abort()

    async def pump(self, way: str, reader: asyncio.StreamReader, weather: Weather) -> None:
        writer = self._ends[way == UP]
        try:
            while data := await reader.read(CHUNK):
                await weather.travel(way, len(data))
                if way in self.deaf:
                    continue
                if self.cut_next:
                    writer.write(data[: len(data) // 2])
                    await writer.drain()
                    break
                writer.write(data)
                await writer.drain()
            if self.cut_next:
                self.reset()
        except OSError:
            self.reset()
        finally:
            if way not in self.deaf:
                writer.close()


class Proxy:
    def __init__(self, target: str, seed: int) -> None:
        self._target = target
        self._dice = random.Random(seed)
        self._weather = Weather()
        self._lines: set[Line] = set()

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("sockname")[1]
        try:
            back, forth = await asyncio.open_connection(self._target, port)
        except OSError:
            writer.transport.abort()
            return
        line = Line(writer, forth)
        self._lines.add(line)
        up = line.pump(UP, reader, self._weather)
        await asyncio.gather(up, line.pump(DOWN, back, self._weather))
        self._lines.discard(line)

    def obey(self, order: dict[str, Any]) -> None:
        weather, lines = self._weather, sorted(self._lines, key=id)
        match order["fault"]:
            case "clear":
                weather.clear()
            case "delay":
                weather.delay = order["amount"]
            case "throttle":
                weather.rate = order["amount"]
            case "blackhole":
                weather.hold(order["ways"])
            case "reset":
                for line in self._some(lines):
                    line.reset()
            case "cut":
                for line in self._some(lines):
                    line.cut_next = True
            case "half-open":
                for line in self._some(lines):
                    line.deaf.update(order["ways"])

    def _some(self, lines: list[Line]) -> list[Line]:
        """At least one, at random."""
        return self._dice.sample(lines, self._dice.randint(1, len(lines))) if lines else []


async def main(listen: str, target: str, seed: int, ports: list[int]) -> None:
    proxy = Proxy(target, seed)
    servers = [await asyncio.start_server(proxy.connect, listen, port) for port in ports]
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(orders), sys.stdin
    )
    print("ok", flush=True)
    while line := await orders.readline():
        proxy.obey(json.loads(line))
        print("ok", flush=True)
    for server in servers:
        server.close()


if __name__ == "__main__":
    listen, target, seed, *ports = sys.argv[1:]
    asyncio.run(main(listen, target, int(seed), list(map(int, ports))))
