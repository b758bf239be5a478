"""Bodies in memory that several processes share: what they read, and that nothing is left of it."""

from __future__ import annotations

import errno
import gc
import os
import random
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.errors import ProtocolError
from nearfar.net.process import machine_id
from nearfar.serialization import shared_ring
from nearfar.serialization.shared_memory import create
from nearfar.serialization.shared_ring import (
    NAME,
    START,
    TOKEN,
    HostRings,
    KeptBody,
    KeptRing,
    Overwritten,
    OwnRing,
    Place,
    ReadRing,
    ReadRings,
    Reference,
)
from tests.support.users import as_user

SIZE = 64 * 1024
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allocate in small steps, and leave this process's allocator as it is."""
    monkeypatch.setattr(shared_ring, "STEP", 4096)
    monkeypatch.setattr(shared_ring, "keep_freed_memory", lambda: None)


@pytest.fixture
def own() -> Iterator[OwnRing]:
    ring = OwnRing(SIZE)
    yield ring
    ring.close()


def placed(ring: OwnRing, body: bytes) -> Place:
    place = ring.place([body[:7], body[7:]], len(body))
    assert place is not None
    return place


def keep(ring: OwnRing) -> KeptRing:
    """The ring as a host keeps it."""
    return KeptRing(ring.reference(), 1, deque())


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


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, SIZE // 3)), max_size=50), st.integers(0, 1 << 32)
)
def test_a_body_is_read_as_it_was_placed_until_it_is_settled(steps: list[tuple[int, int]], seed: int) -> None:
    """Given producers that place, are settled, leave or die, in any order, I expect each body that is not
    settled to be what it was, for readers here and for the host; each that was overwritten to be refused; and
    no memory to be kept for nothing."""
    dice, before = random.Random(seed), descriptors()
    host, owners = HostRings(), dict[int, tuple[OwnRing, KeptRing]]()
    bodies, settled = dict[KeptBody, bytes](), dict[KeptBody, bytes]()
    readers = ReadRings()
    for what, size in steps:
        if what == 0 and len(owners) < 4:
            own = OwnRing(SIZE)
            kept = host.keep(own.reference())
            assert kept is not None
            assert readers.open(kept.number, kept.reference())
            owners[kept.number] = own, kept
        elif what in (1, 2) and owners:
            own, kept = owners[dice.choice(sorted(owners))]
            body = dice.randbytes(size)
            if place := own.place([body], size):
                bodies[KeptBody(kept, Place(place.start, size, kept.number))] = body
        elif what == 3 and bodies:
            done = [dice.choice(list(bodies))]
            settled[done[0]] = bodies.pop(done[0])
            if done[0].place.ring in owners:
                owners[done[0].place.ring][0].give_back(done[0].place)
            done.clear()
        elif what == 4 and owners:
            owners.pop(dice.choice(sorted(owners)))[0].close()
        kept = None
        if len(settled) > 5:
            del settled[next(iter(settled))]
        for kept_body, body in bodies.items():
            assert readers.read(kept_body.place, bytes) == body == kept_body.read()
        for kept_body, body in settled.items():
            with suppress(Overwritten):
                assert readers.read(kept_body.place, bytes) == body
        while host.ended:
            readers.end(host.ended.popleft())
        numbers = owners.keys() | {each.place.ring for each in (*bodies, *settled)}
        assert {ring.number for ring in host._kept} == numbers == set(readers._rings)
    for own, _ in owners.values():
        own.close()
    readers.close()
    host.close()
    assert descriptors() == before


def test_a_ring_that_is_full_takes_nothing_until_a_place_is_given_back(own: OwnRing) -> None:
    places = [placed(own, b"x" * 16_000) for _ in range(4)]
    assert own.place([b"y" * 16_000], 16_000) is None
    kept = keep(own)
    reader = ReadRing(kept.reference())
    own.give_back(places[0])
    assert reader.read(places[0], bytes) == b"x" * 16_000
    assert placed(own, b"y" * 15_000).start % (SIZE - START) == 0
    with pytest.raises(Overwritten):
        reader.read(places[0], bytes)
    assert reader.read(places[1], bytes) == b"x" * 16_000
    reader.close()


def test_a_body_larger_than_the_ring_has_no_place(own: OwnRing) -> None:
    assert own.place([bytes(SIZE)], SIZE) is None


