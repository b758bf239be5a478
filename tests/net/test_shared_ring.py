"""Bodies in memory that several processes share: what they read, and that nothing is left of it."""

from __future__ import annotations

import errno
import gc
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.errors import ProtocolError
from nearfar.net.shared_ring import START, HostRings, KeptRing, OwnRing, Place, ReadRing, Reference
from tests.support.users import as_user

SIZE = 64 * 1024
ROOT = Path(__file__).parents[2]


@pytest.fixture
def own() -> Iterator[OwnRing]:
    ring = OwnRing(SIZE)
    yield ring
    ring.close()


def placed(ring: OwnRing, body: bytes) -> Place:
    place = ring.place(body)
    assert place is not None
    return place


def descriptors() -> int:
    """How many this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


def shared_files(pid: int) -> set[str]:
    """The memory without a name that a process has open or mapped."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found.add(str(link.readlink()))
    found |= {line.split(maxsplit=5)[-1] for line in Path(f"/proc/{pid}/maps").read_text().splitlines()}
    return {name for name in found if "memfd:nearfar" in name}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, SIZE // 3)), max_size=50), st.integers(0, 1 << 32)
)
def test_a_body_is_read_as_it_was_placed_until_it_is_done_with(
    steps: list[tuple[int, int]], seed: int
) -> None:
    """Given producers that place, are settled, leave or die, in any order, I expect each body that is not
    settled to be what it was, for readers here and for the host, and no memory to be kept for nothing."""
    dice, before = random.Random(seed), descriptors()
    host, owners, bodies = HostRings(), dict[int, OwnRing](), dict[tuple[int, Place], bytes]()
    readers: dict[int, ReadRing] = {}
    for what, size in steps:
        if what == 0 and len(owners) < 4:
            own = OwnRing(SIZE)
            owners[host.keep(own.reference())] = own
        elif what in (1, 2) and owners:
            number = dice.choice(sorted(owners))
            body = dice.randbytes(size)
            if place := owners[number].place(body):
                bodies[number, place] = body
                host.add(number)
        elif what == 3 and bodies:
            number, place = dice.choice(sorted(bodies))
            del bodies[number, place]
            host.remove(number)
            if number in owners:
                owners[number].give_back(place)
        elif what == 4 and owners:
            number = dice.choice(sorted(owners))
            owners.pop(number).close()
            host.leave(number)
        for number in host.take_ended():
            if reader := readers.pop(number, None):
                reader.close()
        for (number, place), body in bodies.items():
            if number not in readers:
                readers[number] = ReadRing(host.ring(number).reference())
            assert readers[number].read(place) == body == host.ring(number).read(place)
        assert len(host) == len(owners.keys() | {number for number, _ in bodies})
    for own in owners.values():
        own.close()
    for reader in readers.values():
        reader.close()
    host.close()
    assert descriptors() == before


def test_a_ring_that_is_full_takes_nothing_until_a_place_is_given_back(own: OwnRing) -> None:
    places = [placed(own, b"x" * 16_000) for _ in range(4)]
    assert own.place(b"y" * 16_000) is None
    own.give_back(places[0])
    assert placed(own, b"y" * 15_000).start == START


def test_a_body_larger_than_the_ring_has_no_place(own: OwnRing) -> None:
    assert own.place(bytes(SIZE)) is None


@pytest.mark.parametrize(
    "place",
    [
        Place(0, 10),
        Place(START - 1, 1),
        Place(START, 0),
        Place(START, SIZE),
        Place(SIZE, 1),
        Place(1 << 60, 1),
    ],
)
def test_what_is_no_place_of_the_ring_is_refused(own: OwnRing, place: Place) -> None:
    kept = KeptRing(own.reference())
    reader = ReadRing(own.reference())
    for ring in (kept, reader):
        with pytest.raises(ProtocolError):
            ring.read(Place.decode(place.encode()))
        ring.close()


def test_a_place_of_another_length_is_refused() -> None:
    with pytest.raises(ProtocolError):
        Place.decode(b"x" * 15)


def test_a_reader_cannot_write(own: OwnRing) -> None:
    reader = ReadRing(own.reference())
    with pytest.raises(TypeError, match="read-only"):
        reader._view[0] = 1
    reader.close()


def not_of_this_token(own: OwnRing, folder: Path) -> Reference:
    return own.reference()._replace(token=bytes(16))


def of_another_size(own: OwnRing, folder: Path) -> Reference:
    return own.reference()._replace(size=2 * SIZE)


def too_small(own: OwnRing, folder: Path) -> Reference:
    return own.reference()._replace(size=START)


def a_file(own: OwnRing, folder: Path) -> Reference:
    (folder / "file").write_bytes(bytes(SIZE))
    return Reference(os.getpid(), os.open(folder / "file", os.O_RDONLY), SIZE, bytes(16))


