"""Connect to a TCP port again and again, as another user if possible, and never end a handshake.

python -m tests.support.flood PORT CONNECTIONS SECONDS [WORDS]
"""

from __future__ import annotations

import os
import socket
import sys
import time

STRANGER = 4711


def flood(port: int, most: int, seconds: float, words: bytes) -> int:
    """Keep `most` connections open for that long, each sending `words`; returns how many it made."""
    until, made, connections = time.monotonic() + seconds, 0, set[socket.socket]()
    while time.monotonic() < until:
        while len(connections) < most and time.monotonic() < until:
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
            connections.add(one)
            made += 1
        time.sleep(0.01)
        for one in list(connections):
            try:
                if words:
                    one.send(words)
                if not one.recv(4096):
                    raise ConnectionResetError
            except BlockingIOError:
                continue
            except OSError:
                one.close()
                connections.discard(one)
    for one in connections:
        one.close()
    return made


if __name__ == "__main__":
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(STRANGER, STRANGER, STRANGER)
        os.setresuid(STRANGER, STRANGER, STRANGER)
    print("begins", flush=True)
    port, most, seconds, *words = sys.argv[1:]
    print(flood(int(port), int(most), float(seconds), "".join(words).encode()), flush=True)