def test_what_was_overwritten_while_it_was_copied_is_refused(own: OwnRing) -> None:
    place = placed(own, b"old" * 10)
    kept = keep(own)
    reader = ReadRing(kept.reference())

    def slowly(view: memoryview) -> bytes:
        copied = bytes(view)
        own.give_back(place)
        placed(own, b"new" * 10)
        return copied

    with pytest.raises(Overwritten):
        reader.read(place, slowly)
    reader.close()


def test_memory_is_allocated_as_it_is_needed(own: OwnRing) -> None:
    """Given a ring that is hardly used, I expect it to take hardly any memory."""

    def allocated() -> int:
        return Path(f"/proc/self/fd/{own.reference().descriptor}").stat().st_blocks * 512

    assert allocated() == 4096
    own.give_back(placed(own, bytes(10_000)))
    placed(own, bytes(10_000))
    assert allocated() == 3 * 4096


@pytest.mark.parametrize(
    "place", [Place(0, SIZE), Place(SIZE - START - 1, 2), Place(SIZE - START, SIZE), Place(1 << 60, SIZE)]
)
def test_what_is_not_a_place_of_the_ring_is_refused(own: OwnRing, place: Place) -> None:
    kept = keep(own)
    reader = ReadRing(kept.reference())
    for ring in (kept, reader):
        with pytest.raises(ProtocolError):
            ring.read(Place.decode(place.encode()), bytes)
        ring.close()


@pytest.mark.parametrize("encoded", [Place(1 << 62, 1).encode(), Place(0, 0).encode(), b"", bytes(25)])
def test_what_is_not_a_place_is_refused(encoded: bytes) -> None:
    with pytest.raises(ProtocolError):
        Place.decode(encoded)


@pytest.mark.parametrize(
    "encoded",
    [
        None,
        5,
        [1, 1, 100, bytes(16)],
        b"",
        bytes(31),
        Reference(0, 1, 100, bytes(16)).encode(),
        Reference(1 << 31, 1, 100, bytes(16)).encode(),
        Reference(1, 1 << 31, 100, bytes(16)).encode(),
    ],
    ids=str,
)
def test_what_is_not_a_reference_is_refused(encoded: Any) -> None:
    with pytest.raises(ProtocolError):
        Reference.decode(encoded)


def test_a_reader_cannot_write(own: OwnRing) -> None:
    kept = keep(own)
    reader = ReadRing(kept.reference())
    with pytest.raises(TypeError, match="read-only"):
        reader._view[0] = 1
    reader.close()


def not_of_this_token(own: OwnRing, folder: Path) -> Reference:
    return own.reference()._replace(proof=bytes(16))


def known_by_the_mark(own: OwnRing, folder: Path) -> Reference:
    """A consumer knows the mark: it must not be able to have the host open somebody else's ring."""
    return keep(own).reference()._replace(pid=os.getpid(), descriptor=own.reference().descriptor)


def other_memory(own: OwnRing, folder: Path) -> Reference:
    """Sealed memory of this user that is not a ring, with known content."""
    return Reference(os.getpid(), create(SIZE), SIZE, bytes(TOKEN))


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
    descriptor = os.memfd_create(NAME)
    os.ftruncate(descriptor, SIZE)
    return Reference(os.getpid(), descriptor, SIZE, bytes(16))


@pytest.mark.parametrize(
    "make",
    [
        not_of_this_token,
        known_by_the_mark,
        other_memory,
        of_another_size,
        too_small,
        a_file,
        a_fifo,
        unsealed_memory,
    ],
    ids=lambda f: f.__name__,
)
def test_what_is_not_a_ring_is_refused(
    own: OwnRing, tmp_path: Path, make: Callable[[OwnRing, Path], Reference]
) -> None:
    """Given a peer that names something else, I expect an error, no wait, and no descriptor more."""
    reference = make(own, tmp_path)
    before = descriptors()
    with pytest.raises(ProtocolError):
        KeptRing(reference, 1, deque())
    assert HostRings().keep(reference) is None
    if make is not known_by_the_mark:
        with pytest.raises(ProtocolError):
            ReadRing(reference)
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
        KeptRing(own.reference()._replace(pid=pid), 1, deque())
    assert HostRings().keep(own.reference()._replace(pid=pid)) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_cannot_see_it(own: OwnRing) -> None:
    reference = own.reference()

    def look() -> str:
        try:
            KeptRing(reference, 1, deque())
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
        keep(ring)
    ring.close()