def a_fifo(own: OwnRing, folder: Path) -> Reference:
    os.mkfifo(folder / "fifo")
    return Reference(os.getpid(), os.open(folder / "fifo", os.O_RDWR), SIZE, bytes(16))


def unsealed_memory(own: OwnRing, folder: Path) -> Reference:
    descriptor = os.memfd_create("nearfar")
    os.ftruncate(descriptor, SIZE)
    return Reference(os.getpid(), descriptor, SIZE, bytes(16))


@pytest.mark.parametrize(
    "make",
    [not_of_this_token, of_another_size, too_small, a_file, a_fifo, unsealed_memory],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("ring", [KeptRing, ReadRing])
def test_what_is_no_ring_is_refused(
    own: OwnRing, tmp_path: Path, make: Callable[[OwnRing, Path], Reference], ring: Any
) -> None:
    """Given a peer that tells of something else, I expect an error, no wait, and no descriptor more."""
    reference = make(own, tmp_path)
    before = descriptors()
    with pytest.raises(ProtocolError):
        ring(reference)
    gc.collect()
    assert descriptors() == before
    if reference.descriptor != own.reference().descriptor:
        os.close(reference.descriptor)


def test_a_ring_whose_process_is_gone_cannot_be_seen(own: OwnRing) -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    with pytest.raises(OSError):
        KeptRing(own.reference()._replace(pid=pid))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_cannot_see_it(own: OwnRing) -> None:
    reference = own.reference()

    def look() -> str:
        try:
            KeptRing(reference)
        except (OSError, ProtocolError) as error:
            return type(error).__name__
        return "seen"

    assert as_user(12345, look) == "PermissionError"


def test_memory_of_another_user_is_not_taken_for_a_ring() -> None:
    if os.geteuid():
        pytest.skip("only root can be another user")
    ring = OwnRing(SIZE)
    os.fchown(ring.reference().descriptor, 12345, 12345)
    with pytest.raises(ProtocolError, match="of this user"):
        KeptRing(ring.reference())
    ring.close()


def test_a_host_says_what_it_does_not_have() -> None:
    host = HostRings()
    for ask in (host.ring, host.add, host.remove):
        with pytest.raises(ProtocolError, match="no ring 7"):
            ask(7)
    host.leave(7)
    ring = OwnRing(SIZE)
    number = host.keep(ring.reference())
    with pytest.raises(ProtocolError):
        host.remove(number)
    host.close()
    ring.close()


def test_a_forked_child_that_closes_it_takes_nothing_away(own: OwnRing) -> None:
    place = placed(own, b"kept")
    pid = os.fork()
    if not pid:
        own.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    reader = ReadRing(own.reference())
    assert reader.read(place) == b"kept"
    reader.close()


def test_memory_that_the_system_does_not_give_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOSPC, "no memory")

    before = descriptors()
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(OSError, match="no memory"):
        OwnRing(SIZE)
    assert descriptors() == before


# -- processes that are killed -----------------------------------------------------------------------


def produce() -> None:
    """Place a body of each of three letters, say where, and stay."""
    ring = OwnRing(1 << 20)
    print([ring.reference(), *(placed(ring, letter * 100_000) for letter in (b"a", b"b", b"c"))], flush=True)
    signal.pause()


def keep() -> None:
    """Keep the ring that is told of, say what others find it by, and stay."""
    ring = KeptRing(Reference(*eval(input())))
    print(tuple(ring.reference()), flush=True)
    signal.pause()


def run(name: str, told: str = "") -> subprocess.Popen[str]:
    """The function `name` of this module in a program of its own."""
    code = f"import {__name__} as module; module.{name}()"
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes)
    if told:
        assert child.stdin
        child.stdin.write(told + "\n")
        child.stdin.flush()
    return child


def kill(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe:
            pipe.close()


def test_what_a_killed_producer_placed_is_read_until_the_host_lets_go() -> None:
    """Given a producer, and then its host, killed with -9, I expect its bodies to be there for a process that
    has the ring, and for a new reader as long as the host lives, and nothing anywhere after the last one."""
    producer = run("produce")
    host = None
    try:
        assert producer.stdout
        reference, *places = eval(producer.stdout.readline(), {"Reference": Reference, "Place": Place})
        host = run("keep", repr(tuple(reference)))
        assert host.stdout
        kept = Reference(*eval(host.stdout.readline()))
        kill(producer)
        reader = ReadRing(kept)
        assert [reader.read(place) for place in places] == [letter * 100_000 for letter in (b"a", b"b", b"c")]
        kill(host)
        assert reader.read(places[1]) == b"b" * 100_000
        with pytest.raises(OSError):
            ReadRing(kept)
        reader.close()
    finally:
        for child in (producer, host):
            if child and child.poll() is None:
                kill(child)
    assert shared_files(os.getpid()) == set()
