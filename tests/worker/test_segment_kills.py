"""Segments between two processes, one of which is killed with -9 in the middle."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from nearfar.serialization.shared_memory import SegmentReceiver, SegmentSender
from tests.worker.channels import KIB, MIB, mapped, open_fds

MESSAGE = 64 * KIB


def send(sock: socket.socket, sender: SegmentSender, *parts: bytes) -> None:
    descriptor, fds = sender.place(parts)
    try:
        socket.send_fds(sock, [descriptor], fds)
    finally:
        for fd in fds:
            os.close(fd)


def receive(sock: socket.socket, receiver: SegmentReceiver) -> list[memoryview]:
    descriptor, fds, _, _ = socket.recv_fds(sock, MESSAGE, 8)
    if not descriptor:
        raise EOFError
    return receiver.map(descriptor, fds)


def echo(sock: socket.socket) -> None:
    """Send every payload back in upper case, for ever; release at once."""
    sender, receiver = SegmentSender(), SegmentReceiver()
    with suppress(EOFError, ConnectionError):
        while True:
            views = receive(sock, receiver)
            send(sock, sender, *(bytes(view).upper() for view in views))
            del views
            sock.send(bytes(receiver.take_released()))
            sender.released(sock.recv(MESSAGE))


def hold(sock: socket.socket) -> None:
    """Map one payload, send five, report it, and keep everything."""
    sender, receiver = SegmentSender(), SegmentReceiver()
    held = receive(sock, receiver)
    for number in range(5):
        send(sock, sender, bytes([number]) * MIB)
    os.write(1, b"sent")
    signal.pause()
    del held


@contextmanager
def process(name: str) -> Iterator[tuple[socket.socket, socket.socket, subprocess.Popen[bytes]]]:
    """Run the function `name` of this module in a program of its own; both ends of its socket, and itself."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    number = there.fileno()
    code = f"import socket, {__name__} as module; module.{name}(socket.socket(fileno={number}))"
    command = [sys.executable, "-c", code]
    root = Path(__file__).parents[2]
    with here, there, subprocess.Popen(command, pass_fds=[number], cwd=root, stdout=subprocess.PIPE) as child:
        try:
            yield here, there, child
        finally:
            child.kill()


@pytest.mark.parametrize("length", [1, 100 * KIB, 3 * MIB])
def test_payloads_are_sent_and_returned(length: int) -> None:
    sender, receiver = SegmentSender(), SegmentReceiver()
    with process("echo") as (sock, there, child):
        there.close()
        for letter in b"abcdefgh":
            send(sock, sender, bytes([letter]) * length, b"end")
            views = receive(sock, receiver)
            assert [bytes(view) for view in views] == [bytes([letter]).upper() * length, b"END"]
            del views
            assert sock.recv(MESSAGE) == b"\0"
            sender.released([0])
            sock.send(bytes(receiver.take_released()))
        sock.close()
        assert child.wait() == 0
    sender.close()
    receiver.close()


def test_a_killed_process_leaves_only_the_payloads_it_sent() -> None:
    """Given a process that holds a payload of ours, has three unread, and has sent us five,

    If it is killed with -9,
    I expect its five payloads to be good, also those we have not yet mapped; the unread ones to be taken
    back; and once all are let go, no memory, no file descriptor and no name.
    """
    fds, names = open_fds(), set(Path("/dev/shm").iterdir())
    sender, receiver = SegmentSender(), SegmentReceiver()
    with process("hold") as (sock, there, child):
        for text in (b"held", b"unread", b"unread", b"unread"):
            send(sock, sender, text * MIB)
        assert child.stdout is not None
        assert child.stdout.read(4) == b"sent"
        kept = [receive(sock, receiver)]
        child.kill()
        child.wait()
        kept += [receive(sock, receiver) for _ in range(4)]
        assert [(view[0], view[-1], len(view)) for (view,) in kept] == [(n, n, MIB) for n in range(5)]
        for _ in range(3):
            descriptor, unread, _, _ = socket.recv_fds(there, MESSAGE, 8)
            sender.unplace(descriptor, unread)
    assert mapped() == 5 * MIB + 4 * MIB
    sender.close()
    receiver.close()
    kept.clear()
    assert (open_fds(), mapped()) == (fds, 0)
    assert not [path for path in set(Path("/dev/shm").iterdir()) - names if "nearfar" in path.name]


def test_a_killed_sender_takes_unread_payloads_with_it_when_the_socket_is_closed() -> None:
    """Given payloads that no process has read, from a process that was killed,

    If the socket is closed,
    I expect nothing of them to stay: a segment has no name.
    """
    fds = open_fds()
    sender = SegmentSender()
    with process("hold") as (sock, _, child):
        send(sock, sender, b"held")
        assert child.stdout is not None
        assert child.stdout.read(4) == b"sent"
        child.kill()
        child.wait()
    sender.close()
    assert (open_fds(), mapped()) == (fds, 0)