def test_a_kept_ring_ends_with_the_last_body() -> None:
    host, own = HostRings(), OwnRing(SIZE)
    kept = host.keep(own.reference())
    assert kept is not None
    body = KeptBody(kept, placed(own, b"0123456789"))
    own.close()
    number, _, part = kept.number, kept.close, body[3:6]
    del kept, _, body
    assert isinstance(part, KeptBody)
    assert (len(part), part.read(), part[3:], bytes(part.view()), list(host.ended)) == (
        3,
        b"345",
        b"",
        b"345",
        [],
    )
    del part
    assert list(host.ended) == [number]


def test_a_body_that_cannot_be_read_is_empty(own: OwnRing) -> None:
    """Given a producer that overwrites what the host keeps, I expect no error in the host."""
    place = placed(own, b"old" * 10)
    body = KeptBody(keep(own), place)
    own.give_back(place)
    placed(own, b"new" * 10)
    assert body.read() == b""
    nowhere = KeptBody(body.ring, Place(SIZE, SIZE))
    assert (nowhere.read(), bytes(nowhere.view())) == (b"", b"")


@pytest.mark.parametrize("value", ["0", "1"])
def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(shared_ring.SWITCH, value)
    host = HostRings()
    about = {"shares": machine_id()}
    assert shared_ring.enabled() is host.reach(about) is (value == "1")
    assert not host.reach({"shares": ""})
    assert not host.reach({"shares": "elsewhere"})
    assert not host.reach({})


def test_a_forked_child_cannot_write_it_and_takes_nothing_away(own: OwnRing) -> None:
    place = placed(own, b"kept")
    kept = keep(own)
    pid = os.fork()
    if not pid:
        written = own.place([b"child"], 5)
        open_ = shared_files(os.getpid())
        os._exit(1 if written or open_ else 0)
    assert os.waitpid(pid, 0)[1] == 0
    reader = ReadRing(kept.reference())
    assert reader.read(place, bytes) == kept.read(place, bytes) == b"kept"
    assert placed(own, b"more")
    reader.close()


def test_memory_that_the_system_does_not_give_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOSPC, "no memory")

    before = descriptors()
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(OSError, match="no memory"):
        OwnRing(SIZE)
    gc.collect()
    assert descriptors() == before


def test_a_ring_that_gets_no_more_memory_goes_on_with_what_it_has(
    own: OwnRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOSPC, "no memory")

    place = placed(own, bytes(3000))
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert own.place([bytes(3000)], 3000) is None
    own.give_back(place)
    assert placed(own, bytes(3000))
    assert own.used == 3000


# -- processes that are killed -----------------------------------------------------------------------


LETTERS = (b"a", b"b", b"c")


def produce() -> None:
    """Place a body of each of three letters, say where, and stay."""
    ring = OwnRing(1 << 20)
    print(
        [tuple(ring.reference()), *(placed(ring, letter * 100_000) for letter in (b"a", b"b", b"c"))],
        flush=True,
    )
    signal.pause()


def keep_it() -> None:
    """Keep the ring that is told of, say what others find it by, and stay."""
    ring = keep_reference(Reference(*eval(input())))
    print(tuple(ring.reference()), flush=True)
    signal.pause()


def keep_reference(reference: Reference) -> KeptRing:
    return KeptRing(reference, 1, deque())


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
        reference, *places = eval(producer.stdout.readline(), {"Place": Place})
        host = run("keep_it", repr(reference))
        assert host.stdout
        kept = Reference(*eval(host.stdout.readline()))
        kill(producer)
        reader = ReadRing(kept)
        assert [reader.read(place, bytes) for place in places] == [
            letter * 100_000 for letter in (b"a", b"b", b"c")
        ]
        kill(host)
        assert reader.read(places[1], bytes) == b"b" * 100_000
        with pytest.raises(OSError):
            ReadRing(kept)
        reader.close()
    finally:
        for child in (producer, host):
            if child and child.poll() is None:
                kill(child)
    assert shared_files(os.getpid()) == set()
