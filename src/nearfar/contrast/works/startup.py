"""From the start of an interpreter to the first item in another process, by the shortest program that does
it.

These are programs of their own, so that none pays for what another one imports.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from nearfar.contrast.names import FAR_IPC, FAR_TCP, NEAR, QUEUE, RAW
from nearfar.contrast.settings import Settings
from nearfar.contrast.transports.base import Transport

_MAIN = """
if __name__ == "__main__":
    q = {make}
    child = multiprocessing.get_context("fork").Process(target=put, args=(q,))
    child.start()
    {get}
    print(time.monotonic(), flush=True)
    child.join()
"""
_QUEUE = (
    """
import multiprocessing, time
{imports}
def put(q):
    q.put("first")
"""
    + _MAIN
)

_RAW = """
import multiprocessing, time
import zmq
inbox = zmq.Context().socket(zmq.PULL)
def bind():
    return f"tcp://127.0.0.1:{inbox.bind_to_random_port('tcp://127.0.0.1')}"
def put(address):
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    socket.connect(address)
    socket.send(b"first")
    socket.close()
    context.term()  # or it is lost with the process, which does not linger
""" + _MAIN.format(make="bind()", get="inbox.recv()")


def _ours(make: str) -> str:
    return _QUEUE.format(imports="import sys\nfrom nearfar import Queue", make=make, get="q.get()")


PROGRAMS = {
    QUEUE: _QUEUE.format(imports="", make="multiprocessing.get_context('fork').Queue()", get="q.get()"),
    RAW: _RAW,
    NEAR: _ours("Queue(ctx=multiprocessing.get_context('fork'))"),
    FAR_IPC: _ours("Queue(0, 'ipc://' + sys.argv[1] + '/first')"),
    FAR_TCP: _ours("Queue(0, 'tcp://127.0.0.1:*', insecure=True)"),
}


def measure(transport: Transport, settings: Settings, folder: Path) -> dict[str, float]:
    """Milliseconds, and of them what the bare interpreter takes."""
    return {
        "milliseconds": run(PROGRAMS[transport.name], folder),
        "interpreter": run("import time; print(time.monotonic())", folder),
    }


def run(program: str, folder: Path) -> float:
    """Milliseconds until `program` prints the time."""
    begun = time.monotonic()
    command = [sys.executable, "-c", program, str(folder)]
    said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if said.returncode:
        raise RuntimeError(said.stderr)
    return (float(said.stdout) - begun) * 1e3
