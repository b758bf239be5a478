"""Segments with peers that send wrong data, die or fork, and without resources."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import resource
import subprocess
import sys
from typing import Any

import pytest

from nearfar.errors import ProtocolError
from nearfar.serialization.shared_memory import HEADER, SMALLEST, SegmentDescriptor, create
from tests.worker.channels import Channel, mapped, open_fds

# Peers that lie


def sealed(size: int) -> int:
    fd = os.memfd_create("liar", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


def unsealed() -> int:
    fd = os.memfd_create("liar", os.MFD_CLOEXEC)
    os.ftruncate(fd, SMALLEST)
    return fd


def plain_file() -> int:
    return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)


@pytest.mark.parametrize(
    "make",
    [
        unsealed,
        plain_file,
        lambda: sealed(0),
        lambda: sealed(SMALLEST - 4096),
        lambda: sealed(SMALLEST + 4096),
    ],
)
def test_only_a_sealed_segment_is_mapped(channel: Channel, make: Any) -> None:
    fds = [make(), create(SMALLEST)]
    before = open_fds()
    with pytest.raises(ProtocolError):
        channel.receiver.map(SegmentDescriptor(0, True, (1,)).encode(), fds)
    assert fds == []
    assert open_fds() == before - 2
    assert mapped() == 0


@pytest.mark.parametrize(
    "descriptor",
    [
        b"",
        b"x" * (HEADER.size - 1),
        HEADER.pack(9, 1, 1, 0),
        HEADER.pack(9, 1, 2**32 - 1, 2**32 - 1) + bytes(8),
        HEADER.pack(9, 2, 0, 0),
        SegmentDescriptor(9, True, (1,)).encode() + b"x",
        SegmentDescriptor(9, True, (SMALLEST + 1,)).encode(),
        SegmentDescriptor(9, True, (SMALLEST - 1, 1)).encode(),
        SegmentDescriptor(9, True, (2**64 - 1, 2**64 - 1)).encode(),
        SegmentDescriptor(9, True, (1,), dropped=(5,)).encode(),
        SegmentDescriptor(9, True, (1,), dropped=(0,)).encode(),
        SegmentDescriptor(9, False, (1,)).encode(),
        SegmentDescriptor(0, False, (1,)).encode(),
        SegmentDescriptor(0, True, (1,)).encode(),
        HEADER.pack(9, 1, 1, 0) + b"\xff" * 8,
    ],
)
def test_a_descriptor_that_no_sender_makes_is_refused(channel: Channel, descriptor: bytes) -> None:
    """Given segment 0 in use, and a file descriptor of another that came with the message."""
    kept = channel.send(b"kept")
    before = open_fds()
    fds = [create(SMALLEST)]
    with pytest.raises(ProtocolError):
        channel.receiver.map(descriptor, fds)
    assert fds == []
    assert open_fds() == before
    assert bytes(kept[0]) == b"kept"


def test_a_new_segment_needs_its_file_descriptor(channel: Channel) -> None:
    with pytest.raises(ProtocolError):
        channel.receiver.map(SegmentDescriptor(0, True, (1,)).encode(), [])


def test_a_message_may_describe_several_payloads(channel: Channel) -> None:
    first, fds = channel.sender.place([b"one"])
    second, more = channel.sender.place([b"two"])
    fds += more
    received = [channel.receiver.map(each, fds) for each in (first, second)]
    assert [bytes(view) for (view,) in received] == [b"one", b"two"]


def test_a_segment_cannot_be_truncated() -> None:
    fd = create(SMALLEST)
    for size in (0, SMALLEST * 2):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    os.close(fd)


# When there is no room


def test_without_file_descriptors_nothing_is_placed(channel: Channel) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError) as caught:
            channel.sender.place([b"x"])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == errno.EMFILE
    assert bytes(channel.send(b"later")[0]) == b"later"


NO_SPACE = """
import mmap, resource, sys
from nearfar.serialization.shared_memory import SegmentReceiver, SegmentSender
sender, receiver = SegmentSender(), SegmentReceiver()
receiver.map(*sender.place([b"ctypes is imported"]))
receiver.take_released()
descriptor, fds = sender.place([bytes(32 << 20)])
small, more = sender.place([b"small"])
fds += more
used = int(open("/proc/self/statm").read().split()[0]) * mmap.PAGESIZE
resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20),) * 2)
large = [memoryview(b"x" * (1 << 20))] * 16
for action in (lambda: sender.place(large), lambda: receiver.map(descriptor, fds)):
    try:
        action()
    except (OSError, MemoryError) as error:
        print(type(error).__name__)
print(fds == more, receiver.take_released(), receiver.idle, receiver.uses)
print(bytes(receiver.map(small, fds)[0]))
"""


def test_without_address_space_it_raises_and_the_segment_is_released() -> None:
    """In a process of its own: there is no way back from that limit that is sure."""
    run = subprocess.run(
        [sys.executable, "-c", NO_SPACE], capture_output=True, text=True, timeout=20, check=True
    )
    assert run.stdout.splitlines() == ["OSError", "OSError", "True [-2] 65536 0", "b'small'"]


def test_ctypes_is_imported_for_the_first_payload_only() -> None:
    code = """import sys, nearfar.serialization.shared_memory
print([m for m in ('ctypes', 'numpy') if m in sys.modules])"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90, check=True)
    assert run.stdout == "[]\n"


# Forks

forks = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@forks
def test_memory_that_a_forked_child_may_read_is_not_reused(channel: Channel) -> None:
    """Given a view when the process forks,

    If it is let go in the parent afterwards, and more payloads come,
    I expect the child's copy of the view not to change, as memory never does after a fork.
    """
    views = channel.send(b"before")
    ask, asked = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(asked)
        os.read(ask, 1)
        os._exit(0 if bytes(views[0]) == b"before" else 1)
    os.close(ask)
    del views
    assert channel.release() == [~0]
    del channel.send(b"after!")[:]
    assert channel.new == 2
    assert channel.release() == [1]
    os.close(asked)
    assert os.waitpid(pid, 0) == (pid, 0)


@forks
def test_a_child_may_drop_what_it_inherits(channel: Channel) -> None:
    views = channel.send(b"here")
    pid = os.fork()
    if pid == 0:
        del views
        gc.collect()
        channel.receiver.close()
        channel.sender.close()
        os._exit(0)
    assert os.waitpid(pid, 0) == (pid, 0)
    assert bytes(views[0]) == b"here"
    assert bytes(channel.send(b"there")[0]) == b"there"
